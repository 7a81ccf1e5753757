"""``uneventful rollout``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar

from services.cli.client import Client
from services.cli.command import app_option, reason_option, talks
from services.cli.output import Output, pairs
from services.cli.rollout_view import is_over, lines, news
from services.cli.text import ATTEMPT_STATES, tally

WATCH_EVERY_S = 0.5

_COLUMNS: Mapping[str, Any] = {
    "version": "version",
    "arch": "arch",
    "group": "group_name",
    "state": "state",
    "pace": "pace",
    "gate": "gate_state",
    "attempts": lambda item: tally(item["attempts"], ATTEMPT_STATES),
    "changed": "changed_at",
    "id": "rollout_id",
}


def _show(output: Output, item: Mapping[str, Any]) -> None:
    if output.as_json:
        output.json(item)
    else:
        output.console.print(pairs(lines(item)))


@click.group()
def rollout() -> None:
    """Rollouts: one changeset to one group. ROLLOUT is an id, or a group's name for its active rollout."""


@rollout.command("list")
@click.option("--state", help="Like running, halted or completed.")
@click.option("--group", help="A group, by name or id.")
@click.option("--changeset", metavar="VERSION", help="A changeset, by version or id.")
@click.option("--active", is_flag=True, help="Only those that are not over.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@app_option
@talks
async def list_all(
    client: Client,
    output: Output,
    *,
    state: str | None,
    group: str | None,
    changeset: str | None,
    limit: int,
    app: str | None,
    active: bool,
) -> None:
    """List rollouts, the newest first."""
    found = await client.items(
        "/rollouts",
        most=limit,
        state=state,
        group=None if group is None else await client.group_id(group, app=app),
        changeset=None if changeset is None else await client.changeset_id(changeset, app=app),
        active=True if active else None,
    )
    output.items(found, _COLUMNS, empty="No rollout: `uneventful channel promote` starts some.")


@rollout.command("show")
@click.argument("rollout")
@app_option
@talks
async def show(client: Client, output: Output, *, rollout: str, app: str | None) -> None:
    """Show a rollout: counts, paces, evidence, and why nothing happens."""
    _show(output, await client.get(f"/rollouts/{await client.rollout_id(rollout, app=app)}"))


async def _move(client: Client, output: Output, *, rollout: str, verb: str, reason: str, app: str | None) -> None:
    rollout_id = await client.rollout_id(rollout, app=app)
    _show(output, await client.post(f"/rollouts/{rollout_id}/{verb}", {"reason": reason}))


@rollout.command("halt")
@click.argument("rollout")
@reason_option
@app_option
@talks
async def halt(client: Client, output: Output, *, rollout: str, reason: str, app: str | None) -> None:
    """Halt a rollout; `uneventful changeset halt` halts a changeset in all groups."""
    await _move(client, output, rollout=rollout, verb="halt", reason=reason, app=app)


@rollout.command("pause")
@click.argument("rollout")
@reason_option
@app_option
@talks
async def pause(client: Client, output: Output, *, rollout: str, reason: str, app: str | None) -> None:
    """Offer no more until it is resumed."""
    await _move(client, output, rollout=rollout, verb="pause", reason=reason, app=app)


@rollout.command("resume")
@click.argument("rollout")
@reason_option
@app_option
@talks
async def resume(client: Client, output: Output, *, rollout: str, reason: str, app: str | None) -> None:
    """Let a paused, halted or braked rollout go on."""
    await _move(client, output, rollout=rollout, verb="resume", reason=reason, app=app)


@rollout.command("abort")
@click.argument("rollout")
@reason_option
@app_option
@talks
async def abort(client: Client, output: Output, *, rollout: str, reason: str, app: str | None) -> None:
    """End a rollout for good."""
    await _move(client, output, rollout=rollout, verb="abort", reason=reason, app=app)


@rollout.command("watch")
@click.argument("rollout")
@app_option
@talks
async def watch(client: Client, output: Output, *, rollout: str, app: str | None) -> None:
    """Watch a rollout until it is completed, halted, aborted or superseded."""
    path = f"/rollouts/{await client.rollout_id(rollout, app=app)}"
    item = await client.get(path)
    if output.as_json or not sys.stdout.isatty():
        told = None
        while True:
            if news(item) != told:
                told = news(item)
                output.line(item) if output.as_json else output.say(told)
            if is_over(item):
                return
            await asyncio.sleep(WATCH_EVERY_S)
            item = await client.get(path)
    with Live(_screen(item), console=output.console, refresh_per_second=4) as live:
        while not is_over(item):
            await asyncio.sleep(WATCH_EVERY_S)
            item = await client.get(path)
            live.update(_screen(item))


def _screen(item: Mapping[str, Any]) -> RenderableType:
    nodes = item["nodes"]
    bar = ProgressBar(total=max(1, nodes["total"]), completed=nodes["on_target"], width=60)
    return Group(pairs(lines(item)), bar)
