"""The ledger's rules without Postgres: assembling batches, and the twin against a plain list."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.event_log.assemble import Head, assemble
from services.event_log.ticker import differences
from shared.errors import Conflict
from shared.events import NewEvent, decode
from shared.ledger import GENESIS, ChainCheck, chain_hash
from shared.ledger.entry import LedgerEntry
from shared.testing.clock import EPOCH, ManualClock
from shared.testing.ledger import MemoryLedger

DATA = {"policy_version": 1, "subject": "s", "what": "w", "by": "b"}


def row(number: int, **changes: object) -> dict[str, Any]:
    return {
        "event_id": uuid.UUID(int=number),
        "type": "policy.changed.v1",
        "source": "/uneventful/test",
        "subject": "policy",
        "partition_key": "policy",
        "occurred_at": EPOCH + timedelta(seconds=number),
        "data": orjson.dumps(DATA | {"policy_version": number}).decode(),
        "correlation_id": None,
        "causation_id": None,
        "traceparent": None,
        **changes,
    }


START = Head(0, GENESIS, datetime(2000, 1, 1, tzinfo=UTC))


def test_the_hash_is_the_documented_one():
    """sha256(previous || seq || microseconds || event), numbers as 8 bytes big-endian: others can verify it too."""
    batch = assemble(START, [row(1)], EPOCH)
    raw = batch.rows[0][9]
    microseconds = int(EPOCH.timestamp()) * 1_000_000
    expected = hashlib.sha256(bytes(32) + (1).to_bytes(8, "big") + microseconds.to_bytes(8, "big") + raw).digest()
    assert batch.rows[0][8] == batch.head.hash == expected == chain_hash(GENESIS, 1, microseconds, raw)
    assert (batch.head.seq, batch.head.recorded_at) == (1, EPOCH)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), back=st.integers(0, 3))
def test_batches_of_any_size_make_a_whole_chain(sizes, back):
    """However rows fall into batches, and whatever the clock does, the chain is dense and holds."""
    head, check, number = START, ChainCheck(), 0
    for place, size in enumerate(sizes):
        rows = [row(number + offset + 1) for offset in range(size)]
        number += size
        batch = assemble(head, rows, EPOCH + timedelta(seconds=place * (-1) ** back))
        for seq, event_id, kind, subject, key, correlation, recorded_at, occurred_at, digest, raw in batch.rows:
            entry = LedgerEntry(
                seq=seq,
                event_id=event_id,
                type=kind,
                subject=subject,
                partition_key=key,
                correlation_id=correlation,
                recorded_at=recorded_at,
                occurred_at=occurred_at,
                hash=digest,
                raw=raw,
            )
            assert check.take(entry) is None
        head = batch.head
    assert (head.seq, check.last_seq, check.last_hash) == (number, number, head.hash)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "[1]"},
        {"data": '{"policy_version": "new"}'},
        {"data": "1" + "0" * 400},
        {"type": "x"},
        {"type": "a.b.v0"},
        {"partition_key": ""},
        {"partition_key": "x" * 257},
        {"correlation_id": ""},
        {"subject": "x" * 5000},
        {"data": '{"a":"' + "x" * 300_000 + '"}'},
        {"data": '{"a":' * 40 + "{}" + "}" * 40},
    ],
)
def test_what_followers_would_refuse_does_not_enter(changes):
    """The bad row is refused with a reason; its seq goes to the next one."""
    batch = assemble(START, [row(1), row(2, **changes), row(3)], EPOCH)
    assert [entry[0] for entry in batch.rows] == [1, 2]
    assert [str(decode(entry[9]).id) for entry in batch.rows] == [str(uuid.UUID(int=1)), str(uuid.UUID(int=3))]
    ((refused, reason),) = batch.refused
    assert refused["event_id"] == uuid.UUID(int=2)
    assert reason


def test_a_batch_of_poison_moves_nothing():
    """The head stays where it is."""
    batch = assemble(START, [row(1, type="x")], EPOCH)
    assert (batch.head, batch.rows) == (START, [])


def test_what_looks_odd_and_is_well_enters():
    """Brackets in texts are no depth."""
    batch = assemble(START, [row(1, data=orjson.dumps(DATA | {"a": "{" * 99}).decode(), traceparent="junk")], EPOCH)
    assert len(batch.rows) == 1
    assert decode(batch.rows[0][9]).traceparent is None


def test_differences_of_counters():
    """New sites count from zero; a counter that went back counts as nothing."""
    assert differences({"a": 5, "b": 2, "c": 1}, {"a": 3, "c": 4, "d": 9}) == {"a": 2, "b": 2, "c": 0}


def now(coroutine):
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    raise AssertionError("it waited")


class LedgerMachine(RuleBasedStateMachine):
    """The twin does what a plain list would."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.ledger = MemoryLedger(self.clock)
        self.model: list[tuple[int, str]] = []
        self.checkpoints = {"a": 0, "b": 0}

    @rule(sent=st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["k1", "k2"])), max_size=6))
    def append(self, sent):
        events = [
            NewEvent(
                type="policy.changed.v1",
                subject=key,
                partition_key=key,
                data={},
                event_id=uuid.UUID(int=number),
                time=EPOCH,
                source="/x",
            )
            for number, key in sent
        ]
        fresh = 0
        for number, key in sent:
            if number not in [known for known, _ in self.model]:
                self.model.append((number, key))
                fresh += 1
        assert now(self.ledger.append(events)) == fresh

    @rule(seconds=st.integers(0, 5))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule(after=st.integers(0, 35), limit=st.integers(1, 10), key=st.sampled_from([None, "k1", "k2"]))
    def read(self, after, limit, key):
        expected = [
            (seq, number) for seq, (number, at) in enumerate(self.model, 1) if seq > after and key in {None, at}
        ][:limit]
        entries = now(self.ledger.read(after=after, limit=limit, partition_key=key))
        assert [(entry.seq, entry.event_id.int) for entry in entries] == expected

    @rule(name=st.sampled_from("ab"), old=st.integers(0, 3), step=st.integers(1, 3))
    def advance(self, name, old, step):
        if old == self.checkpoints[name]:
            now(self.ledger.advance(name, old=old, new=old + step))
            self.checkpoints[name] = old + step
        else:
            with pytest.raises(Conflict):
                now(self.ledger.advance(name, old=old, new=old + step))
        assert now(self.ledger.checkpoint(name)) == self.checkpoints[name]

    @invariant()
    def the_chain_holds(self):
        result = now(self.ledger.verify_chain())
        assert (result.ok, result.checked) == (True, len(self.model))


TestLedgerMachine = LedgerMachine.TestCase
