"""``uneventful demo``: a bad release is stopped by itself, before your eyes, on simulated nodes."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.cli.command import json_option
from services.cli.demo_story import Scene, Summary, play
from services.cli.target import Options
from services.standalone.settings import Bus


@click.command()
@click.option("--once", is_flag=True, help="No live display: a line now and then, for logs and CI.")
@click.option("--nodes", type=click.IntRange(64, 5_000), default=300, show_default=True, help="Simulated nodes.")
@click.option(
    "--bad-rate",
    type=click.FloatRange(0.0, 1.0),
    default=0.3,
    show_default=True,
    help="The share of nodes that the bad release makes roll back.",
)
@click.option(
    "--bus",
    type=click.Choice([str(bus) for bus in Bus]),
    default=str(Bus.AUTO),
    show_default=True,
    help="Whether there is a broker.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Fates, jitter and payloads.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep everything in this new directory; else a temporary one, removed at the end.",
)
@json_option
@click.pass_obj
def command(
    options: Options, *, once: bool, nodes: int, bad_rate: float, bus: str, seed: int, data: Path | None, as_json: bool
) -> None:
    """Roll out a good release and a bad one to simulated nodes; the bad one is halted by itself.

    Ends with status 0 only if the good release reached every node and the bad one was halted.
    """
    as_json = as_json or options.as_json
    people = Console(stderr=as_json, highlight=False)
    live = not once and people.is_terminal
    directory = _directory(data)
    try:
        summary = asyncio.run(
            _run(people, directory, nodes=nodes, bad_rate=bad_rate, bus=Bus(bus), seed=seed, live=live)
        )
    finally:
        if data is None:
            shutil.rmtree(directory, ignore_errors=True)
    people.print(summary_table(summary))
    if as_json:
        click.echo(msgspec.json.encode(summary).decode())
    sys.exit(0 if summary.ok else 1)


def _directory(data: Path | None) -> Path:
    if data is None:
        made = Path(tempfile.mkdtemp(prefix="uneventful-demo-"))
        # Postgres runs as another user, who must be able to pass.
        made.chmod(0o711)
        return made
    if data.exists() and any(data.iterdir()):
        raise click.UsageError(f"{data} is not empty: the demo wants a directory of its own.")
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o711)
    return data


async def _run(people: Console, data: Path, *, nodes: int, bad_rate: float, bus: Bus, seed: int, live: bool) -> Summary:
    def say(line: str) -> None:
        people.print(Text(line), soft_wrap=True)

    if not live:
        return await play(
            data=data, nodes=nodes, bad_rate=bad_rate, bus=bus, seed=seed, show=_line_now_and_then(say), say=say
        )
    with Live(console=people, refresh_per_second=6, transient=True) as display:
        return await play(
            data=data,
            nodes=nodes,
            bad_rate=bad_rate,
            bus=bus,
            seed=seed,
            show=lambda scene: display.update(picture(scene)),
            say=say,
        )


def _line_now_and_then(say: Callable[[str], None]) -> Callable[[Scene], None]:
    shown = 0
    last = ""

    def show(scene: Scene) -> None:
        nonlocal shown, last
        shown += 1
        line = plain_line(scene)
        if line != last and shown % 8 == 1:
            last = line
            say(line)

    return show


def plain_line(scene: Scene) -> str:
    """The scene in one line."""
    statistics, rollout = scene.statistics, scene.rollout
    if rollout is None or not scene.version:
        return f"{scene.act}: {statistics.polls if statistics is not None else 0} polls"
    running = statistics.running[scene.version] if statistics is not None else 0
    attempts = rollout["attempts"]
    return (
        f"{scene.act}: {running} of {rollout['nodes']['total']} nodes run it, "
        f"{rollout['changeset_in_flight']} in flight at pace {rollout['gate']['pace']}, "
        f"{attempts.get('rolled_back', 0)} rolled back; {_evidence(rollout)[0]}"
    )


def picture(scene: Scene) -> RenderableType:
    """The scene as a panel: progress, pace, counts, and the evidence against the threshold."""
    statistics, rollout = scene.statistics, scene.rollout
    if rollout is None or statistics is None or not scene.version:
        return Panel(Text(plain_line(scene)), title=scene.act)
    attempts, total = rollout["attempts"], max(1, rollout["nodes"]["total"])
    running = statistics.running[scene.version]
    words, share = _evidence(rollout)
    pace = max(1, rollout["gate"]["pace"])
    bars = Table.grid(padding=(0, 2))
    bars.add_column(style="bold", no_wrap=True)
    bars.add_column(width=44)
    bars.add_column()
    bars.add_row("nodes", ProgressBar(total=total, completed=running, width=44), f"{running} of {total} run it")
    bars.add_row(
        "pace",
        ProgressBar(total=pace, completed=min(pace, rollout["changeset_in_flight"]), width=44),
        f"{rollout['changeset_in_flight']} of {rollout['gate']['pace']} in flight",
    )
    bars.add_row("evidence", ProgressBar(total=1.0, completed=share, width=44, complete_style="red"), words)
    states = ", ".join(f"{count} {state}" for state, count in attempts.items() if count)
    lines: list[RenderableType] = [bars, Text(f"attempts: {states or 'none yet'}")]
    if rollout["state"] == "halted":
        lines.append(Text(f"HALTED: {rollout['reason']}", style="bold red"))
    elif rollout["standstill"] is not None:
        lines.append(Text(f"stands still: {rollout['explanation']}", style="yellow"))
    return Panel(Group(*lines), title=f"{scene.act} ({rollout['state']})")


def _evidence(rollout: Any) -> tuple[str, float]:
    evidence = rollout.get("evidence")
    if not evidence:
        return "no evidence yet", 0.0
    ln_e, threshold = float(evidence["ln_e"]), float(evidence["threshold"])
    return f"ln E {ln_e:+.2f} of {threshold:.2f} that halt", min(1.0, max(0.0, ln_e / threshold))


def summary_table(summary: Summary) -> RenderableType:
    """What came of it, for people."""
    good, bad = summary.good, summary.bad
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(
        f"{good.version} (good)",
        f"{good.committed} of {summary.nodes} nodes committed it, {good.rolled_back} rolled back, "
        f"in {good.seconds:g} s",
    )
    table.add_row(
        f"{bad.version} (bad)",
        f"{bad.nodes_exposed} nodes booted it, {bad.rolled_back} of them rolled back, {bad.committed} committed it",
    )
    if bad.halted:
        table.add_row("halted", bad.reason or "")
        table.add_row("", f"{bad.report_to_halt_ms:g} ms after the report that decided")
        if bad.report_to_first_refusal_ms is not None:
            table.add_row("", f"{bad.report_to_first_refusal_ms:g} ms until the first poll was refused")
        table.add_row("", f"{bad.granted_after_halt} offers after the halt")
    else:
        table.add_row("halted", "no")
    table.add_row(
        "ledger",
        f"{summary.events_in_ledger} events, hash chain {'verifies' if summary.ledger_verified else 'IS BROKEN'}",
    )
    table.add_row("took", f"{summary.seconds:g} s, bus {summary.bus}")
    return Panel(table, title="uneventful" if summary.ok else "something is wrong")
