"""What a check costs in the dialects beside Omaha: native agents' and Cincinnati's, against bare aiohttp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from polls import CONNECTIONS, HELD, IN_FLIGHT, PACE, UP_TO_DATE, Fleet, brief, check, fill_the_pace, make_fleet, row
from report import Result, ratio, say
from sources import NEW_VERSION, OLD_VERSION, http
from stack import Stack, connected, load

from shared.testing.rollouts import World

FEW, MANY = 5, 50
"""Published changesets of a graph; Fedora CoreOS' stable stream has some fifty."""
HOLDS = ({"oem": "gce"}, {"platform": "OpenStack", "oem": "ami"})
"""Segments that none of the bench's nodes belongs to, so that each of them is looked at to its end."""
WINDOWS = {
    "weekly": [{"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "start": "00:00", "length_s": 86_400}]
}


async def publish_older(connection: asyncpg.Connection[Any], world: World, count: int) -> None:
    """Older changesets beside the world's own, all of them promoted to stable: ``count`` together."""
    await connection.execute(
        "INSERT INTO control.channels (channel_id, application_id, name, arch) "
        "VALUES (gen_random_uuid(), $1, 'stable', 'amd64')",
        world.application_id,
    )
    await connection.execute(
        """
        INSERT INTO control.changesets (changeset_id, application_id, version, arch, kind, state, published_at)
        SELECT gen_random_uuid(), $1, CASE WHEN n = 0 THEN $3 ELSE '3000.1.' || n END, 'amd64',
               'image', 'published', now()
          FROM generate_series(0, $2::int - 2) n
        """,
        world.application_id,
        count,
        OLD_VERSION,
    )
    await connection.execute(
        """
        INSERT INTO control.payloads (changeset_id, position, role, name, sha256, sha1_base64, size)
        SELECT changeset_id, 0, 'main', 'update.gz', encode(sha256(version::bytea), 'hex'),
               'I6DGNAOrJRUxPbCuLw+AITfiVMo=', 7
          FROM control.changesets WHERE changeset_id <> $1
        """,
        world.changeset_id,
    )
    await connection.execute(
        "INSERT INTO control.channel_history (channel_id, changeset_id, promoted_by) "
        "SELECT ch.channel_id, c.changeset_id, 'bench' FROM control.channels ch CROSS JOIN control.changesets c"
    )
    await connection.fetchval("SELECT control.raise_policy_version_v1()")


async def stop_at_a_wave(connection: asyncpg.Connection[Any], world: World) -> None:
    """Have the rollout's wave let nobody in."""
    await connection.execute("UPDATE control.rollouts SET fraction = 0 WHERE rollout_id = $1", world.rollout_id)
    await connection.fetchval("SELECT control.raise_policy_version_v1()")


async def hold_and_limit(connection: asyncpg.Connection[Any], world: World) -> None:
    """Hold two segments, and let updates happen in windows that are open."""
    await connection.executemany(
        "INSERT INTO control.holds (hold_id, changeset_id, segment, reason, held_by) "
        "VALUES (gen_random_uuid(), $1, $2, 'bench', 'bench')",
        [(world.changeset_id, segment) for segment in HOLDS],
    )
    await connection.execute(
        "UPDATE control.rollouts SET policy = $2 WHERE rollout_id = $1", world.rollout_id, {"windows": WINDOWS}
    )
    await connection.fetchval("SELECT control.raise_policy_version_v1()")


def asks(dialect: str, version: str, numbers: Sequence[int]) -> dict[str, object]:
    """Checks of these nodes, again and again."""
    who = {"first": numbers[0], "count": len(numbers)}
    return {"kind": "polls", "dialect": dialect, "application": "flatcar", "version": version, **who}


def newest_of(releases: int) -> str:
    """What is only in a graph that has so many releases."""
    return f'releases.age_index":"{releases - 1}"'


async def dialects(stack: Stack, *, quick: bool) -> Result:
    """Bare hello, native checks and graphs, in alternating rounds."""
    result = Result("dialects", "Native check and Cincinnati graph against bare aiohttp hello: server CPU per request")
    rounds, seconds = (3, 2.0) if quick else (5, 4.0)
    hello = await stack.hello()
    nodes = {NEW_VERSION: [UP_TO_DATE], OLD_VERSION: [HELD, IN_FLIGHT]}
    few = await make_fleet(stack, "few", pace=PACE, nodes=nodes)
    many = await make_fleet(stack, "many", pace=PACE, nodes=nodes)
    waves = await make_fleet(stack, "waves", pace=PACE, nodes=nodes)
    for fleet in (few, many):
        await fill_the_pace(fleet)
    for fleet, count in ((few, FEW), (many, MANY)):
        async with connected(fleet.url) as connection:
            await publish_older(connection, fleet.world, count)
    async with connected(many.url) as connection:
        await hold_and_limit(connection, many.world)
    async with connected(waves.url) as connection:
        await stop_at_a_wave(connection, waves.world)
    variants: dict[str, tuple[Fleet, dict[str, object], str]] = {
        "native, up to date": (few, asks("native", NEW_VERSION, UP_TO_DATE), '"reason":"up_to_date"'),
        "native, held by the pace": (few, asks("native", OLD_VERSION, HELD), '"reason":"changeset_pace"'),
        "native, held by a wave": (waves, asks("native", OLD_VERSION, HELD), '"reason":"wave"'),
        "native, 2 holds, windows, pace": (many, asks("native", OLD_VERSION, HELD), '"reason":"changeset_pace"'),
        f"graph of {FEW}, up to date": (few, asks("cincinnati", NEW_VERSION, UP_TO_DATE), newest_of(FEW)),
        f"graph of {MANY}, up to date": (many, asks("cincinnati", NEW_VERSION, UP_TO_DATE), newest_of(MANY)),
        f"graph of {MANY}, held by the pace": (many, asks("cincinnati", OLD_VERSION, HELD), newest_of(MANY)),
    }
    get = {"source": {"kind": "fixed", "request": http("GET", "/").decode()}, "expect": "Hello"}
    yardstick = {"port": hello.port, "connections": CONNECTIONS, "watch": {"service": hello.pid}, **get}
    timing = {"seconds": seconds, "warmup_s": 0.7}
    found: dict[str, list[dict[str, Any]]] = {"hello": [], **{name: [] for name in variants}}
    for number in range(rounds):
        say(f"   round {number + 1} of {rounds}")
        found["hello"].append(check("hello", await load({**yardstick, **timing})))
        for name, (fleet, source, expect) in variants.items():
            found[name].append(check(name, await load(fleet.plan(source, expect, **timing))))
    result.raw = {name: brief(all_rounds) for name, all_rounds in found.items()}
    result.table = [row(name, all_rounds, found["hello"]) for name, all_rounds in found.items()]
    for name in variants:
        limit = 4.0 if name.startswith("graph") else 3.0
        result.at_most(f"{name}: CPU against hello", ratio(found[name], found["hello"], "us", "service"), limit)
    for fleet in (few, many, waves):
        async with connected(fleet.url) as connection:
            attempts = await connection.fetchval("SELECT count(*) FROM fleet.attempts")
        result.notes.append(f"{attempts} attempts after all checks")
    return result
