from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from aiohttp.test_utils import TestServer

from services.standalone.postgres import PostgresServer
from services.standalone.processes import free_ports
from services.update_check.app import CHECKS, CONTACTS, KEEPER, SPOOL
from services.update_check.checks import MAX_DOMAINS
from shared.db import migrate
from shared.db.pool import set_codecs
from shared.omaha.request import Event
from shared.testing.omaha_clients import update_engine_reads
from shared.testing.rollouts import World, make_world, pretend_analysis_keeps_up

sys.path.insert(0, str(Path(__file__).parent))
from omaha_node import Node
from update_check_server import serving


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture
async def world(pool) -> World:
    async with pool.acquire() as connection:
        await pretend_analysis_keeps_up(connection)
        return await make_world(connection)


@pytest.fixture
async def server(database_url, world, tmp_path) -> AsyncIterator[TestServer]:
    async with serving(database_url, tmp_path / "spool") as server:
        yield server


@pytest.fixture
def url(server) -> str:
    return str(server.make_url("/v1/update/"))


async def until(condition, seconds: float = 10.0) -> None:
    """Poll an asynchronous condition until it holds, or fail."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.02)


async def types_of(pool, machine_id: str) -> list[str]:
    rows = await pool.fetch(
        "SELECT type FROM event_log.inbox WHERE data ->> 'machine_id' = $1 ORDER BY position", machine_id
    )
    return [row[0].removesuffix(".v1") for row in rows]


async def state_of(pool, machine_id: str) -> str | None:
    return await pool.fetchval(
        "SELECT a.state FROM fleet.attempts a JOIN fleet.nodes n USING (node_id) WHERE n.machine_id = $1 "
        "ORDER BY granted_at DESC LIMIT 1",
        machine_id,
    )


async def test_a_node_is_offered_the_update_in_words_that_update_engine_takes(session, url, world):
    """A poll below the pace gets the release, its payload's URL with the attempt's token."""
    node = Node(session, url)

    answer = await node.poll()

    assert answer.offered
    accepted = update_engine_reads(answer.body)
    assert accepted.version == world.version
    assert accepted.urls[0].startswith(f"http://127.0.0.1:9/payloads/{world.sha256}/")


async def test_a_whole_update_is_committed(session, url, pool, world):
    """Offer, download, stage, wait, reboot into the target: every step an event, in order."""
    node = Node(session, url)
    assert (await node.poll()).offered
    await node.stage()
    await node.ping()
    await until(lambda: _is(state_of(pool, node.machine_id), "awaiting_reboot"))
    node.reboot(world.version)

    answer = await node.poll(Event(3, 2, None, "3033.2.0"))

    assert not answer.offered
    assert await types_of(pool, node.machine_id) == [
        "node.enrolled",
        "update.offered",
        "update.download_started",
        "update.downloaded",
        "update.staged",
        "update.reboot_awaited",
        "update.booted",
        "update.committed",
    ]


async def _is(awaitable, expected) -> bool:
    return await awaitable == expected


async def test_200_concurrent_polls_at_pace_10_give_10_grants(session, url, pool):
    """No grant commits above the pace, however many ask at once."""
    nodes = [Node(session, url) for _ in range(200)]

    answers = await asyncio.gather(*(node.poll() for node in nodes))

    assert sum(answer.offered for answer in answers) == 10
    assert await pool.fetchval("SELECT count(*) FROM fleet.attempts") == 10
    assert await pool.fetchval("SELECT count(*) FROM event_log.inbox WHERE type = 'update.offered.v1'") == 10


async def test_two_replicas_share_the_pace(session, server, database_url, tmp_path, pool):
    """Replicas need not share memory: 200 polls on two of them give 10 grants."""
    async with serving(database_url, tmp_path / "spool-2") as other:
        urls = [str(server.make_url("/v1/update/")), str(other.make_url("/v1/update"))]
        nodes = [Node(session, urls[i % 2]) for i in range(200)]

        answers = await asyncio.gather(*(node.poll() for node in nodes))

    assert sum(answer.offered for answer in answers) == 10
    assert await pool.fetchval("SELECT count(*) FROM fleet.attempts") == 10


async def test_the_pace_of_a_group_binds_below_that_of_the_changeset(session, database_url, pool, tmp_path):
    """A group's pace is kept over all its rollouts, also when the changeset's would allow more."""
    async with pool.acquire() as connection:
        await pretend_analysis_keeps_up(connection)
        await make_world(connection, pace=50, group_pace=3)
    async with serving(database_url, tmp_path / "spool") as server:
        nodes = [Node(session, str(server.make_url("/v1/update"))) for _ in range(60)]
        answers = await asyncio.gather(*(node.poll() for node in nodes))

    assert sum(answer.offered for answer in answers) == 3


async def test_a_halt_lets_nothing_through_after_it(session, server, url, pool, world):
    """A halt that commits while 200 polls run is the last word: no attempt is granted after its event."""
    await pool.execute("UPDATE control.changeset_gates SET pace = 100000")
    await pool.execute("UPDATE control.rollouts SET pace = 100000")
    server.app[KEEPER].wake()
    nodes = [Node(session, url) for _ in range(200)]

    async def halt() -> None:
        await until(lambda: _at_least(pool, 20))
        await pool.fetchval(
            "SELECT control.halt_changeset_v1($1, 'test', 'test', '{}', gen_random_uuid(), 'test')", world.changeset_id
        )

    async def poll_twice(node: Node) -> list[bool]:
        return [(await node.poll()).offered, (await Node(session, url).poll()).offered]

    await asyncio.gather(halt(), *(poll_twice(node) for node in nodes))
    late = await asyncio.gather(*(Node(session, url).poll() for _ in range(20)))

    assert not any(answer.offered for answer in late)
    offered_after_halt = await pool.fetchval(
        "SELECT count(*) FROM event_log.inbox WHERE type = 'update.offered.v1' AND position > "
        "(SELECT position FROM event_log.inbox WHERE type = 'changeset.halted.v1')"
    )
    assert offered_after_halt == 0
    assert await pool.fetchval("SELECT count(*) FROM fleet.attempts WHERE closed_at IS NULL") == 0


async def test_a_hold_lets_nothing_through_after_it(session, server, url, pool, world):
    """Committed while 200 polls run: no node of the segment is granted after its event, and what it had is recalled."""
    await pool.execute("UPDATE control.changeset_gates SET pace = 100000")
    await pool.execute("UPDATE control.rollouts SET pace = 100000")
    server.app[KEEPER].wake()

    async def hold() -> None:
        await until(lambda: _at_least(pool, 20))
        await pool.fetchval(
            "SELECT control.hold_segment_v1(gen_random_uuid(), $1, $2, 'x', 'ana', NULL, gen_random_uuid(), 'control')",
            world.changeset_id,
            {"oem": "ami"},
        )

    async def poll_twice() -> None:
        node = Node(session, url)
        await node.poll()
        await node.poll()

    await asyncio.gather(hold(), *(poll_twice() for _ in range(200)))

    assert not (await Node(session, url).poll()).offered
    offered_after_hold = await pool.fetchval(
        "SELECT count(*) FROM event_log.inbox WHERE type = 'update.offered.v1' AND position > "
        "(SELECT position FROM event_log.inbox WHERE type = 'changeset.held.v1')"
    )
    assert offered_after_hold == 0
    assert await pool.fetchval("SELECT count(*) FROM fleet.attempts WHERE closed_at IS NULL") == 0


async def _at_least(pool, count: int) -> bool:
    return await pool.fetchval("SELECT count(*) FROM fleet.attempts") >= count


async def test_a_rollback_is_recorded_before_the_poll_is_judged(session, url, pool):
    """3/0 with error 44 rides on the next update check: the same release must not be offered in its answer."""
    node = Node(session, url)
    await node.poll()
    await node.stage()
    node.reboot()

    answer = await node.poll(Event(3, 0, 44))

    assert not answer.offered
    assert await state_of(pool, node.machine_id) == "rolled_back"
    assert not (await node.poll()).offered
    quarantine = await pool.fetchrow("SELECT reason FROM fleet.quarantine")
    assert quarantine["reason"] == "reported"


async def test_error_44_in_the_same_boot_is_a_reset_and_no_rollback(session, url, pool):
    """`-reset_status` before the reboot makes update_engine say 44 although nothing was booted."""
    node = Node(session, url)
    await node.poll()
    await node.stage()

    await node.poll(Event(3, 0, 44))

    assert await state_of(pool, node.machine_id) == "failed"
    assert await pool.fetchval("SELECT reason FROM fleet.attempts") == "marker_reset"
    assert await pool.fetchval("SELECT count(*) FROM fleet.quarantine") == 0


async def test_a_rollback_whose_report_was_lost_is_seen_by_comparison(session, url, pool):
    """A staged node that comes with a new boot id and the old version has rolled back, whatever it says."""
    node = Node(session, url)
    await node.poll()
    await node.stage()
    node.reboot()

    answer = await node.poll()

    assert not answer.offered
    assert await state_of(pool, node.machine_id) == "rolled_back"
    assert await pool.fetchval("SELECT reason FROM fleet.attempts") == "came_back_on_old_version"


async def test_a_version_that_goes_back_after_the_commit_is_a_rollback(session, url, pool, world):
    """Committed, and on the old version again without our asking: quarantined, and counted."""
    node = Node(session, url)
    await node.poll()
    await node.stage()
    node.reboot(world.version)
    await node.poll()
    await until(lambda: _is(state_of(pool, node.machine_id), "committed"))
    node.reboot("3033.2.0")

    answer = await node.poll()
    await until(lambda: _is(state_of(pool, node.machine_id), "rolled_back"))

    assert not answer.offered
    assert await pool.fetchval("SELECT reason FROM fleet.attempts") == "version_regressed"


async def test_a_lost_staged_report_is_implied_by_the_commit(session, url, pool, world):
    """A later state implies the ones that were skipped."""
    node = Node(session, url)
    await node.poll()
    node.reboot(world.version)

    await node.poll()

    await until(lambda: _is(state_of(pool, node.machine_id), "committed"))


async def test_a_boot_id_that_returns_marks_the_machine_id_as_cloned(session, url, pool):
    """Two machines under one id get no offers and are no evidence."""
    first = Node(session, url, version="3033.2.1")
    second = Node(session, url, version="3033.2.1", machine_id=first.machine_id)
    for node in (first, second, first, second):
        await node.poll(Event(3, 2, None, "3033.1.0"))

    assert await pool.fetchval("SELECT cloned FROM fleet.nodes")
    assert "node.cloned" in await types_of(pool, first.machine_id)
    first.version = "3033.2.0"
    assert not (await first.poll()).offered


async def test_what_is_sent_twice_counts_once(session, url, pool):
    """The same words in the same attempt and boot are the same event."""
    node = Node(session, url)
    await node.poll()
    await asyncio.gather(*(node.event(13) for _ in range(8)))

    assert (await types_of(pool, node.machine_id)).count("update.download_started") == 1


async def test_a_repeated_check_gets_the_same_offer(session, url, pool):
    """A node that lost the answer asks again: the same token, no second attempt."""
    node = Node(session, url)
    first = await node.poll()
    again = await node.poll()

    assert again.offered
    assert again.token == first.token
    assert await pool.fetchval("SELECT count(*) FROM fleet.attempts") == 1


async def test_a_failed_download_closes_the_attempt_and_waits_before_the_next(session, url, pool):
    """Flag bits are split off; the failure is of its own class and no rollback."""
    node = Node(session, url)
    await node.poll()
    await node.event(13)
    await node.event(3, 0, 9 | 1 << 28)

    row = await pool.fetchrow("SELECT data FROM event_log.inbox WHERE type = 'update.failed.v1'")
    assert (row["data"]["error_base"], row["data"]["error_class"]) == (9, "network")
    assert not (await node.poll()).offered


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "omaha_malformed"),
        (b"<request", "omaha_malformed"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><request protocol="3.0"/>', "omaha_refused"),
        (b'<request protocol="3.0"><app appid="a" machinealias=""a b""></app></request>', "omaha_malformed"),
    ],
)
async def test_what_is_no_omaha_gets_a_clear_answer(session, url, body, code):
    """Malformed and hostile bodies get a 400 that says what is wrong."""
    async with session.post(url, data=body) as response:
        problem = await response.json(content_type=None)

    assert response.status == 400
    assert problem["code"] == code


async def test_a_body_that_is_too_large_is_refused(session, url):
    """64 KiB is the most that is read."""
    async with session.post(url, data=b"<request>" + b" " * 70_000 + b"</request>") as response:
        assert response.status == 413


async def test_an_unknown_application_is_told_so_without_an_error_status(session, url):
    """The update check beside it is an ordinary noupdate, which stock clients take as normal."""
    node = Node(session, url)
    body = node.request(check=True).replace(b"e96281a6", b"00000000")

    answer = await node.send(body)

    assert answer.check.get("status") == "noupdate"
    assert b'status="error-unknownApplication"' in answer.body


async def test_nothing_is_offered_while_the_analysis_lags(session, database_url, pool, world, tmp_path):
    """A judgement that is not alive means no update now, said as noupdate."""
    await pool.execute("UPDATE event_log.followers SET moved_at = clock_timestamp() - interval '1 minute'")
    async with serving(database_url, tmp_path / "spool-3") as server:
        answer = await Node(session, str(server.make_url("/v1/update"))).poll()

    assert answer.status == 200
    assert answer.check.get("status") == "noupdate"


async def test_a_secret_suffix_hides_the_endpoint(session, database_url, world, tmp_path):
    """With a secret, only the path that ends in it answers."""
    async with serving(database_url, tmp_path / "spool-4", omaha_secret="abcdefgh12345678") as server:
        right = await Node(session, str(server.make_url("/v1/update/abcdefgh12345678"))).poll()
        wrong = await Node(session, str(server.make_url("/v1/update/"))).poll()

    assert right.offered
    assert wrong.status == 404


async def test_held_polls_reach_no_database(session, server, url, pool):
    """At a full pace a poll is answered from memory: no transaction happens for it."""
    assert sum([(await Node(session, url).poll()).offered for _ in range(12)]) == 10
    held = Node(session, url)
    await held.poll()
    calls = []
    checks = server.app[CHECKS]
    record, grant = checks._record, checks._grant

    async def watch(name, real, *arguments):
        calls.append(name)
        return await real(*arguments)

    checks._record = lambda *a: watch("record", record, *a)
    checks._grant = lambda *a: watch("grant", grant, *a)
    for _ in range(20):
        assert not (await held.poll()).offered

    assert calls == []


async def test_a_node_keeps_why_it_was_not_updated(session, server, url, pool, world):
    """Also the first poll of a node, one that carries a report, and the one that was granted."""
    first, at_target, rolled_back = Node(session, url), Node(session, url, version=world.version), Node(session, url)
    assert (await first.poll()).offered
    assert not (await at_target.poll()).offered
    await rolled_back.poll()
    await rolled_back.stage()
    rolled_back.reboot()
    await rolled_back.poll(Event(3, 0, 44))

    async def kept() -> bool:
        rows = await pool.fetch("SELECT machine_id, last_answer FROM fleet.nodes WHERE last_answer_at IS NOT NULL")
        return {row[0]: row[1] for row in rows} == {
            first.machine_id: "granted",
            at_target.machine_id: "up_to_date",
            rolled_back.machine_id: "quarantined",
        }

    await until(kept)
    await first.ping()
    await server.app[CONTACTS].flush()
    assert await kept()


async def test_beside_another_server_nodes_are_seen_and_nothing_is_offered(
    session, database_url, pool, world, tmp_path
):
    """Reports are recorded too."""
    await pool.execute("UPDATE control.applications SET observe_only = true")
    async with serving(database_url, tmp_path / "spool-5") as server:
        node = Node(session, str(server.make_url("/v1/update")))
        assert not (await node.poll(Event(3, 2, None, "3033.1.0"))).offered

        async def seen() -> bool:
            return await pool.fetchval("SELECT last_answer FROM fleet.nodes") == "observe_only"

        await until(seen)
        await node.event(3)
    assert "update.staged" in await types_of(pool, node.machine_id)


async def test_a_check_by_hand_jumps_its_wave_where_the_policy_lets_it(session, database_url, pool, tmp_path):
    """Whoever waits does not."""
    async with pool.acquire() as connection:
        await pretend_analysis_keeps_up(connection)
        await make_world(connection, policy={"ondemand_jumps_waves": True})
    await pool.execute("UPDATE control.rollouts SET fraction = 0")
    async with serving(database_url, tmp_path / "spool") as server:
        url = str(server.make_url("/v1/update"))
        assert not (await Node(session, url).poll()).offered
        by_hand = Node(session, url)
        body = by_hand.request(ping=True, check=True).replace(b'"scheduler"', b'"ondemandupdate"')
        assert (await by_hand.send(body)).offered


async def test_a_failure_domain_that_is_busy_is_not_asked_for_again(session, database_url, pool, tmp_path):
    """One node of an oem at a time, however many poll; for a moment the answer is believed without a look."""
    async with pool.acquire() as connection:
        await pretend_analysis_keeps_up(connection)
        await make_world(connection, policy={"failure_domain": "oem"}, pace=100)
    async with serving(database_url, tmp_path / "spool") as server:
        nodes = [Node(session, str(server.make_url("/v1/update"))) for _ in range(200)]
        answers = await asyncio.gather(*(node.poll() for node in nodes))
        [granted] = [node for node, answer in zip(nodes, answers, strict=True) if answer.offered]
        assert (await granted.poll()).offered
        checks = server.app[CHECKS]
        grants = checks._grants.copy()
        checks._grants.clear()
        [domain] = checks._domain_busy_until
        checks._domain_busy_until[domain] = float("inf")
        assert not (await nodes[nodes.index(granted) - 1].poll()).offered
        assert checks._grants == {}
        checks._grants.update(grants)
        for number in range(MAX_DOMAINS):
            checks._domain_busy_until[uuid.UUID(int=number), "x"] = 0.0
        checks._domain_busy_until.pop(next(iter(checks._domain_busy_until)))
        assert not (await nodes[nodes.index(granted) - 2].poll()).offered
        assert len(checks._domain_busy_until) == 1


async def test_last_contacts_are_written_in_batches(session, server, url, pool):
    """A poll without news is no event; the node's last contact is written soon after."""
    nodes = [Node(session, url, version="9999.0.0") for _ in range(30)]
    await asyncio.gather(*(node.poll() for node in nodes))

    async def written() -> bool:
        await server.app[CONTACTS].flush()
        return await pool.fetchval("SELECT count(*) FROM fleet.nodes") == 30

    await until(written)
    assert await pool.fetchval("SELECT sum(contacts) FROM fleet.contact_counts") == 30


