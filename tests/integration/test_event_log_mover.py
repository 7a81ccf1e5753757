"""The mover on Postgres: order, poison, one writer, and a ledger that cannot be changed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import pytest

from services.event_log.housekeeping import forget_seen
from services.event_log.leadership import lead_for_ever
from services.event_log.mover import Mover
from services.event_log.relay import FOLLOWER, Relay
from services.event_log.ticker import Ticker
from shared.clock import SystemClock
from shared.db import connect
from shared.errors import Conflict
from shared.events import NewEvent, decode_data, types
from shared.ids import SystemIds
from shared.ledger import LedgerFollower, LedgerSignal, append, checkpoint, read, verify_chain

IDS = SystemIds()
INSERT = """INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data)
            VALUES ($1, $2, '/uneventful/test', $3, $4, now(), $5::text::jsonb)"""


def event(node: str = "n1", **data: object) -> NewEvent:
    return NewEvent(
        type="policy.changed.v1",
        subject=f"nodes/{node}",
        partition_key=node,
        data={"policy_version": 1, "subject": node, "what": "x", "by": "ana", **data},
        event_id=IDS.uuid7(),
        time=datetime.now(UTC),
        source="/uneventful/test",
    )


@pytest.fixture
async def mover(database_url):
    connection = await connect(database_url, application_name="mover")
    yield Mover(connection, batch_size=100, idle_s=0.01, partitions_ahead=1)
    await connection.close()


async def drain(mover: Mover) -> int:
    steps = 0
    while await mover.step():
        steps += 1
    return steps


@contextlib.asynccontextmanager
async def beside(*works):
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition, seconds: float = 20.0):
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        await asyncio.sleep(0.02)


async def test_interleaved_writers_lose_nothing(pool, database_url, mover):
    """Where transactions commit out of order, who follows the inbox's serial column misses rows; we miss none."""
    writers, each = 12, 40
    naive: list[int] = []
    followed: list[str] = []
    written: set[str] = set()

    async def write(number: int) -> None:
        chance = random.Random(number)
        for count in range(each):
            new = event(f"w{number}", policy_version=count)
            async with pool.acquire() as connection, connection.transaction():
                await append(connection, [new])
                # The serial position was given; others get later ones and commit before this one does.
                await connection.execute("SELECT pg_sleep($1)", chance.random() * 0.012)
            written.add(str(new.event_id))

    async def follow_naively(connection) -> None:
        last = 0
        while True:
            rows = await connection.fetch(
                "SELECT position FROM event_log.inbox WHERE position > $1 ORDER BY position", last
            )
            naive.extend(row["position"] for row in rows)
            last = rows[-1]["position"] if rows else last

    async def follow() -> None:
        async for batch in LedgerFollower(pool, after=0, poll_s=0.005):
            followed.extend(str(entry.event_id) for entry in batch)

    async def move() -> None:
        while True:
            await mover.step()
            await asyncio.sleep(0.005)

    # The naive follower alone first: the mover would take rows away from under it and make its case worse.
    naive_connection = await connect(database_url, application_name="naive")
    async with beside(follow_naively(naive_connection)):
        await asyncio.gather(*(write(number) for number in range(writers // 2)))
        await asyncio.sleep(0.05)
    await naive_connection.close()
    assert len(naive) < writers // 2 * each, "the naive follower should have missed rows"

    async with beside(follow(), move()):
        await asyncio.gather(*(write(number) for number in range(writers // 2, writers)))

        async def caught_up() -> bool:
            return len(followed) >= len(written)

        await until(caught_up)
    assert len(followed) == len(set(followed)) == writers * each
    assert set(followed) == written
    result = await verify(pool)
    assert (result.ok, result.checked) == (True, writers * each)
    orders: dict[str, list[int]] = {}
    for entry in await read(pool, after=0, limit=10_000):
        orders.setdefault(entry.partition_key, []).append(entry.data.policy_version)
    assert all(order == list(range(each)) for order in orders.values()), "events of one key keep their order"


async def verify(pool):
    async with pool.acquire() as connection:
        return await verify_chain(connection)


async def test_poison_is_set_aside_and_the_rest_goes_on(pool, mover):
    """What we cannot encode, what Postgres refuses, what is no event: each with its reason, the others in order."""
    good = [event(f"n{number}") for number in range(6)]

    async def insert(kind: str, key: str, data: str, subject: str = "s") -> None:
        await pool.execute(INSERT, uuid.uuid4(), kind, subject, key, data)

    await append(pool, good[:2])
    await insert("policy.changed.v1", "k", '{"x": 1' + "0" * 400 + "}")
    await insert("no type", "k", "{}")
    await append(pool, good[2:4])
    await insert("policy.changed.v1", "k", orjson.dumps({"x": "y" * 300_000}).decode())
    await insert("policy.changed.v1", "", "{}")
    await insert("policy.changed.v1", "k", "[1]")
    await insert("policy.changed.v1", "k", '{"a":' * 40 + "{}" + "}" * 40)
    await insert("policy.changed.v1", "k", '{"policy_version": "new"}')
    fitting = '{"policy_version": 1, "subject": "s", "what": "w", "by": "b"}'
    await insert("policy.changed.v1", "k", fitting, subject="evil")
    await append(pool, good[4:])
    await pool.execute("ALTER TABLE event_log.ledger ADD CONSTRAINT no_evil CHECK (subject <> 'evil')")

    await drain(mover)

    assert [entry.event_id for entry in await read(pool, after=0, limit=100)] == [each.event_id for each in good]
    reasons = [row["error"] for row in await pool.fetch("SELECT error FROM event_log.set_aside ORDER BY position")]
    assert len(reasons) == 8
    for reason, says in zip(
        reasons, ("infinity", "regex", "bytes", "length", "no object", "deeper", "does not fit", "no_evil"), strict=True
    ):
        assert says in reason
    assert await pool.fetchval("SELECT count(*) FROM event_log.inbox") == 0
    assert (await verify(pool)).ok


async def test_a_bad_traceparent_costs_no_event(pool, mover):
    """A trace is a convenience."""
    await append(pool, [event(), event()])
    await pool.execute("UPDATE event_log.inbox SET traceparent = 'nonsense'")
    await drain(mover)
    assert [entry.envelope.traceparent for entry in await read(pool, after=0, limit=9)] == [None, None]


async def test_two_movers_never_both_write(pool, database_url, mover):
    """A mover that was paused while another one wrote is refused by the head, and nothing of its batch remains."""
    await append(pool, [event() for _ in range(3)])
    await drain(mover)
    connection = await connect(database_url, application_name="rival")
    rival = Mover(connection, batch_size=100, idle_s=0.01, partitions_ahead=1)
    await append(pool, [event() for _ in range(3)])
    await drain(rival)
    await append(pool, [event() for _ in range(3)])
    with pytest.raises(Conflict, match="another mover"):
        await mover.step()
    await drain(rival)
    await connection.close()
    result = await verify(pool)
    assert (result.ok, result.checked) == (True, 9)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event_log.ledger SET type = 'x'",
        "DELETE FROM event_log.ledger",
        "TRUNCATE event_log.ledger",
        "UPDATE event_log.ledger_000000 SET type = 'x'",
        "DELETE FROM event_log.ledger_000000",
        "TRUNCATE event_log.ledger_000001",
    ],
)
async def test_the_ledger_refuses_change(pool, mover, statement):
    """Nobody changes what was recorded, through the table or a partition of it."""
    await append(pool, [event()])
    await drain(mover)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="append-only"):
        await pool.execute(statement)


async def test_ledger_time_never_goes_back(pool, mover):
    """When Postgres's clock stands behind the ledger, ledger time stands still."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    await pool.execute("UPDATE event_log.head SET recorded_at = $1", ahead)
    await append(pool, [event(), event()])
    await drain(mover)
    assert [entry.recorded_at for entry in await read(pool, after=0, limit=9)] == [ahead, ahead]
    assert (await verify(pool)).ok


async def test_a_batch_crosses_into_the_next_partition(pool, mover):
    """Partitions are made ahead, so a batch over the end of one meets the next."""
    await pool.execute("UPDATE event_log.head SET seq = 2999998")
    await append(pool, [event() for _ in range(5)])
    await drain(mover)
    seqs = await pool.fetch("SELECT seq, tableoid::regclass::text AS place FROM event_log.ledger ORDER BY seq")
    assert [(row["seq"], row["place"]) for row in seqs] == [
        (2999999, "event_log.ledger_000002"),
        (3000000, "event_log.ledger_000003"),
        (3000001, "event_log.ledger_000003"),
        (3000002, "event_log.ledger_000003"),
        (3000003, "event_log.ledger_000003"),
    ]


async def test_followers_are_woken(pool, mover):
    """A notification wakes a follower long before it would look by itself."""
    async with LedgerSignal(pool) as signal:
        await signal.listening()
        follower = LedgerFollower(pool, after=0, wake=signal.event(), poll_s=30)
        batches = aiter(follower)
        waiting = asyncio.create_task(anext(batches))
        await asyncio.sleep(0)
        await append(pool, [event()])
        await drain(mover)
        batch = await asyncio.wait_for(waiting, 10)
        assert [entry.seq for entry in batch] == [1]
        assert follower.position == 1
        await batches.aclose()


async def test_followers_and_signals_outlive_lost_connections(pool, mover, database_url):
    """Connections that Postgres ends are opened again; nothing is missed."""
    async with LedgerSignal(pool) as signal:
        await signal.listening()
        seen: list[int] = []

        async def follow() -> None:
            async for batch in LedgerFollower(pool, after=0, wake=signal.event(), poll_s=0.2):
                seen.extend(entry.seq for entry in batch)

        async with beside(follow()):
            for number in range(1, 4):
                admin = await asyncpg.connect(database_url)
                await admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test' "
                    "AND datname = current_database()"
                )
                await append(admin, [event()])
                await admin.close()
                await drain(mover)

                async def arrived(number=number) -> bool:
                    return len(seen) == number

                await until(arrived)
    assert seen == [1, 2, 3]


async def test_filtered_followers_move_past_what_they_leave_out(pool, mover):
    """The position to advance to is not held back by entries that the filter leaves out."""
    await append(pool, [event() for _ in range(5)])
    await drain(mover)
    follower = LedgerFollower(pool, after=0, types=["node.#"])
    assert await follower.look() == []
    assert follower.position == 5
    follower = LedgerFollower(pool, after=0, types=["policy.#"], batch=2)
    assert [[entry.seq for entry in await follower.look()] for _ in range(4)] == [[1, 2], [3, 4], [5], []]


async def test_leadership_passes_on(pool, database_url):
    """One leads; when its connection ends another does, and the first one stands by."""
    leading: list[str] = []

    def lead_as(name: str):
        async def lead(connection) -> None:
            leading.append(name)
            while True:
                await connection.execute("SELECT pg_sleep(0.05)")

        return lead

    async with beside(*(lead_for_ever(database_url, "test", lead_as(name), standby_s=0.02) for name in "ab")):

        async def led() -> bool:
            return len(leading) == 1

        await until(led)
        await asyncio.sleep(0.2)
        assert len(leading) == 1
        await pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )

        async def passed() -> bool:
            return len(leading) == 2

        await until(passed)
    assert set(leading) <= {"a", "b"}


async def test_ticks_carry_differences_and_lag(pool, mover):
    """A tick says what came in since the last one, and a second one too soon is not made."""
    ticker = Ticker(pool, SystemClock(), IDS, interval_s=5.0)

    async def age() -> None:
        await pool.execute("UPDATE event_log.last_tick SET ticked_at = ticked_at - interval '5 s'")

    count = (
        "INSERT INTO fleet.contact_counts (site, writer, contacts) VALUES ($1, $2, $3) "
        "ON CONFLICT (site, writer) DO UPDATE SET contacts = $3"
    )
    await pool.execute(count, "ams1", "a", 100)
    assert await ticker.tick()
    assert not await ticker.tick()
    await pool.execute(count, "ams1", "a", 130)
    await pool.execute(count, "ams1", "b", 5)
    await pool.execute(count, "fra1", "a", 7)
    await append(pool, [event()])
    await pool.execute("UPDATE event_log.inbox SET appended_at = appended_at - interval '3 s'")
    await age()
    assert await ticker.tick()
    await drain(mover)
    first, second = [decode_data(entry.envelope) for entry in await read(pool, after=0, limit=9, types=["log.#"])]
    assert isinstance(first, types.LogTicked)
    assert (first.contacts, first.interval_s, first.inbox_depth) == ({"ams1": 0}, 5.0, 0)
    assert isinstance(second, types.LogTicked)
    assert second.contacts == {"ams1": 35, "fra1": 7}
    assert 5.0 <= second.interval_s < 6.0
    assert 3.0 <= second.ingest_lag_s < 4.0
    assert second.inbox_depth == 2


async def test_old_event_ids_are_forgotten(pool):
    """What no agent can send again is forgotten in chunks; the rest is kept."""
    await append(pool, [event() for _ in range(25)])
    await pool.execute(
        "UPDATE event_log.seen SET seen_at = now() - interval '46 days' "
        "WHERE event_id IN (SELECT event_id FROM event_log.seen LIMIT 22)"
    )
    assert await forget_seen(pool, seen_days=45, chunk=10) == 22
    assert await pool.fetchval("SELECT count(*) FROM event_log.seen") == 3


async def test_appending_under_contention_never_deadlocks(pool):
    """Callers with the same ids in other orders wait for each other; each id counts once."""
    events = [event(f"n{number}") for number in range(60)]

    async def send(seed: int) -> int:
        mine = random.Random(seed).sample(events, 40)
        return await append(pool, mine)

    counts = await asyncio.gather(*(send(seed) for seed in range(16)))
    assert sum(counts) == await pool.fetchval("SELECT count(*) FROM event_log.inbox")
    assert await pool.fetchval("SELECT count(DISTINCT event_id) FROM event_log.inbox") == sum(counts)


async def test_the_relay_waits_for_a_broker_that_is_away(pool, mover, database_url):
    """Without a broker the relay neither ends nor moves its checkpoint, and the mover does not care."""
    await append(pool, [event()])
    await drain(mover)
    connection = await connect(database_url, application_name="relay")
    relay = Relay(pool, "amqp://user:hush@127.0.0.1:1/", batch=10, wake=asyncio.Event())
    async with beside(relay.run(connection)) as tasks:
        await asyncio.wait(tasks, timeout=0.5)
        assert not tasks[0].done()
    assert await checkpoint(pool, FOLLOWER) == 0
    await connection.close()


async def test_a_follower_waits_out_an_outage_and_then_gives_up(pool, mover):
    """Postgres may be away for a while; after that the follower says so."""
    await append(pool, [event()])
    await drain(mover)

    class Away:
        """A pool whose server is away for some looks."""

        def __init__(self, looks: int) -> None:
            self.looks = looks

        def acquire(self):
            self.looks -= 1
            if self.looks >= 0:
                raise ConnectionRefusedError
            return pool.acquire()

    batches = aiter(LedgerFollower(Away(3), after=0))
    assert [entry.seq for entry in await asyncio.wait_for(anext(batches), 10)] == [1]
    await batches.aclose()
    with pytest.raises(ConnectionRefusedError):
        await anext(aiter(LedgerFollower(Away(1000), after=0, outage_s=0.1)))
