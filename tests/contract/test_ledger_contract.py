"""What holds for the ledger, on Postgres with the mover and on the twin."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from datetime import timedelta

import pytest

from services.event_log.mover import Mover
from shared import ledger as real
from shared.db import connect
from shared.errors import Conflict, EventInvalid, InvalidInput, NotFound
from shared.events import NewEvent, types
from shared.ledger import GENESIS
from shared.testing.clock import EPOCH
from shared.testing.ids import SequentialIds
from shared.testing.ledger import MemoryLedger


class PostgresLedger:
    """The functions of ``shared.ledger`` and the mover behind the twin's methods."""

    def __init__(self, pool, mover) -> None:
        self.pool = pool
        self.mover = mover

    async def append(self, events):
        async with self.pool.acquire() as connection, connection.transaction():
            count = await real.append(connection, events)
        while await self.mover.step():
            pass
        return count

    async def head_seq(self):
        return (await real.head(self.pool))[0]

    async def read(self, **filters):
        return await real.read(self.pool, **filters)

    async def checkpoint(self, follower):
        return await real.checkpoint(self.pool, follower)

    async def advance(self, follower, *, old, new):
        async with self.pool.acquire() as connection, connection.transaction():
            await real.advance(connection, follower, old=old, new=new)

    async def verify_chain(self, *, after=0):
        async with self.pool.acquire() as connection:
            return await real.verify_chain(connection, after=after)


@pytest.fixture
async def postgres_ledger(pool, database_url):
    connection = await connect(database_url, application_name="mover")
    yield PostgresLedger(pool, Mover(connection, batch_size=7, idle_s=0.01, partitions_ahead=1))
    await connection.close()


@pytest.fixture(params=["memory", "postgres"])
def ledger(request):
    return MemoryLedger() if request.param == "memory" else request.getfixturevalue("postgres_ledger")


IDS = SequentialIds()


def event(node: str = "n1", kind: str = "policy.changed.v1", correlation: str | None = None, **changes) -> NewEvent:
    fields = {
        "type": kind,
        "subject": f"nodes/{node}",
        "partition_key": node,
        "data": {"policy_version": 1, "subject": node, "what": "é", "by": "ana"},
        "event_id": IDS.uuid7(),
        "time": EPOCH,
        "source": "/uneventful/test",
        "correlation_id": correlation,
    }
    return NewEvent(**{**fields, **changes})


async def test_entries_are_dense_in_order_and_complete(ledger):
    """What was appended comes back in the order of appending, with everything that was said."""
    events = [event(f"n{number % 3}", correlation="a1") for number in range(20)]
    assert await ledger.append(events) == 20
    entries = await ledger.read(after=0, limit=100)
    assert [entry.seq for entry in entries] == list(range(1, 21))
    assert [entry.event_id for entry in entries] == [each.event_id for each in events]
    entry = entries[4]
    assert entry.envelope.id == str(events[4].event_id)
    assert entry.envelope.sequence == f"{5:020d}"
    assert entry.envelope.recorded_time == entry.recorded_at
    assert entry.occurred_at == EPOCH
    assert isinstance(entry.data, types.PolicyChanged)
    assert entry.data.what == "é"
    assert all(one.recorded_at <= other.recorded_at for one, other in itertools.pairwise(entries))
    assert await ledger.head_seq() == 20


async def test_sent_twice_counts_once(ledger):
    """An id counts once, in one call and over calls; the first one stands."""
    once, other = event(), event("n2")
    assert await ledger.append([once, other, once]) == 2
    assert await ledger.append([other]) == 0
    assert await ledger.append([event("n3"), once]) == 1
    assert await ledger.append([]) == 0
    assert [entry.partition_key for entry in await ledger.read(after=0, limit=10)] == ["n1", "n2", "n3"]


async def test_filters(ledger):
    """Type patterns, subject, key and correlation narrow a read; after, until and limit cut it."""
    await ledger.append(
        [
            event("n1", "node.gone.v1", "a1", data={"node_id": "n1"}),
            event("n2", "policy.changed.v1"),
            event("n1", "policy.changed.v1", "a1"),
            event("n2", "node.gone.v1", "a2", data={"node_id": "n2"}),
        ]
    )

    async def seqs(**filters):
        return [entry.seq for entry in await ledger.read(**{"after": 0, "limit": 10, **filters})]

    assert await seqs(types=["node.#"]) == [1, 4]
    assert await seqs(types=["*.changed.v1", "node.gone.v1"]) == [1, 2, 3, 4]
    assert await seqs(types=["#"], subject="nodes/n2") == [2, 4]
    assert await seqs(types=[]) == []
    assert await seqs(partition_key="n1") == [1, 3]
    assert await seqs(partition_key="n1", types=["policy.#"]) == [3]
    assert await seqs(correlation_id="a1") == [1, 3]
    assert await seqs(correlation_id="a1", partition_key="n1", types=["node.#"]) == [1]
    assert await seqs(after=1, until=3) == [2, 3]
    assert await seqs(after=1, limit=1) == [2]


