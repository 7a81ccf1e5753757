"""``uneventful quarantine``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from services.cli.client import Client
from services.cli.command import app_option, arch_option, reason_option, talks
from services.cli.confirm import confirm, yes_option
from services.cli.output import Output

_COLUMNS: Mapping[str, Any] = {
    "version": "version",
    "arch": "arch",
    "app": "application",
    "reason": "reason",
    "nodes": "nodes",
    "last": "last_at",
    "machines": "machines",
}


@click.group()
def quarantine() -> None:
    """Quarantines: changesets that are not offered again to nodes on which they failed."""


@quarantine.command("list")
@click.option("--changeset", metavar="VERSION", help="A changeset, by version or id.")
@click.option("--group", help="A group, by name or id.")
@app_option
@talks
async def list_all(
    client: Client, output: Output, *, changeset: str | None, group: str | None, app: str | None
) -> None:
    """List quarantines by changeset and reason."""
    found = await client.items(
        "/quarantines",
        application=app,
        changeset=None if changeset is None else await client.changeset_id(changeset, app=app),
        group=None if group is None else await client.group_id(group, app=app),
    )
    output.items(found, _COLUMNS, empty="Nothing is quarantined.")


@quarantine.command("lift")
@click.argument("version")
@click.option("--node", "machines", multiple=True, metavar="MACHINE", help="Only from this machine.")
@click.option("--all", "everything", is_flag=True, help="From all nodes.")
@reason_option
@app_option
@arch_option
@yes_option
@talks
async def lift(
    client: Client,
    output: Output,
    *,
    version: str,
    machines: tuple[str, ...],
    everything: bool,
    reason: str,
    app: str | None,
    arch: str | None,
    yes: bool,
) -> None:
    """Let the changeset VERSION be offered again to nodes on which it failed."""
    if bool(machines) == everything:
        raise click.UsageError("say from whom: --node MACHINE, or --all")
    changeset = await client.get(f"/changesets/{await client.changeset_id(version, app=app, arch=arch)}")
    body = {
        "application": changeset["application"],
        "changeset": changeset["changeset_id"],
        "machines": machines,
        "reason": reason,
    }
    if everything:
        tried = await client.post("/quarantines/lift", body, dry_run=True)
        count = tried["lifted"] + tried["left"]
        if count:
            confirm(output, f"{version} will be offered again to {count} nodes on which it failed.", yes=yes)
    lifted = 0
    while True:
        done = await client.post("/quarantines/lift", body)
        lifted += done["lifted"]
        if not everything or not done["left"] or not done["lifted"]:
            break
    output.item({"lifted": lifted, "left": done["left"]}, {"lifted": "lifted", "left": "left"})
