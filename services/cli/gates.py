"""``uneventful halt`` and ``unhalt``: everything at once."""

from __future__ import annotations

import click

from services.cli.client import Client
from services.cli.command import reason_option, talks
from services.cli.output import Output

_FIELDS = {"open": "open", "reason": "reason", "policy version": "policy_version"}


@click.command()
@click.option("--all", "everything", is_flag=True, help="Halt everything: no node is offered anything.")
@click.option("--reason", help="Why; stands in the event.")
@talks
async def halt(client: Client, output: Output, *, reason: str | None, everything: bool) -> None:
    """Halt everything (--all), or show whether everything is halted.

    One changeset is halted by `uneventful changeset halt`.
    """
    if everything and not reason:
        raise click.UsageError("--all needs --reason")
    if reason and not everything:
        raise click.UsageError("--reason goes with --all; one changeset is halted by `uneventful changeset halt`")
    output.item(await client.post("/halt", {"reason": reason}) if everything else await client.get("/halt"), _FIELDS)


@click.command()
@reason_option
@talks
async def unhalt(client: Client, output: Output, *, reason: str) -> None:
    """Let everything go on after `halt --all`; what was halted by itself stays halted."""
    output.item(await client.post("/unhalt", {"reason": reason}), _FIELDS)
