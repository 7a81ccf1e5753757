"""``uneventful token``: operators' tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import click

from services.cli.client import Client
from services.cli.command import reason_option, talks
from services.cli.output import Output, Shown
from services.cli.text import end_of_span

ROLES: Final = ("viewer", "operator", "approver", "admin")
_COLUMNS: Final[Mapping[str, str | Shown]] = {
    "token": "name",
    "role": "role",
    "apps": lambda token: token["applications"] or "all",
    "made by": "created_by",
    "made": "created_at",
    "expires": "expires_at",
    "revoked": "revoked_at",
    "used": "last_used_at",
}


def _end(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    try:
        return None if text is None else end_of_span(text)
    except ValueError as fault:
        raise click.BadParameter(str(fault)) from fault


expires_option = click.option(
    "--expires-in", "expires_at", metavar="SPAN", callback=_end, help="Like 12h or 90d; else it does not change."
)


@click.group()
def token() -> None:
    """Operators' tokens: who may look, change, approve, and make tokens."""


@token.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True, help="What it may do.")
@click.option("--app", "apps", multiple=True, metavar="APP", help="Only this application; may be given again.")
@click.option("--expires-in", "expires_at", metavar="SPAN", callback=_end, help="Like 12h or 90d; else never.")
@talks
async def create(
    client: Client, output: Output, *, name: str, role: str, apps: tuple[str, ...], expires_at: str | None
) -> None:
    """Make a token for NAME; its secret is printed this once."""
    body: dict[str, Any] = {"name": name, "role": role, "expires_at": expires_at, "applications": list(apps) or None}
    _show(output, await client.post("/tokens", body))


@token.command("list")
@talks
async def list_all(client: Client, output: Output) -> None:
    """List tokens, without their secrets."""
    output.items(await client.items("/tokens"), _COLUMNS, empty="No token: `uneventful token create` makes one.")


@token.command("revoke")
@click.argument("name")
@reason_option
@talks
async def revoke(client: Client, output: Output, *, name: str, reason: str) -> None:
    """Make a token worthless for good."""
    output.item(await client.post(f"/tokens/{quote(name, safe='')}/revoke", {"reason": reason}), _COLUMNS)


@token.command("rotate")
@click.argument("name")
@expires_option
@reason_option
@talks
async def rotate(client: Client, output: Output, *, name: str, reason: str, expires_at: str | None) -> None:
    """Give a token another secret, which is printed this once; the old one is worthless within seconds."""
    body = {"reason": reason, "expires_at": expires_at}
    _show(output, await client.post(f"/tokens/{quote(name, safe='')}/rotate", body))


def _show(output: Output, made: dict[str, Any]) -> None:
    output.item(made, {**_COLUMNS, "secret": "token"})
    if not output.as_json:
        output.say("The secret is shown this once: put it into a file, and name that by --token-file.")
