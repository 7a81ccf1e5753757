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
from services.cli.rollout_view import GATE_COLUMNS, is_over, lines, news, would
from services.cli.text import ATTEMPT_STATES, tally

WATCH_EVERY_S = 0.5

_COLUMNS: Mapping[str, Any] = {
    "version": "version",
    "arch": "arch",
    "group": "group_name",
    "purpose": "purpose",
    "state": "shown",
    "of the group": lambda item: f"{item['fraction']:.0%}",
    "pace": "pace",
    "gate": "gate_state",
    "attempts": lambda item: tally(item["attempts"], ATTEMPT_STATES),
    "changed": "changed_at",
    "id": "rollout_id",
}


def _show(output: Output, item: Mapping[str, Any]) -> None:
    if output.as_json:
        output.json(item)
        return
    output.console.print(pairs(lines(item)))
    if item["gates"]:
        output.say("")
        output.items(item["gates"], GATE_COLUMNS, empty="")


@click.group()
def rollout() -> None:
    """Rollouts: one changeset to one group. ROLLOUT is an id, or a group's name for its active rollout."""


@rollout.command("list")
@click.option("--state", help="Like waiting_for_gate, running, halted or completed.")
@click.option("--group", help="A group, by name or id.")
@click.option("--changeset", metavar="VERSION", help="A changeset, by version or id.")
@click.option("--purpose", help="update, floor, downgrade or drill.")
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
    purpose: str | None,
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
        purpose=purpose,
    )
    output.items(found, _COLUMNS, empty="No rollout: `uneventful channel promote` starts some.")


@rollout.command("show")
@click.argument("rollout")
@app_option
@talks
async def show(client: Client, output: Output, *, rollout: str, app: str | None) -> None:
    """Show a rollout: counts, paces, evidence, and why nothing happens."""
    _show(output, await client.get(f"/rollouts/{await client.rollout_id(rollout, app=app)}"))


dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would happen.")


async def _do(client: Client, output: Output, *, path: str, body: Mapping[str, Any], dry_run: bool = False) -> None:
    answer = await client.post(path, body, dry_run=True if dry_run else None)
    if not dry_run:
        _show(output, answer)
    elif output.as_json:
        output.json(answer)
    else:
        for event in answer["would"]:
            output.say(would(event))
        output.say("Nothing was changed." if answer["would"] else "Nothing would change.")


def _verb(name: str, summary: str, *, moves: bool) -> None:
    """Adds a command that does one thing to a rollout, for a reason; with a dry run where it moves nodes."""

    async def act(
        client: Client, output: Output, *, rollout: str, reason: str, app: str | None, dry_run: bool = False
    ) -> None:
        rollout_id = await client.rollout_id(rollout, app=app)
        await _do(client, output, path=f"/rollouts/{rollout_id}/{name}", body={"reason": reason}, dry_run=dry_run)

    act.__doc__ = summary
    command = app_option(talks(act))
    if moves:
        command = dry_run_option(command)
    rollout.command(name)(click.argument("rollout")(reason_option(command)))


_verb("halt", "Halt a rollout; `uneventful changeset halt` halts a changeset in all groups.", moves=False)
_verb("pause", "Offer no more until it is resumed.", moves=False)
_verb("resume", "Let a paused, halted or braked rollout go on; one that had not begun waits again.", moves=True)
_verb("approve", "Let a rollout go on that waits for an approver.", moves=True)
_verb("expedite", "Relax soak, waves and windows within the policy's bounds, for a security fix.", moves=True)


@rollout.command("abort")
@click.argument("rollout")
@click.option("--revert", is_flag=True, help="Bring the nodes that took it back to what their channel had before.")
@reason_option
@dry_run_option
@app_option
@talks
async def abort(
    client: Client, output: Output, *, rollout: str, revert: bool, reason: str, dry_run: bool, app: str | None
) -> None:
    """End a rollout for good; nodes that took it keep it, or go back."""
    rollout_id = await client.rollout_id(rollout, app=app)
    body = {"reason": reason, "nodes": "revert" if revert else "keep"}
    await _do(client, output, path=f"/rollouts/{rollout_id}/abort", body=body, dry_run=dry_run)


@rollout.command("widen")
@click.argument("rollout")
@click.option("--fraction", type=click.FloatRange(0, 1, min_open=True), help="The share of the group to let in.")
@reason_option
@dry_run_option
@app_option
@talks
async def widen(
    client: Client, output: Output, *, rollout: str, fraction: float | None, reason: str, dry_run: bool, app: str | None
) -> None:
    """Begin the next wave now, or let a larger share of the group in; the pace holds all the same."""
    rollout_id = await client.rollout_id(rollout, app=app)
    body = {"reason": reason, **({} if fraction is None else {"fraction": fraction})}
    await _do(client, output, path=f"/rollouts/{rollout_id}/widen", body=body, dry_run=dry_run)


@rollout.command("cap")
@click.argument("rollout")
@click.argument("pace", metavar="NODES|none")
@reason_option
@app_option
@talks
async def cap(client: Client, output: Output, *, rollout: str, pace: str, reason: str, app: str | None) -> None:
    """Bound the nodes of the group in flight below the analysis' pace; `none` takes the cap away."""
    if pace != "none" and not (pace.isascii() and pace.isdigit()):
        raise click.BadParameter("give a number of nodes, or none", param_hint="NODES")
    rollout_id = await client.rollout_id(rollout, app=app)
    body = {"reason": reason, "pace": None if pace == "none" else int(pace)}
    await _do(client, output, path=f"/rollouts/{rollout_id}/cap", body=body)


def _on_node(name: str, summary: str) -> None:
    """Adds a command about one node in a rollout."""

    async def act(
        client: Client, output: Output, *, rollout: str, node: str, reason: str, app: str | None, dry_run: bool
    ) -> None:
        rollout_id = await client.rollout_id(rollout, app=app)
        body = {"reason": reason, "node": node}
        await _do(client, output, path=f"/rollouts/{rollout_id}/{name}", body=body, dry_run=dry_run)

    act.__doc__ = summary
    command = reason_option(dry_run_option(app_option(talks(act))))
    rollout.command(name)(click.argument("rollout")(click.argument("node")(command)))


_on_node("exclude", "Offer the changeset to a node no more in this rollout; NODE is its id or machine id.")
_on_node("include", "Offer the changeset to an excluded node again.")


@rollout.command("drill")
@click.argument("group")
@click.option("--node", required=True, help="A node of the group, by id or machine id.")
@reason_option
@dry_run_option
@app_option
@talks
async def drill(
    client: Client, output: Output, *, group: str, node: str, reason: str, dry_run: bool, app: str | None
) -> None:
    """Send one node to another slot and back, on purpose, so that both ways are known to work."""
    group_id = await client.group_id(group, app=app)
    await _do(client, output, path=f"/groups/{group_id}/drill", body={"reason": reason, "node": node}, dry_run=dry_run)


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
