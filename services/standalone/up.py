"""``uneventful up``: everything on this machine, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from typing import TextIO

import msgspec

from services.standalone.settings import SERVICES, Settings
from services.standalone.supervisor import Ready, Supervisor
from shared.errors import InvalidInput, UneventfulError


def parse_extra(assignments: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Reads ``service.NAME=value`` options into variables per service: ``UNEVENTFUL_NAME`` for that service.

    Raises:
        InvalidInput: Not of that form, or no such service.
    """
    known = {service.name for service in SERVICES}
    extra: dict[str, dict[str, str]] = {}
    for assignment in assignments:
        target, equals, value = assignment.partition("=")
        service, dot, name = target.partition(".")
        if not (equals and dot and name) or service not in known:
            raise InvalidInput(
                f"--set {assignment}: write service.NAME=value, with one of the services {', '.join(sorted(known))}."
            )
        extra.setdefault(service, {})[f"UNEVENTFUL_{name.upper()}"] = value.replace("{", "{{").replace("}", "}}")
    return extra


def summary(ready: Ready) -> str:
    """What runs and where, as a table for people."""
    rows = [
        (name, service.url if name not in {"event_log", "rollback_analysis"} else "-", service.status_url)
        for name, service in ready.services.items()
    ]
    rows.insert(0, ("SERVICE", "URL", "STATUS (/readyz, /metrics)"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [
        "",
        f"Omaha clients:  server = {ready.services['update_check'].url}/v1/update/",
        f"PostgreSQL:     {ready.postgres.version}, URL in {ready.postgres.url_file}",
        "Broker:         none; services follow the ledger"
        if ready.rabbitmq is None
        else f"Broker:         RabbitMQ {ready.rabbitmq.version}, URL in {ready.rabbitmq.url_file}",
        f"Token:          {ready.token_file}",
        f"Logs:           {ready.data}/log",
    ]
    return "\n".join(lines)


async def up(
    settings: Settings,
    *,
    extra: Mapping[str, Mapping[str, str]] | None = None,
    as_json: bool = False,
    out: TextIO = sys.stdout,
    err: TextIO = sys.stderr,
) -> int:
    """Runs everything until SIGTERM or SIGINT; returns the exit status.

    Args:
        settings: See there.
        extra: By service, variables that go before those of the table.
        as_json: One line of JSON (what the ready file has) on ``out`` once all serves; words for people on ``err``.
        out: Standard output.
        err: Standard error.
    """
    people = err if as_json else out

    def say(line: str) -> None:
        people.write(line + "\n")
        people.flush()

    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, asked.set)
    supervisor = Supervisor(settings, say=say, extra=extra)

    async def run() -> None:
        ready = await supervisor.start()
        if as_json:
            out.write(msgspec.json.encode(ready).decode() + "\n")
            out.flush()
        say(f"\n{summary(ready)}\n\nEverything runs. Ctrl-C stops it.")
        await supervisor.keep()

    running = asyncio.create_task(run())
    asking = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait([running, asking], return_when=asyncio.FIRST_COMPLETED)
        if asked.is_set():
            say("Stopping")
    finally:
        asking.cancel()
        running.cancel()
        # First the stop, then the cancelled start's own clean-up: both end the same processes.
        results = await asyncio.gather(supervisor.stop(), running, return_exceptions=True)
    for result in results:
        if isinstance(result, UneventfulError):
            err.write(f"uneventful up: {result}\n")
            return 1
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
    say("Stopped")
    return 0


def run(settings: Settings, *, extra: Mapping[str, Mapping[str, str]] | None = None, as_json: bool = False) -> int:
    """:func:`up` in an event loop of its own."""
    return asyncio.run(up(settings, extra=extra, as_json=as_json))
