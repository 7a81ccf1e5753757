"""The ledger's twin: in memory, at once in the ledger, no Postgres."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Sequence
from datetime import datetime

import orjson

from shared.clock import Clock
from shared.errors import Conflict, InvalidInput, NotFound
from shared.events import NewEvent, canonical_event, encode_data
from shared.events.patterns import to_regex
from shared.ledger.entry import GENESIS, LedgerEntry, chain_hash, microseconds
from shared.ledger.store import MAX_APPEND, MAX_READ, MAX_SEQ
from shared.ledger.verify import ChainCheck, VerifyResult
from shared.testing.clock import ManualClock


class MemoryLedger:
    """Append, read, checkpoints and verification as ``shared.ledger`` has them.

    ``entries`` may be changed by a test that wants a broken chain.

    Args:
        clock: Gives ledger time.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = ManualClock() if clock is None else clock
        self.entries: list[LedgerEntry] = []
        self._seen: set[uuid.UUID] = set()
        self._checkpoints: dict[str, int] = {}
        self._wakes: list[asyncio.Event] = []
        self._recorded_at: datetime | None = None
        self._head = (0, GENESIS)

    async def append(self, events: Sequence[NewEvent]) -> int:
        """As ``shared.ledger.append``; the entries are in the ledger when it returns."""
        if len(events) > MAX_APPEND:
            raise InvalidInput(f"{len(events)} events at once are more than {MAX_APPEND}: append them in parts")
        datas = [orjson.loads(encode_data(event.data)) for event in events]
        count = 0
        for event, data in zip(events, datas, strict=True):
            if event.event_id not in self._seen:
                self._seen.add(event.event_id)
                self._add(event, data)
                count += 1
        if count:
            for wake in self._wakes:
                wake.set()
        return count

    def _add(self, event: NewEvent, data: object) -> None:
        now = self._clock.now()
        self._recorded_at = now if self._recorded_at is None else max(self._recorded_at, now)
        seq = self._head[0] + 1
        raw = canonical_event(
            event_id=str(event.event_id),
            event_type=event.type,
            source=event.source,
            subject=event.subject,
            partition_key=event.partition_key,
            time=event.time,
            data=data,
            correlation_id=event.correlation_id,
            causation_id=event.causation_id,
            traceparent=event.traceparent,
            recorded_time=self._recorded_at,
            seq=seq,
        )
        entry = LedgerEntry(
            seq=seq,
            event_id=event.event_id,
            type=event.type,
            subject=event.subject,
            partition_key=event.partition_key,
            correlation_id=event.correlation_id,
            recorded_at=self._recorded_at,
            occurred_at=event.time,
            hash=chain_hash(self._head[1], seq, microseconds(self._recorded_at), raw),
            raw=raw,
        )
        self.entries.append(entry)
        self._head = (seq, entry.hash)

    def event(self) -> asyncio.Event:
        """A new event that is set on every growth, as ``LedgerSignal.event``."""
        event = asyncio.Event()
        self._wakes.append(event)
        return event

    async def head_seq(self) -> int:
        """The last seq; 0 when it is empty."""
        return self._head[0]

    async def read(
        self,
        *,
        after: int,
        limit: int,
        until: int = MAX_SEQ,
        types: Sequence[str] | None = None,
        subject: str | None = None,
        partition_key: str | None = None,
        correlation_id: str | None = None,
    ) -> list[LedgerEntry]:
        """As ``shared.ledger.read``."""
        if not 1 <= limit <= MAX_READ:
            raise InvalidInput(f"limit must be between 1 and {MAX_READ}, not {limit}")
        regexes = None if types is None else [re.compile(to_regex(pattern)) for pattern in types]
        fitting = (
            entry
            for entry in self.entries
            if after < entry.seq <= until
            and (regexes is None or any(regex.fullmatch(entry.type) for regex in regexes))
            and subject in {None, entry.subject}
            and partition_key in {None, entry.partition_key}
            and (correlation_id is None or correlation_id == entry.correlation_id)
        )
        return [entry for entry, _ in zip(fitting, range(limit), strict=False)]

    async def checkpoint(self, follower: str) -> int:
        """As ``shared.ledger.checkpoint``."""
        return self._checkpoints.get(follower, 0)

    async def advance(self, follower: str, *, old: int, new: int) -> None:
        """As ``shared.ledger.advance``."""
        if new <= old:
            raise InvalidInput(f"follower {follower} can only move forward, not from {old} to {new}")
        if self._checkpoints.get(follower, 0) != old:
            raise Conflict(f"follower {follower} is not at {old} any more: another instance moved it, read again")
        self._checkpoints[follower] = new

    async def verify_chain(self, *, after: int = 0) -> VerifyResult:
        """As ``shared.ledger.verify_chain``."""
        before = [entry for entry in self.entries if entry.seq == after]
        if after and not before:
            raise NotFound(f"the ledger has no entry {after} to begin after")
        check = ChainCheck(after, before[0].hash if before else GENESIS)
        for entry in self.entries:
            if entry.seq > after and (fault := check.take(entry)) is not None:
                return check.result(check.last_seq + 1, fault)
        if (check.last_seq, check.last_hash) != self._head:
            return check.result(check.last_seq + 1, "the ledger does not end at its head: entries are missing")
        return check.result()
