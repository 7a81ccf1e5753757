"""``uneventful status``."""

from __future__ import annotations

import asyncio
import sys

import click
from rich.live import Live

from services.cli.client import Client
from services.cli.command import app_option, talks
from services.cli.output import Output
from services.cli.status_view import screen


@click.command()
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--every", type=click.FloatRange(0.2, 3_600), default=2.0, show_default=True, help="Seconds between looks."
)
@app_option
@talks
async def status(client: Client, output: Output, *, watch: bool, every: float, app: str | None) -> None:
    """Show what waits for whom, how rollouts get on, and whether ledger and analysis keep up."""
    found = await client.get("/status", application=app)
    if not watch:
        output.json(found) if output.as_json else output.console.print(screen(found))
        return
    if output.as_json or not sys.stdout.isatty():
        while True:
            output.line(found) if output.as_json else output.console.print(screen(found))
            await asyncio.sleep(every)
            found = await client.get("/status", application=app)
    with Live(screen(found), console=output.console, auto_refresh=False, screen=True) as live:
        while True:
            await asyncio.sleep(every)
            live.update(screen(await client.get("/status", application=app)), refresh=True)
