"""``uneventful app``."""

from __future__ import annotations

from urllib.parse import quote

import click

from services.cli.client import Client
from services.cli.command import talks
from services.cli.output import Output

_FIELDS = {"name": "name", "id": "application_id", "omaha id": "omaha_id", "created": "created_at"}


@click.group()
def app() -> None:
    """Applications: what nodes take updates of."""


@app.command("add")
@click.argument("name")
@click.option("--omaha-id", metavar="APPID", help="The appid that Omaha clients send.")
@talks
async def add(client: Client, output: Output, *, name: str, omaha_id: str | None) -> None:
    """Add an application."""
    output.item(await client.post("/applications", {"name": name, "omaha_id": omaha_id}), _FIELDS)


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
