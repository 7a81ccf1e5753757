"""The Omaha endpoint's edges: headers that lie, nodes without a name, connections that go."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from services.update_check.app import KEEPER
from shared.db import connect
from shared.domain.reasons import Reason
from shared.omaha.request import Event
from shared.testing.rollouts import World, make_world, pretend_analysis_keeps_up
from shared.web import HEALTH

sys.path.insert(0, str(Path(__file__).parent))
from omaha_node import Node
from update_check_server import serving

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def world(pool) -> World:
    async with pool.acquire() as connection:
        await pretend_analysis_keeps_up(connection)
        return await make_world(connection)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def until(condition, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.02)


async def raw_post(server: TestServer, body: bytes, *headers: bytes) -> bytes:
    """A request with header bytes that no client library would send."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(
        b"POST /v1/update HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
        + str(len(body)).encode()
        + b"".join(b"\r\n" + header for header in headers)
        + b"\r\n\r\n"
        + body
    )
    answer = await reader.read()
    writer.close()
    return answer


async def value(database_url: str, query: str) -> object:
    connection = await connect(database_url, application_name="test")
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (b"X-Forwarded-For: 10.0.0.1, 192.0.2.7", "192.0.2.7"),
        (b"X-Forwarded-For: \xff\xfe", "127.0.0.1"),
        (b"X-Forwarded-For: 10.0.0.1, ", "127.0.0.1"),
        (b"X-Forwarded-For: " + b"1" * 65, "127.0.0.1"),
        (b"X-Other: 1", "127.0.0.1"),
    ],
)
async def test_an_address_is_taken_from_a_proxy_only_where_it_is_one(database_url, world, tmp_path, header, address):
    """The last entry is the proxy's word; bytes that are no text would fail a whole batch of reports."""
    async with serving(database_url, tmp_path, trust_forwarded_for=True) as server:
        node = Node(None, "")
        answer = await raw_post(server, node.request(Event(13, 1)), header)

    assert answer.startswith(b"HTTP/1.1 200")
    assert await value(database_url, "SELECT address FROM fleet.nodes") == address


@pytest.mark.parametrize(("given", "kept"), [(TRACE.encode(), TRACE), (b"\xff", None), (b"00-xyz", None)])
async def test_a_trace_is_kept_where_it_is_one(database_url, world, tmp_path, given, kept):
    """It goes with the events."""
    async with serving(database_url, tmp_path) as server:
        await raw_post(server, Node(None, "").request(Event(13, 1)), b"traceparent: " + given)

    query = "SELECT traceparent FROM event_log.inbox WHERE type = 'update.download_started.v1'"
    assert await value(database_url, query) == kept


async def test_a_node_without_a_name_gets_no_update_and_leaves_no_trace(database_url, pool, world, tmp_path, session):
    """There is nothing to remember it by, so nothing could be stopped for it."""
    async with serving(database_url, tmp_path) as server:
        node = Node(session, str(server.make_url("/v1/update")), machine_id="")
        answer = await node.poll()
        ping = await node.ping()

    assert not answer.offered
    assert ping.status == 200
    assert await pool.fetchval("SELECT count(*) FROM fleet.nodes") == 0


async def test_a_node_outside_every_group_is_told_there_is_nothing(database_url, pool, world, tmp_path, session):
    """And is known all the same."""
    await pool.execute('UPDATE control.groups SET selector = \'{"track": ["edge"]}\'')
    async with serving(database_url, tmp_path) as server:
        node = Node(session, str(server.make_url("/v1/update")))
        assert not (await node.poll()).offered

        async def known() -> bool:
            return await pool.fetchval("SELECT count(*) FROM fleet.nodes WHERE group_id IS NULL") == 1

        await until(known)


