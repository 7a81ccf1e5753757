"""``uneventful approval``: what needs another pair of eyes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from services.cli.client import Client
from services.cli.command import reason_option, talks
from services.cli.output import Output, Shown

STATES: Final = ("open", "approved", "refused", "used", "expired")
_COLUMNS: Final = {
    "approval": "approval_id",
    "state": "state",
    "action": "action",
    "of": "subject",
    "asked by": "asked_by",
    "why": "reason",
    "until": "expires_at",
    "decided by": "decided_by",
}
_FIELDS: Final[Mapping[str, str | Shown]] = {
    **_COLUMNS,
    "asked": "asked_at",
    "decided": "decided_at",
    "their reason": "decision_reason",
    "request": lambda approval: f"{approval['request'].get('method')} {approval['request'].get('path')}",
    "body": "request.body",
}


@click.group()
def approval() -> None:
    """What one asks for and another one has to allow, where a group's policy wants four eyes."""


@approval.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@talks
async def list_all(client: Client, output: Output, *, state: str | None) -> None:
    """List approvals, the newest first."""
    output.items(await client.items("/approvals", state=state), _COLUMNS, empty="Nothing waits for an approval.")


@approval.command("show")
@click.argument("approval_id")
@talks
async def show(client: Client, output: Output, *, approval_id: str) -> None:
    """Show one, with the request that it would allow."""
    output.item(await client.get(f"/approvals/{approval_id}"), _FIELDS)


@approval.command("approve")
@click.argument("approval_id")
@reason_option
@talks
async def approve(client: Client, output: Output, *, approval_id: str, reason: str) -> None:
    """Allow what somebody else asked for; who asked then repeats the command with --approval."""
    output.item(await client.post(f"/approvals/{approval_id}/approve", {"reason": reason}), _FIELDS)


@approval.command("refuse")
@click.argument("approval_id")
@reason_option
@talks
async def refuse(client: Client, output: Output, *, approval_id: str, reason: str) -> None:
    """Refuse what somebody else asked for."""
    output.item(await client.post(f"/approvals/{approval_id}/refuse", {"reason": reason}), _FIELDS)
