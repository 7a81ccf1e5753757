"""How many durable reports a second, with everything running, and how soon the rest of the house has caught up."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import asyncpg
from report import Result, say
from sources import NEW_VERSION, WHOLE_UPDATE
from stack import BenchFailedError, Running, Stack, connected, load
from worlds import add_offers, make_application, make_rollout

CONNECTIONS = 100
CATCH_UP_LIMIT_S = 240.0
_CHUNK = 10_000


@dataclass
class House:
    """All services, on one database and one broker."""

    database: str
    amqp: str
    services: dict[str, Running]
    watch: dict[str, int]


async def open_house(stack: Stack, *, names: tuple[str, ...]) -> House:
    """Start Postgres, RabbitMQ and these services, each a process."""
    broker = asyncio.create_task(stack.rabbitmq())
    database = await stack.database("house")
    node = await broker
    postgres = await stack.postgres()
    own: dict[str, dict[str, object]] = {
        "update_check": {"distribution_url": "http://127.0.0.1:9", "spool_dir": stack.directory / "spool"},
        "distribution": {"store_dir": stack.directory / "store"},
    }
    services = {
        name: await stack.service(name, database_url=database, amqp_url=node.url, **own.get(name, {})) for name in names
    }
    watch = {name: service.pid for name, service in services.items()}
    return House(database, node.url, services, {**watch, "postgres*": postgres.pid, "rabbitmq*": node.pid})


@dataclass
class Standing:
    """How far everything is."""

    head: int
    relay: int
    analysis: int
    inbox_empty: bool

    @property
    def done(self) -> bool:
        return self.inbox_empty and self.relay >= self.head and self.analysis >= self.head


async def look(connection: asyncpg.Connection[Any]) -> Standing:
    """Where the ledger and its followers stand now."""
    row = await connection.fetchrow(
        "SELECT h.seq, coalesce((SELECT seq FROM event_log.followers WHERE name = 'relay'), 0), "
        "coalesce((SELECT seq FROM event_log.followers WHERE name = 'rollback_analysis'), 0), "
        "NOT EXISTS (SELECT 1 FROM event_log.inbox) FROM event_log.head h"
    )
    if row is None:
        raise BenchFailedError("event_log.head has no row")
    return Standing(*row)


async def catch_up(connection: asyncpg.Connection[Any], limit_s: float = CATCH_UP_LIMIT_S) -> dict[str, float | None]:
    """Seconds until the inbox is in the ledger, and until relay and analysis are where the ledger was then."""
    began = time.monotonic()
    took: dict[str, float | None] = {"ledger": None, "relay": None, "analysis": None}
    goal = 0
    while None in took.values() and time.monotonic() - began < limit_s:
        now = await look(connection)
        seconds = time.monotonic() - began
        if took["ledger"] is None and now.inbox_empty:
            took["ledger"], goal = seconds, now.head
        if took["ledger"] is not None:
            for name, at in (("relay", now.relay), ("analysis", now.analysis)):
                if took[name] is None and at >= goal:
                    took[name] = seconds
        await asyncio.sleep(0.1)
    return took


async def offer(connection: asyncpg.Connection[Any], rollout: Any, numbers: range) -> None:
    """Offers in bulk, until all of them are in the ledger and judged."""
    for start in range(0, len(numbers), _CHUNK):
        await add_offers(connection, rollout, numbers[start : start + _CHUNK])
    await connection.execute("ANALYZE fleet.nodes")
    await connection.execute("ANALYZE fleet.attempts")
    if None in (await catch_up(connection)).values():
        raise BenchFailedError("the offers were not in the ledger and judged in time")
    await connection.execute("CHECKPOINT")


async def _count_moves(connection: asyncpg.Connection[Any]) -> int:
    kinds = [f"update.{kind}.v1" for kind in WHOLE_UPDATE]
    return int(await connection.fetchval("SELECT count(*) FROM event_log.ledger WHERE type = ANY ($1)", kinds))


async def reports(stack: Stack, *, quick: bool) -> Result:
    """Closed loop on 100 connections, one report per POST and then ten."""
    result = Result("reports", "Durable reports on 100 connections, everything on this machine")
    seconds, per_phase = (10.0, 30_000) if quick else (30.0, 70_000)
    names = ("event_log", "rollback_analysis", "update_check", "distribution", "control", "telemetry")
    house = await open_house(stack, names=names)
    async with connected(house.database) as connection:
        application_id = await make_application(connection, "bench", None)
        rollout = await make_rollout(
            connection, application_id, group="all", selector={}, position=1, nodes=1_000_000, pace=1_000_000
        )
        first = 0
        for pack in (1, 10):
            say(f"   {per_phase:,} nodes are offered the update")
            await offer(connection, rollout, range(first, first + per_phase))
            before = await _count_moves(connection)
            say(f"   {seconds:.0f} s of reports, {pack} per POST")
            plan: dict[str, object] = {
                "port": house.services["telemetry"].port,
                "connections": CONNECTIONS,
                "seconds": seconds,
                "warmup_s": 1.0,
                "watch": house.watch,
                "expect": f'"accepted":{pack},"duplicates":0,"errors":[]',
                "source": {
                    "kind": "reports",
                    "application": "bench",
                    "first": first,
                    "count": per_phase,
                    "connections": CONNECTIONS,
                    "pack": pack,
                    "kinds": WHOLE_UPDATE,
                    "version": NEW_VERSION,
                },
            }
            one = await load(plan)
            ended = await look(connection)
            took = await catch_up(connection)
            moves = await _count_moves(connection) - before
            _tell(result, one, pack=pack, took=took, moves=moves, ended=ended)
            first += per_phase
    return result


def _tell(
    result: Result, one: dict[str, Any], *, pack: int, took: dict[str, float | None], moves: int, ended: Standing
) -> None:
    label = f"{pack} per POST"
    rate = one["per_s"] * pack
    caught_up = [value if value is not None else CATCH_UP_LIMIT_S for value in took.values()]
    result.raw[label] = [{**one, "catch_up_s": took, "behind_at_the_end": ended.head - ended.analysis}]
    result.table.append(
        {
            "reports": label,
            "acknowledged/s": rate,
            "p50 ms": one["p50_ms"],
            "p99 ms": one["p99_ms"],
            **{f"{name} us": us / pack for name, us in one["us"].items() if us is not None},
            **{f"{name} after s": value for name, value in took.items()},
        }
    )
    sent = one["sent"] * pack
    result.notes.append(
        f"{label}: {sent} reports sent, {moves} in the ledger; {one['unexpected']} unexpected answers, "
        f"{one['statuses']}; when the load ended the analysis was {ended.head - ended.analysis} events behind "
        "the ledger"
    )
    if one["exhausted"]:
        result.notes.append(f"{label}: all nodes were done after {one['seconds']:.1f} s")
    result.at_least(f"{label}: reports/s acknowledged for {one['seconds']:.0f} s", rate, 6_000)
    result.at_most(f"{label}: all caught up after, seconds", max(caught_up), 60)