@pytest.mark.parametrize("filters", [{"limit": 0}, {"limit": 10_001}, {"limit": 1, "types": ["update.*"]}])
async def test_reads_out_of_bounds_are_refused(ledger, filters):
    """A read that could only surprise is refused."""
    with pytest.raises(InvalidInput):
        await ledger.read(after=0, **filters)


async def test_appends_that_cannot_be_are_refused(ledger):
    """More than 10,000 at once, and what JSON cannot say; nothing of such a call is appended."""
    with pytest.raises(InvalidInput):
        await ledger.append([event()] * 10_001)
    with pytest.raises(EventInvalid):
        await ledger.append([event(), event(data={"x": object()})])
    assert await ledger.head_seq() == 0


async def test_checkpoints_compare_and_set(ledger):
    """Of two that move a checkpoint from the same place one wins."""
    assert await ledger.checkpoint("one") == 0
    await ledger.advance("one", old=0, new=5)
    await ledger.advance("one", old=5, new=9)
    assert await ledger.checkpoint("one") == 9
    assert await ledger.checkpoint("two") == 0
    for old in (0, 5):
        with pytest.raises(Conflict):
            await ledger.advance("one", old=old, new=12)
    with pytest.raises(Conflict):
        await ledger.advance("two", old=3, new=4)
    with pytest.raises(InvalidInput):
        await ledger.advance("one", old=9, new=9)
    results = await asyncio.gather(*(ledger.advance("three", old=0, new=n) for n in (1, 2, 3)), return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == 2


async def test_the_chain_verifies(ledger):
    """From the beginning, from the middle, and when there is nothing."""
    empty = await ledger.verify_chain()
    assert (empty.ok, empty.checked, empty.last_hash) == (True, 0, GENESIS)
    await ledger.append([event(f"n{number}") for number in range(10)])
    result = await ledger.verify_chain()
    assert (result.ok, result.checked, result.last_seq) == (True, 10, 10)
    assert (await ledger.verify_chain(after=4)).checked == 6
    with pytest.raises(NotFound):
        await ledger.verify_chain(after=11)


@contextlib.asynccontextmanager
async def tampering(ledger):
    """Postgres without its triggers, as a superuser could do it."""
    async with ledger.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role TO replica")
        yield connection


async def change(ledger, seq, **columns):
    if isinstance(ledger, MemoryLedger):
        place = [entry.seq for entry in ledger.entries].index(seq)
        old = ledger.entries[place]
        kept = {name: getattr(old, name) for name in old.__dataclass_fields__}
        ledger.entries[place] = type(old)(**{**kept, **columns})
        return
    async with tampering(ledger) as connection:
        for name, value in columns.items():
            column = "event" if name == "raw" else name
            statement = f"UPDATE event_log.ledger SET {column} = $2 WHERE seq = $1"  # noqa: S608 - names of this file
            await connection.execute(statement, seq, value)


async def remove(ledger, seq):
    if isinstance(ledger, MemoryLedger):
        ledger.entries = [entry for entry in ledger.entries if entry.seq != seq]
        return
    async with tampering(ledger) as connection:
        await connection.execute("DELETE FROM event_log.ledger WHERE seq = $1", seq)


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (lambda ledger, entry: change(ledger, 3, raw=entry.raw.replace(b"ana", b"bob")), "hash"),
        (lambda ledger, _: change(ledger, 3, hash=bytes(32)), "hash"),
        (lambda ledger, entry: change(ledger, 3, recorded_at=entry.recorded_at + timedelta(microseconds=1)), "hash"),
        (lambda ledger, entry: change(ledger, 3, recorded_at=entry.recorded_at - timedelta(days=1)), "time"),
        (lambda ledger, _: change(ledger, 3, type="node.gone.v1"), "type"),
        (lambda ledger, _: change(ledger, 3, event_id=uuid.UUID(int=1)), "event_id"),
        (lambda ledger, _: change(ledger, 3, correlation_id="a9"), "correlation_id"),
        (lambda ledger, _: remove(ledger, 3), "missing"),
    ],
    ids=["event", "hash", "time", "time back", "type", "id", "correlation", "gap"],
)
async def test_verification_says_where_the_chain_breaks(ledger, tamper, says):
    """Whatever is changed, the seq of the first entry that does not hold is named."""
    await ledger.append([event(f"n{number}") for number in range(5)])
    await tamper(ledger, (await ledger.read(after=2, limit=1))[0])
    result = await ledger.verify_chain()
    assert (result.ok, result.broken_at, result.checked) == (False, 3, 2)
    assert says in result.reason


async def test_verification_misses_the_end(ledger):
    """Entries cut off the end are seen, because the head says where it is."""
    await ledger.append([event(f"n{number}") for number in range(5)])
    await remove(ledger, 5)
    result = await ledger.verify_chain()
    assert (result.broken_at, result.last_seq) == (5, 4)
