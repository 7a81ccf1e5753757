"""``uneventful node``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from services.cli.client import Client
from services.cli.command import app_option, arch_option, reason_option, talks
from services.cli.node_tokens import floods, token
from services.cli.output import Output
from services.cli.text import cell

_COLUMNS = {
    "machine": "machine_id",
    "group": "group_name",
    "version": "version",
    "arch": "arch",
    "state": "state",
    "cloned": "cloned",
    "address": "address",
    "last contact": "last_contact_at",
    "id": "node_id",
}


def _attempts(item: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{cell(attempt['granted_at'])} {cell(attempt['from_version'])} -> {cell(attempt['to_version'])}: "
        f"{attempt['state']}{', parked' if attempt['parked'] else ''}"
        f"{' (' + cell(attempt['reason']) + ')' if attempt['reason'] else ''}"
        for attempt in item["attempts"]
    )


def _quarantines(item: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{cell(one['version'])} since {cell(one['since'])}: {cell(one['reason'])}" for one in item["quarantines"]
    )


_FIELDS: Mapping[str, Any] = {
    **_COLUMNS,
    "boot id": "boot_id",
    "booted": "boot_seen_at",
    "first seen": "first_seen_at",
    "gone": "gone_at",
    "facts": "facts",
    "attempts": _attempts,
    "quarantined for": _quarantines,
}


@click.group()
def node() -> None:
    """Nodes: machines of an application."""


node.add_command(token)
node.add_command(floods)


@node.command("list")
@click.option("--group", help="A group, by name or id.")
@click.option("--version", help="What they run.")
@click.option("--state", help="The state of their last attempt, like committed or rolled_back.")
@click.option("--cloned", is_flag=True, help="Only those whose machine id several machines use.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True)
@app_option
@talks
async def list_all(
    client: Client,
    output: Output,
    *,
    group: str | None,
    version: str | None,
    state: str | None,
    limit: int,
    app: str | None,
    cloned: bool,
) -> None:
    """List nodes."""
    group_id = None if group is None else await client.group_id(group, app=app)
    found = await client.items(
        "/nodes",
        most=limit,
        application=app,
        group=group_id,
        version=version,
        state=state,
        cloned=True if cloned else None,
    )
    output.items(found, _COLUMNS, empty="No such node.")


@node.command("show")
@click.argument("machine")
@app_option
@talks
async def show(client: Client, output: Output, *, machine: str, app: str | None) -> None:
    """Show a node with its facts, attempts and quarantines, by machine id or node id."""
    output.item(await client.get(f"/nodes/{await client.node_id(machine, app=app)}"), _FIELDS)


@node.command("lift")
@click.argument("machine")
@click.argument("version")
@reason_option
@app_option
@arch_option
@talks
async def lift(
    client: Client, output: Output, *, machine: str, version: str, reason: str, app: str | None, arch: str | None
) -> None:
    """Let the changeset VERSION be offered to a node again after it rolled back."""
    node_id = await client.node_id(machine, app=app)
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    body = {"changeset": changeset_id, "reason": reason}
    output.item(await client.post(f"/nodes/{node_id}/quarantine/lift", body), _FIELDS)
