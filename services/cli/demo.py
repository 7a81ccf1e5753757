"""``uneventful demo``: releases soak, follow by themselves, and are stopped by themselves, on simulated nodes."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from services.cli.command import json_option
from services.cli.demo_stage import Scene
from services.cli.demo_story import Summary, play
from services.cli.demo_view import picture, plain_line, summary_table
from services.cli.target import Options
from services.standalone.settings import Bus


@click.command()
@click.option("--once", is_flag=True, help="No live display: a line now and then, for logs and CI.")
@click.option("--nodes", type=click.IntRange(20, 5_000), default=300, show_default=True, help="Simulated nodes.")
@click.option(
    "--bad-rate",
    type=click.FloatRange(0.0, 1.0),
    default=0.3,
    show_default=True,
    help="The share of nodes that the bad releases make roll back.",
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
    """Take releases through canaries, soak and gate to production by themselves; a bad one stops at the canaries.

    An alpha is noted, a beta soaks on canaries, its fix restarts the soak, the stable release follows to production by
    itself; then a bad beta is halted on the canaries and its fix takes over. All on simulated nodes. Ends with status
    0 only if the good release reached every node, and the bad one was halted before any node of production saw it.
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
        # A live display has to know on how many lines of the screen this stands.
        people.print(Text(line), soft_wrap=not live)

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
            show=lambda scene: display.update(picture(scene, people.width, people.height)),
            say=say,
        )


def _line_now_and_then(say: Callable[[str], None]) -> Callable[[Scene], None]:
    shown = 0
    last = ""

    def show(scene: Scene) -> None:
        nonlocal shown, last
        if not scene.act:
            return
        shown += 1
        line = plain_line(scene)
        if line != last and shown % 12 == 1:
            last = line
            say(line)

    return show
