"""``uneventful app``."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from services.cli.client import Client
from services.cli.command import talks
from services.cli.errors import Refused
from services.cli.output import Output

_FIELDS = {
    "name": "name",
    "id": "application_id",
    "omaha id": "omaha_id",
    "product": "product",
    "scheme": "version_scheme",
    "only observes": "observe_only",
    "created": "created_at",
}
_product_option = click.option("--product", help="What people call what it is.")
_scheme_option = click.option(
    "--scheme", type=click.Choice(["flatcar", "semver", "calendar"]), help="How its versions are written and ordered."
)
_observe_option = click.option(
    "--observe-only/--offer",
    "observe_only",
    default=None,
    help="Nodes are seen, and nothing is offered to them: beside another update server.",
)


@click.group()
def app() -> None:
    """Applications: what nodes take updates of."""


@app.command("add")
@click.argument("name")
@click.option("--omaha-id", metavar="APPID", help="The appid that Omaha clients send.")
@_product_option
@_scheme_option
@_observe_option
@talks
async def add(
    client: Client,
    output: Output,
    *,
    name: str,
    omaha_id: str | None,
    product: str | None,
    scheme: str | None,
    observe_only: bool | None,
) -> None:
    """Add an application."""
    asked = {"name": name, "omaha_id": omaha_id, **_settings(product, scheme, observe_only)}
    output.item(await client.post("/applications", asked), _FIELDS)


@app.command("set")
@click.argument("name")
@_product_option
@_scheme_option
@_observe_option
@talks
async def change(
    client: Client,
    output: Output,
    *,
    name: str,
    product: str | None,
    scheme: str | None,
    observe_only: bool | None,
) -> None:
    """Change an application, by name or id."""
    asked = _settings(product, scheme, observe_only)
    if not asked:
        raise Refused("say what is to change: --product, --scheme, --observe-only or --offer")
    output.item(await client.patch(f"/applications/{quote(name, safe='')}", asked), _FIELDS)


def _settings(product: str | None, scheme: str | None, observe_only: bool | None) -> dict[str, Any]:
    given = {"product": product, "version_scheme": scheme, "observe_only": observe_only}
    return {name: value for name, value in given.items() if value is not None}


@app.command("list")
@talks
async def list_all(client: Client, output: Output) -> None:
    """List applications."""
    output.items(
        await client.items("/applications"), _FIELDS, empty="No application yet: `uneventful app add NAME` adds one."
    )


@app.command("show")
@click.argument("name")
@talks
async def show(client: Client, output: Output, *, name: str) -> None:
    """Show an application, by name or id."""
    output.item(await client.get(f"/applications/{quote(name, safe='')}"), _FIELDS)
