"""``python -m services.simulator --server URL``: a fleet for a while, progress on stderr, the numbers on stdout."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence

import orjson

from services.simulator.fates import FleetPlan
from services.simulator.fleet import Fleet
from services.simulator.node import NodeState, Span, Timing
from services.simulator.settings import Settings
from services.simulator.statistics import FleetStatistics
from shared.errors import UneventfulError
from shared.settings import PREFIX, describe, load


def read_arguments(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[Settings, bool]:
    """Reads the settings from arguments and, where those are silent, from the environment.

    Returns:
        The settings, and whether to print JSON.

    Raises:
        SettingsInvalid: With all faults, by name.
    """
    parser = argparse.ArgumentParser(
        prog="python -m services.simulator",
        description="Simulates nodes that speak to an update server as Flatcar's update_engine does.",
    )
    documented = describe(Settings)
    for setting in documented:
        flag = "--" + setting.name.removeprefix(PREFIX).lower().replace("_", "-")
        default = "" if setting.required or not setting.default else f" (default {setting.default})"
        help_text = f"{setting.doc}{default} [{setting.name}]".replace("%", "%%")
        if setting.name == f"{PREFIX}ALLOW_REMOTE":
            parser.add_argument(flag, dest=setting.name, action="store_const", const="true", help=help_text)
        else:
            parser.add_argument(flag, dest=setting.name, help=help_text)
    parser.add_argument("--json", action="store_true", help="Print the numbers as one line of JSON.")
    given = vars(parser.parse_args(arguments))
    merged = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    merged |= {setting.name: given[setting.name] for setting in documented if given[setting.name] is not None}
    return load(Settings, merged), given["json"]


def progress_line(statistics: FleetStatistics, seconds: float) -> str:
    """One line on how the fleet does."""
    running = " ".join(f"{version}={count}" for version, count in sorted(statistics.running.items()) if count)
    states = " ".join(f"{state.value}={statistics.states[state]}" for state in NodeState if statistics.states[state])
    return (
        f"{seconds:6.1f} s  {running} | {states} | polls {statistics.polls} granted {statistics.grants}"
        f" held {statistics.held} | {statistics.bytes_downloaded / 1e6:.1f} MB"
    )


async def simulate(settings: Settings) -> dict[str, object]:
    """Runs a fleet for the time that the settings name.

    Returns:
        The numbers, ready for JSON.
    """
    fleet = Fleet(
        FleetPlan.from_json(settings.fates),
        settings.server,
        settings.nodes,
        settings.seed,
        settings.time_factor,
        version=settings.version,
        track=settings.track,
        arch=settings.arch,
        application_id=settings.application_id,
        timing=Timing(reboot_after=Span(0.0, settings.reboot_after_s)),
        connections=settings.connections,
        downloads=settings.downloads,
        allow_remote=settings.allow_remote,
    )
    started = time.monotonic()
    async with fleet:
        while (left_s := started + settings.seconds - time.monotonic()) > 0:
            await asyncio.sleep(min(1.0, left_s))
            await fleet.run_until(lambda _statistics: True, 1.0)  # raises if a task of the fleet broke
            sys.stderr.write(progress_line(fleet.statistics, time.monotonic() - started) + "\n")
    seconds = time.monotonic() - started
    rate = fleet.statistics.requests / seconds
    return {**fleet.statistics.as_dict(), "seconds": round(seconds, 3), "requests_per_second": round(rate, 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the simulator.

    Returns:
        The exit status: 2 for settings that are not usable.
    """
    try:
        settings, as_json = read_arguments(sys.argv[1:] if arguments is None else arguments, os.environ)
        numbers = asyncio.run(simulate(settings))
    except UneventfulError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    options = 0 if as_json else orjson.OPT_INDENT_2
    sys.stdout.write(orjson.dumps(numbers, option=options).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
