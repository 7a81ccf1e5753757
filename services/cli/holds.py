"""``uneventful hold``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from services.cli.client import Client
from services.cli.command import app_option, arch_option, reason_option, talks
from services.cli.output import Output
from services.cli.text import selector_of

_COLUMNS: Mapping[str, Any] = {
    "version": "version",
    "arch": "arch",
    "segment": "segment",
    "reason": "reason",
    "held by": "held_by",
    "held": "held_at",
    "released": "released_at",
    "id": "hold_id",
}


def _covers(item: Mapping[str, Any]) -> str:
    covers = item["covers"]
    return (
        f"{covers['nodes']} nodes, of which {covers['untold']} do not tell the fact; {covers['on_version']} run the "
        f"version already, {covers['under_way']} have it under way"
    )


_FIELDS: Mapping[str, Any] = {
    **_COLUMNS,
    "covers": _covers,
    "released by": "released_by",
    "release reason": "release_reason",
}


def _segment(pairs: tuple[str, ...]) -> dict[str, str]:
    try:
        facts = selector_of(pairs)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--segment") from fault
    for fact, values in facts.items():
        if len(values) > 1:
            raise click.BadParameter(f"{fact} has several values: hold each by itself", param_hint="--segment")
    return {fact: value for fact, (value,) in facts.items()}


@click.group()
def hold() -> None:
    """Holds: no more of a changeset for the nodes of a segment."""


@hold.command("add")
@click.argument("version")
@click.option(
    "--segment", multiple=True, required=True, metavar="FACT=VALUE", help="Whom; several facts must all hold."
)
@reason_option
@app_option
@arch_option
@click.option("--dry-run", is_flag=True, help="Only show how many nodes it would cover.")
@talks
async def add(
    client: Client,
    output: Output,
    *,
    version: str,
    segment: tuple[str, ...],
    reason: str,
    app: str | None,
    arch: str | None,
    dry_run: bool,
) -> None:
    """Hold the changeset VERSION for a segment; nodes that do not tell one of its facts belong to it."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    body = {"segment": _segment(segment), "reason": reason}
    path = f"/changesets/{changeset_id}/holds"
    output.item(await client.post(path, body, dry_run=True if dry_run else None), _FIELDS)


@hold.command("list")
@click.option("--all", "everything", is_flag=True, help="Those too that were released.")
@app_option
@talks
async def list_all(client: Client, output: Output, *, app: str | None, everything: bool) -> None:
    """List holds that are in force, the newest first."""
    found = await client.items("/holds", application=app, in_force=None if everything else True)
    output.items(found, _COLUMNS, empty="Nothing is held.")


@hold.command("show")
@click.argument("hold_id", metavar="ID")
@talks
async def show(client: Client, output: Output, *, hold_id: str) -> None:
    """Show a hold with how many nodes it covers."""
    output.item(await client.get(f"/holds/{hold_id}"), _FIELDS)


@hold.command("release")
@click.argument("hold_id", metavar="ID")
@reason_option
@talks
async def release(client: Client, output: Output, *, hold_id: str, reason: str) -> None:
    """Let the segment be offered the changeset again."""
    output.item(await client.post(f"/holds/{hold_id}/release", {"reason": reason}), _FIELDS)