async def test_connections_that_are_killed_come_back_and_nothing_is_missed(
    database_url, pool, world, tmp_path, session
):
    """Every backend of the service is terminated while it runs: it fails closed or answers, and then follows again."""
    async with serving(database_url, tmp_path) as server:
        url = str(server.make_url("/v1/update"))
        keeper = server.app[KEEPER]
        await keeper.ping()
        assert server.app[HEALTH] is not None
        for round_number in range(3):
            await pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'update_check%' AND datname = current_database()"
            )
            answer = await Node(session, url).poll()
            assert answer.status == 200
            await pool.execute("UPDATE control.rollouts SET pace = $1", 100 + round_number)
            await pool.execute("SELECT control.raise_policy_version_v1()")
            wanted = await pool.fetchval("SELECT policy_version FROM control.global_gate")

            async def followed(wanted: int = wanted) -> bool:
                return keeper.configuration.policy_version == wanted

            await until(followed)
        assert keeper.fail_closed() is None

        async def offered() -> bool:
            return (await Node(session, url).poll()).offered

        await until(offered)


async def test_what_the_gate_knows_better_is_looked_up(database_url, pool, world, tmp_path, session):
    """A snapshot that is a moment old decides yes, the gate says no: the node waits, and the snapshot is renewed."""
    async with serving(database_url, tmp_path) as server:
        url = str(server.make_url("/v1/update"))
        keeper = server.app[KEEPER]
        # Nothing is notified by this: only the gate knows.
        await pool.execute("UPDATE control.changeset_gates SET braked_reason = 'test'")
        assert not (await Node(session, url).poll()).offered

        async def seen() -> bool:
            [application] = keeper.configuration.applications.values()
            return application.groups[0].rollouts["amd64"].update.braked_reason == "test"

        await until(seen)
        assert Reason.BRAKED.value == "braked"


async def test_attempts_that_failed_too_often_are_not_asked_for_again_and_again(
    database_url, pool, world, tmp_path, session
):
    """A refusal for a while is remembered; one that was quarantined or cloned elsewhere too."""
    async with serving(database_url, tmp_path) as server:
        node = Node(session, str(server.make_url("/v1/update")))
        standings = server.app[KEEPER].standings
        assert (await node.poll()).offered
        await node.event(3, 0, 9)
        assert not (await node.poll()).offered
        key = (world.application_id, node.machine_id)
        assert standings.retries[key][0] == world.changeset_id
        standings.retries[key] = (world.changeset_id, 0.0)
        await pool.execute("UPDATE fleet.attempts SET closed_at = closed_at - interval '1 day'")
        await pool.execute(
            "INSERT INTO fleet.quarantine (node_id, changeset_id, reason) SELECT node_id, $1, 'x' FROM fleet.nodes",
            world.changeset_id,
        )
        assert not (await node.poll()).offered
        assert world.changeset_id in standings.quarantined[key]
        standings.quarantined.clear()
        await pool.execute("DELETE FROM fleet.quarantine")
        await pool.execute("UPDATE fleet.nodes SET cloned = true")
        assert not (await node.poll()).offered
        assert key in standings.cloned


async def test_a_full_pace_that_another_replica_filled_is_believed_for_a_moment(
    database_url, pool, world, tmp_path, session
):
    """The database says that it is full; the next polls of that moment do not ask again."""
    async with serving(database_url, tmp_path) as server:
        url = str(server.make_url("/v1/update"))
        await pool.execute(
            "INSERT INTO fleet.attempts (attempt_id, token, node_id, application_id, changeset_id, rollout_id, "
            "group_id, arch, from_version, to_version, state, boot_id, granted_at, changed_at) "
            "SELECT gen_random_uuid(), n::text, gen_random_uuid(), $1, $2, $3, $4, 'amd64', 'a', 'b', 'offered', 'x', "
            "now(), now() FROM generate_series(1, 10) AS n",
            world.application_id,
            world.changeset_id,
            world.rollout_id,
            world.group_id,
        )
        answers = await asyncio.gather(*(Node(session, url).poll() for _ in range(10)))

    assert not any(answer.offered for answer in answers)
