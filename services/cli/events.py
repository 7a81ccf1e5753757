"""``uneventful event`` and ``uneventful ledger``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import click
import orjson
from rich.text import Text

from services.cli.client import Client
from services.cli.command import talks
from services.cli.errors import Refused
from services.cli.output import Output
from services.cli.text import cell, printable

TAIL_EVERY_S = 0.5


def _seq(event: Mapping[str, Any]) -> int:
    return int(event["sequence"])


def _what(event: Mapping[str, Any]) -> str:
    data = event["data"]
    told = [
        f"{name}={cell(data[name])}"
        for name in ("version", "to_version", "state_after", "reason", "by", "pace_after", "started", "bad", "what")
        if data.get(name) is not None
    ]
    return " ".join(told)


_COLUMNS: Mapping[str, Any] = {
    "seq": _seq,
    "recorded": "recordedtime",
    "type": "type",
    "subject": "subject",
    "what": _what,
}
_type_option = click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Like update.committed.v1 or update.#."
)
_subject_option = click.option("--subject", metavar="SUBJECT", help="Like nodes/ID or rollouts/ID.")
_correlation_option = click.option("--correlation", metavar="ID", help="Of an attempt, rollout or changeset.")


@click.group()
def event() -> None:
    """Events: what happened, as the ledger has it."""


@event.command("list")
@click.option("--after", type=click.IntRange(0), default=0, help="Events with a greater seq.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
@_type_option
@_subject_option
@_correlation_option
@talks
async def list_all(
    client: Client,
    output: Output,
    *,
    after: int,
    limit: int,
    types: tuple[str, ...],
    subject: str | None,
    correlation: str | None,
) -> None:
    """List events by seq."""
    found: list[Any] = []
    while len(found) < limit:
        page = await client.get(
            "/events",
            after=after,
            limit=min(1_000, limit - len(found)),
            type=types or None,
            subject=subject,
            correlation=correlation,
        )
        found += page["items"]
        if page["next"] is None:
            break
        after = page["next"]
    output.items(found, _COLUMNS, empty="No such event.")


@event.command("tail")
@click.option("-n", "--last", type=click.IntRange(0, 1_000), default=10, show_default=True, help="Begin so many back.")
@click.option("--for", "seconds", type=click.FloatRange(0), help="End after so many seconds; else on Ctrl-C.")
@_type_option
@_subject_option
@_correlation_option
@talks
async def tail(
    client: Client,
    output: Output,
    *,
    last: int,
    seconds: float | None,
    types: tuple[str, ...],
    subject: str | None,
    correlation: str | None,
) -> None:
    """Show events as they come, one per line."""
    after = max(0, (await client.get("/ledger"))["seq"] - last)
    ends = None if seconds is None else time.monotonic() + seconds
    while True:
        page = await client.get(
            "/events", after=after, limit=1_000, type=types or None, subject=subject, correlation=correlation
        )
        for one in page["items"]:
            after = _seq(one)
            if output.as_json:
                output.line(one)
            else:
                line = f"{after:>8} {cell(one.get('recordedtime'))} {one['type']} {one['subject']} {_what(one)}"
                output.console.print(Text(line), soft_wrap=True)
        if ends is not None and time.monotonic() >= ends:
            return
        if page["next"] is None:
            await asyncio.sleep(TAIL_EVERY_S)


@event.command("show")
@click.argument("seq", type=click.IntRange(1))
@talks
async def show(client: Client, output: Output, *, seq: int) -> None:
    """Show the event at a place of the ledger."""
    found = await client.get(f"/events/{seq}")
    if output.as_json:
        output.json(found)
        return
    text = orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()
    output.say(printable(text))


@click.group()
def ledger() -> None:
    """The ledger: the one ordered record."""


@ledger.command("show")
@talks
async def head(client: Client, output: Output) -> None:
    """Show where the ledger ends."""
    output.item(await client.get("/ledger"), {"seq": "seq", "hash": "hash", "recorded": "recorded_at"})


@ledger.command("verify")
@click.option("--after", type=click.IntRange(0), default=0, help="Begin after this entry, which is trusted.")
@talks
async def verify(client: Client, output: Output, *, after: int) -> None:
    """Verify the hash chain; ends with 1 where it is broken."""
    found = await client.get("/ledger/verify", after=after)
    output.item(
        found, {"ok": "ok", "entries": "checked", "last seq": "last_seq", "hash": "last_hash", "fault": "reason"}
    )
    if not found["ok"]:
        raise Refused(f"the ledger is broken at {found['broken_at']}: {found['reason']}")
