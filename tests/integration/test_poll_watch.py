"""While somebody watches, polls are shown, the rejected ones too; and who comes with which secret."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from services.update_check.keeper import SnapshotKeeper
from services.update_check.path_secrets import digest_of
from services.update_check.routes import KEEPER, WATCH
from services.update_check.watch import MAX_POLLS, PollWatch
from shared.clock import SystemClock
from shared.testing.rollouts import World, make_world, pretend_analysis_keeps_up

sys.path.insert(0, str(Path(__file__).parent))
from omaha_node import Node
from update_check_server import serving


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def world(pool) -> World:
    async with pool.acquire() as connection:
        await pretend_analysis_keeps_up(connection)
        return await make_world(connection)


async def until(condition, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.02)


async def watch(pool, seconds: float = 60.0) -> None:
    await pool.execute("UPDATE fleet.poll_watch SET until = clock_timestamp() + make_interval(secs => $1)", seconds)


async def test_polls_are_shown_while_they_are_watched(database_url, pool, world, tmp_path, session):
    """What was judged, and what was not since nobody knows it, it is nobody's or it is no Omaha; with the address."""
    await pool.execute("""UPDATE control.groups SET selector = '{"track": ["stable"]}'""")
    await watch(pool)
    async with serving(database_url, tmp_path) as server:
        url = str(server.make_url("/v1/update"))
        node, edge = Node(session, url), Node(session, url, track="edge")
        await node.poll()
        await node.ping()
        await edge.poll()
        await Node(session, url, machine_id="").poll()
        unknown = Node(session, url)
        await unknown.send(unknown.request(check=True).replace(b"e96281a6", b"00000000"))
        async with session.post(url, data=b"<request") as response:
            assert response.status == 400
        async with session.post(url + "/no-such-secret") as response:
            assert response.status == 404

        async def shown() -> bool:
            return await pool.fetchval("SELECT count(*) FROM fleet.watched_polls") == 7

        await until(shown)
        rows = await pool.fetch("SELECT * FROM fleet.watched_polls ORDER BY poll_id")

    assert [row["answer"] for row in rows] == [
        *("granted", "noted", "no_group", "unidentified", "unknown_application", "omaha_malformed"),
        "path_secret_unknown",
    ]
    assert {(row["dialect"], row["address"]) for row in rows} == {("omaha", "127.0.0.1")}
    first, lost = rows[0], rows[2]
    assert (first["application"], first["machine_id"], first["version"]) == ("flatcar", node.machine_id, "3033.2.0")
    assert (first["group_name"], first["detail"]) == ("everyone", "track stable")
    assert (lost["group_name"], lost["detail"]) == (None, "track edge")
    assert rows[4]["application"].startswith("{00000000")
    assert "line" in rows[5]["detail"]


async def test_nothing_is_written_while_nobody_watches(database_url, pool, world, tmp_path, session):
    """And what was shown is forgotten after five minutes, also by the next process."""
    await pool.execute(
        "INSERT INTO fleet.watched_polls (at, dialect, answer) VALUES (now() - interval '6 minutes', 'omaha', 'old')"
    )
    async with serving(database_url, tmp_path) as server:
        url = str(server.make_url("/v1/update"))
        await Node(session, url).poll()
        async with session.post(url, data=b"<request"):
            pass
        await server.app[WATCH].flush()
        assert await pool.fetchval("SELECT count(*) FROM fleet.watched_polls") == 0
        assert not server.app[KEEPER].watched
        await watch(pool)

        async def watching() -> bool:
            return server.app[KEEPER].watched

        await until(watching)
        await watch(pool, -1.0)

        async def over() -> bool:
            return not server.app[KEEPER].watched

        await until(over)


