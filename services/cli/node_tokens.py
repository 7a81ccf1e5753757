"""``uneventful node token`` and ``uneventful node floods``."""

from __future__ import annotations

import re
from typing import Final

import click

from services.cli.client import Client
from services.cli.command import app_option, reason_option, talks
from services.cli.output import Output

_COLUMNS: Final = {
    "kind": "kind",
    "app": "application",
    "group": "group_name",
    "machine": "machine_id",
    "made by": "created_by",
    "made": "created_at",
    "expires": "expires_at",
    "revoked": "revoked_at",
    "id": "token_id",
}
_FLOODS: Final = {
    "app": "application",
    "kind": "kind",
    "source": "source",
    "dropped": "dropped",
    "first": "first_at",
    "last": "last_at",
}
_SECONDS: Final = {"m": 60, "h": 3_600, "d": 86_400}
_SPAN: Final = re.compile(r"(?P<number>[1-9][0-9]{0,4})(?P<unit>[mhd])", re.ASCII)


def _span(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if found is None:
        raise click.BadParameter("give a number and m, h or d, like 90d")
    return int(found["number"]) * _SECONDS[found["unit"]]


@click.group()
def token() -> None:
    """What nodes prove themselves with: enrolment tokens and path secrets."""


@token.command("create")
@click.option("--app", required=True, metavar="APP", help="The application, by name or id.")
@click.option("--group", help="Make an enrolment token: native nodes that show it join this group.")
@click.option("--path", "is_path", is_flag=True, help="Make a path secret for Omaha nodes.")
@click.option("--machine", metavar="ID", help="A path secret of this machine alone.")
@click.option("--expires-in", "expires_in_s", metavar="SPAN", callback=_span, help="Like 12h or 90d; else never.")
@talks
async def create(
    client: Client,
    output: Output,
    *,
    app: str,
    group: str | None,
    is_path: bool,
    machine: str | None,
    expires_in_s: int | None,
) -> None:
    """Make a token; it is shown this once."""
    if (group is None) != is_path:
        raise click.UsageError("give either --group, for an enrolment token, or --path, for a path secret")
    body = {
        "application": app,
        "kind": "path" if is_path else "enrolment",
        "group": group,
        "machine": machine,
        "expires_in_s": expires_in_s,
    }
    made = await client.post("/node-tokens", {name: value for name, value in body.items() if value is not None})
    output.item(made, {"token": "token", **_COLUMNS})


@token.command("list")
@click.option("--kind", type=click.Choice(["enrolment", "node", "path"]), help="Only these.")
@click.option("--machine", metavar="ID", help="Only those of this machine.")
@click.option("--all", "with_revoked", is_flag=True, help="Those that are revoked or expired too.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True)
@app_option
@talks
async def list_all(
    client: Client,
    output: Output,
    *,
    kind: str | None,
    machine: str | None,
    with_revoked: bool,
    limit: int,
    app: str | None,
) -> None:
    """List tokens; never the secrets."""
    found = await client.items(
        "/node-tokens",
        most=limit,
        application=app,
        kind=kind,
        machine=machine,
        revoked=True if with_revoked else None,
    )
    output.items(found, _COLUMNS, empty="No such token.")


@token.command("revoke")
@click.argument("token_id")
@reason_option
@talks
async def revoke(client: Client, output: Output, *, token_id: str, reason: str) -> None:
    """Take a token out of force for good, by its id."""
    output.item(await client.post(f"/node-tokens/{token_id}/revoke", {"reason": reason}), _COLUMNS)


@click.command("floods")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@app_option
@talks
async def floods(client: Client, output: Output, *, limit: int, app: str | None) -> None:
    """Machine ids and addresses that sent more reports than are taken."""
    found = await client.get("/floods", application=app, limit=limit)
    output.items(found["items"], _FLOODS, empty="No floods.")
