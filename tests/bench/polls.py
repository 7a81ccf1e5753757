"""What an update check costs: against bare aiohttp, and by how many nodes are known."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from fleets import add_nodes
from report import Result, median, ratio, say
from sources import NEW_VERSION, OLD_VERSION, STEADY, boot_id, http, machine_id, omaha_template
from stack import BenchFailedError, Running, Stack, connected, load

from shared.testing.rollouts import World, make_world, pretend_analysis_keeps_up

UP_TO_DATE = range(10_000)
HELD = range(10_000, 20_000)
IN_FLIGHT = range(20_000, 20_010)
CONNECTIONS = 64
PACE = len(IN_FLIGHT)


@dataclass
class Fleet:
    """An update_check of its own with the database behind it."""

    url: str
    service: Running
    world: World
    postgres_pid: int

    def plan(self, source: dict[str, object], expect: str, **changes: object) -> dict[str, object]:
        """A closed-loop load on the service."""
        return {
            "port": self.service.port,
            "connections": CONNECTIONS,
            "watch": {"service": self.service.pid, "postgres*": self.postgres_pid},
            "source": source,
            "expect": expect,
            **changes,
        }


async def start_update_check(stack: Stack, database: str, **settings: object) -> Running:
    """update_check as an operator runs it, with its defaults."""
    return await stack.service(
        "update_check",
        database_url=database,
        distribution_url="http://127.0.0.1:9",
        spool_dir=tempfile.mkdtemp(prefix="spool-", dir=stack.directory),
        **settings,
    )


async def make_fleet(stack: Stack, name: str, *, pace: int, nodes: dict[str, Sequence[range]]) -> Fleet:
    """A database with these nodes by version, and an update_check on it."""
    url = await stack.database(name)
    async with connected(url) as connection:
        await pretend_analysis_keeps_up(connection)
        world = await make_world(connection, version=NEW_VERSION, pace=pace)
        for version, ranges in nodes.items():
            for numbers in ranges:
                await add_nodes(connection, world, numbers, version=version)
        await connection.execute("CHECKPOINT")
    service = await start_update_check(stack, url)
    return Fleet(url, service, world, (await stack.postgres()).pid)


async def fill_the_pace(fleet: Fleet) -> None:
    """Have as many nodes granted as the pace allows, so that all others are held by it."""
    before, middle, after = omaha_template(OLD_VERSION, STEADY)
    async with aiohttp.ClientSession() as session:
        for number in IN_FLIGHT:
            whole = before + boot_id(number).encode() + middle + machine_id(number).encode() + after
            async with session.post(f"{fleet.service.url}/v1/update/", data=whole.partition(b"\r\n\r\n")[2]) as answer:
                if b'<updatecheck status="ok"' not in await answer.read():
                    raise BenchFailedError("a poll below the pace was not granted")


def up_to_date(numbers: range = UP_TO_DATE) -> dict[str, object]:
    """Polls of nodes that run the newest release."""
    return {"kind": "polls", "version": NEW_VERSION, "first": numbers.start, "count": len(numbers)}


def outdated(numbers: range = HELD, *, cycle: bool = True) -> dict[str, object]:
    """Polls of nodes that wait for it."""
    return {"kind": "polls", "version": OLD_VERSION, "first": numbers.start, "count": len(numbers), "cycle": cycle}


def check(name: str, one: dict[str, Any]) -> dict[str, Any]:
    """Refuse a round whose answers were not what the bench is about."""
    if one["unexpected"] or set(one["statuses"]) != {"200"} or one["lost_connections"]:
        raise BenchFailedError(f"{name}: {one['unexpected']} unexpected answers, {one['statuses']}")
    return one


def row(name: str, rounds: list[dict[str, Any]], yardstick: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table."""
    return {
        "variant": name,
        "us/request": median(rounds, "us", "service"),
        "x hello": ratio(rounds, yardstick, "us", "service"),
        "requests/s": median(rounds, "per_s"),
        "Postgres us": median(rounds, "us", "postgres"),
        "p50 ms": median(rounds, "p50_ms"),
        "p99 ms": median(rounds, "p99_ms"),
    }