async def test_of_very_many_polls_the_rest_is_counted(pool):
    """200 in a second; texts are cut and cleaned; without Postgres they are dropped and nothing fails."""
    keeper = SnapshotKeeper(pool, SystemClock(), distribution_url="http://x", max_age_s=5.0, analysis_max_lag_s=20.0)
    watched = PollWatch(pool, keeper, SystemClock())
    keeper.watched = True
    for _ in range(MAX_POLLS + 37):
        watched.rejected("native", "omaha_malformed", address=None, detail="x" * 999, machine_id="a\0b\ud800")
    await watched.flush()
    rows = await pool.fetch("SELECT answer, detail, machine_id FROM fleet.watched_polls")
    assert Counter(row["answer"] for row in rows) == {"omaha_malformed": MAX_POLLS, "left_out": 1}
    assert {row["machine_id"] for row in rows if row["machine_id"]} == {"ab?"}
    assert [row["detail"] for row in rows if row["answer"] == "left_out"] == ["37 more polls in this second"]
    assert max(len(row["detail"]) for row in rows) == 256
    watched.rejected("native", "omaha_malformed", address="192.0.2.7")
    await watched.flush()
    assert await pool.fetchval("SELECT address FROM fleet.watched_polls ORDER BY poll_id DESC LIMIT 1") == "192.0.2.7"

    away = await asyncpg.create_pool(min_size=0, max_size=1, host="127.0.0.1", port=9, user="nobody", password="x")
    lost = PollWatch(away, keeper, SystemClock())
    lost.rejected("native", "omaha_malformed", address=None)
    await lost.flush()
    away.terminate()


async def mint(pool, world: World, secret: str, *, machine_id: str | None = None, expires: str | None = None) -> None:
    await pool.execute(
        "INSERT INTO control.node_tokens (token_id, application_id, kind, machine_id, token_sha256, created_by, "
        "expires_at) VALUES ($1, $2, 'path', $3, $4, 'test', now() + $5::text::interval)",
        uuid.uuid4(),
        world.application_id,
        machine_id,
        digest_of(secret),
        expires,
    )


async def test_minted_secrets_let_their_nodes_in(database_url, pool, world, tmp_path, session):
    """Of the fleet or of one machine; out of force or another's: 403 in words, and nothing is recorded."""
    await mint(pool, world, "unp_all")
    await mint(pool, world, "unp_one", machine_id="m1")
    await mint(pool, world, "unp_old", expires="-1 day")
    await mint(pool, world, "unp_ancient", expires="-99 days")
    async with serving(database_url, tmp_path, require_path_secret=True) as server:

        async def poll(secret: str, machine_id: str) -> tuple[int, str | None]:
            node = Node(session, str(server.make_url(f"/v1/update/{secret}")), machine_id=machine_id)
            async with session.post(node.url, data=node.request(check=True)) as response:
                problem = await response.json(content_type=None) if response.status != 200 else {}
                return response.status, problem.get("code")

        assert await poll("unp_all", "m9") == (200, None)
        assert await poll("unp_all/", "m9") == (200, None)
        assert await poll("unp_one", "m1") == (200, None)
        recorded = await pool.fetchval("SELECT count(*) FROM fleet.nodes")
        assert await poll("unp_one", "m2") == (403, "path_secret_refused")
        assert await poll("unp_old", "m3") == (403, "path_secret_refused")
        assert await poll("unp_ancient", "m3") == (404, "path_secret_unknown")
        assert await poll("", "m3") == (404, "path_secret_unknown")
        await pool.execute("UPDATE control.node_tokens SET revoked_at = now() WHERE machine_id IS NULL")
        await pool.execute("SELECT control.raise_policy_version_v1()")
        wanted = await pool.fetchval("SELECT policy_version FROM control.global_gate")

        async def followed() -> bool:
            return server.app[KEEPER].configuration.policy_version == wanted

        await until(followed)
        assert await poll("unp_all", "m9") == (403, "path_secret_refused")
        assert await pool.fetchval("SELECT count(*) FROM fleet.nodes") == recorded