async def test_reports_survive_while_postgres_is_away(session, tmp_path):
    """Postgres is killed: reports go to the spool and are answered, polls get noupdate; both are made good later."""
    directory = Path(tempfile.mkdtemp(prefix="uneventful-test-spool-"))
    directory.chmod(0o711)  # noqa: ASYNC240  # a test may
    postgres = PostgresServer(directory, port=free_ports(1)[0], durable=True)
    await postgres.start()
    try:
        database_url = postgres.url("postgres")
        await migrate(database_url)
        connection = await asyncpg.connect(database_url)
        await set_codecs(connection)
        await pretend_analysis_keeps_up(connection)
        await make_world(connection)
        await connection.close()
        spool = tmp_path / "spool"
        async with serving(database_url, spool) as server:
            url = str(server.make_url("/v1/update"))
            node = Node(session, url)
            assert (await node.poll()).offered
            postgres.kill()
            await postgres.wait()
            answers = [await node.event(13), await node.event(14), await node.event(3)]
            fresh = await Node(session, url).poll()

            assert [answer.status for answer in answers] == [200, 200, 200]
            assert fresh.check.get("status") == "noupdate"
            assert not server.app[SPOOL].empty
            await postgres.start()

            async def drained() -> bool:
                return server.app[SPOOL].empty

            await until(drained, 30)
            connection = await asyncpg.connect(database_url)
            assert await connection.fetchval("SELECT state FROM fleet.attempts") == "staged"
            await connection.close()
    finally:
        await postgres.stop()
        shutil.rmtree(directory, ignore_errors=True)