async def update_check(stack: Stack, *, quick: bool) -> Result:
    """Bare hello and three kinds of polls, in alternating rounds."""
    result = Result("update_check", "Update check against bare aiohttp hello: server CPU per request, keep-alive")
    rounds, seconds = (3, 2.0) if quick else (5, 4.0)
    hello = await stack.hello()
    fleet = await make_fleet(
        stack, "polls", pace=PACE, nodes={NEW_VERSION: [UP_TO_DATE], OLD_VERSION: [HELD, IN_FLIGHT]}
    )
    await fill_the_pace(fleet)
    to_grant = range(100_000, 100_000 + (60_000 if quick else 150_000))
    granting = await make_fleet(stack, "grants", pace=10_000_000, nodes={OLD_VERSION: [to_grant]})
    yardstick = {
        "port": hello.port,
        "connections": CONNECTIONS,
        "watch": {"service": hello.pid},
        "expect": "Hello",
    }
    get = {**yardstick, "source": {"kind": "fixed", "request": http("GET", "/").decode()}}
    granted = 0
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("hello", "no update", "held", "granted")}
    for number in range(rounds):
        say(f"   round {number + 1} of {rounds}")
        timing: dict[str, object] = {"seconds": seconds, "warmup_s": 0.7}
        found["hello"].append(check("hello", await load({**get, **timing})))
        found["no update"].append(check("no update", await load(fleet.plan(up_to_date(), "noupdate", **timing))))
        found["held"].append(check("held", await load(fleet.plan(outdated(), "noupdate", **timing))))
        source = outdated(to_grant[granted:], cycle=False)
        one = await load(granting.plan(source, '<updatecheck status="ok"', **timing))
        found["granted"].append(check("granted", one))
        granted += one["sent"]
    result.raw = {name: brief(all_rounds) for name, all_rounds in found.items()}
    result.table = [row(name, all_rounds, found["hello"]) for name, all_rounds in found.items()]
    for name in ("no update", "held"):
        result.at_most(f"{name}: CPU against hello", ratio(found[name], found["hello"], "us", "service"), 2.5)
    async with connected(fleet.url) as connection:
        attempts = await connection.fetchval("SELECT count(*) FROM fleet.attempts")
    result.notes.append(f"{attempts} attempts after all held polls, at a pace of {PACE}")
    async with connected(granting.url) as connection:
        attempts = await connection.fetchval("SELECT count(*) FROM fleet.attempts")
        offers = await connection.fetchval("SELECT count(*) FROM event_log.inbox WHERE type = 'update.offered.v1'")
    result.notes.append(f"{granted} polls granted: {attempts} attempts, {offers} offers in the log")
    return result


def brief(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of each round that are worth keeping."""
    wanted = ("per_s", "us", "p50_ms", "p99_ms", "answered", "seconds")
    return [{name: one[name] for name in wanted} for one in rounds]


async def known_nodes(stack: Stack, *, quick: bool) -> Result:
    """The same poll at three sizes of the fleet, each polled all around."""
    result = Result("known_nodes", "No-update poll by nodes known: the cost must not grow with the fleet")
    sizes = (10_000, 100_000, 300_000) if quick else (10_000, 100_000, 1_000_000)
    rounds, seconds = (3, 3.0) if quick else (6, 5.0)
    fleets: dict[int, Fleet] = {}
    for size in sizes:
        say(f"   filling {size:,} nodes")
        fleets[size] = await make_fleet(stack, f"known_{size}", pace=PACE, nodes={NEW_VERSION: [range(size)]})
    found: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
    with contextlib.suppress(KeyboardInterrupt):
        for number in range(rounds):
            say(f"   round {number + 1} of {rounds}")
            # There and back: whatever a place in the order does to a size, it does to all.
            for size in sizes if number % 2 == 0 else reversed(sizes):
                # Each round begins elsewhere in the fleet, so that many nodes have their turn.
                first = number * size // rounds
                source = up_to_date(range(first, size)) if size > 20_000 else up_to_date(range(size))
                plan = fleets[size].plan(source, "noupdate", seconds=seconds, warmup_s=1.0)
                found[size].append(check(f"{size}", await load(plan)))
    smallest = found[sizes[0]]
    for size in sizes:
        result.raw[f"{size}"] = brief(found[size])
        result.table.append(
            {
                "nodes known": f"{size:,}",
                "us/request": median(found[size], "us", "service"),
                "x smallest": ratio(found[size], smallest, "us", "service"),
                "Postgres us": median(found[size], "us", "postgres"),
                "requests/s": median(found[size], "per_s"),
                "p99 ms": median(found[size], "p99_ms"),
            }
        )
    for size in sizes[1:]:
        result.at_most(f"CPU at {size:,} against {sizes[0]:,}", ratio(found[size], smallest, "us", "service"), 1.2)
    result.notes.append(
        "every poll is of the next node in turn, so nearly every one is a row of the next contact flush; "
        "at 1,000,000 nodes and 45 min a fleet sends 370 polls/s, far less than here"
    )
    return result
