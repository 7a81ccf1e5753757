"""The mover: takes committed rows from the inbox, in batches, and writes them to the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import structlog

from services.event_log.assemble import Batch, Head, assemble
from services.event_log.leadership import QUERIES
from shared.errors import Conflict
from shared.ledger import head as read_head
from shared.observability import counter, gauge, histogram

IDLE_FROM_S = 0.002
_LEDGER_COLUMNS = (
    "seq",
    "event_id",
    "type",
    "subject",
    "partition_key",
    "correlation_id",
    "recorded_at",
    "occurred_at",
    "hash",
    "event",
)
# What Postgres says of a row that it will never take: bad data, a violated constraint, a limit of the program.
# Anything else (disk full, a lost connection) is not the row's fault.
_POISON = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)

_log = structlog.stdlib.get_logger(__name__)
_moved = counter("uneventful_event_log_moved", "Events moved into the ledger.")
_set_aside = counter("uneventful_event_log_set_aside", "Inbox rows that could not become ledger entries.")
_head = gauge("uneventful_event_log_head_seq", "The ledger's last seq.")
_room = gauge("uneventful_event_log_room", "Seqs left in the partitions made ahead.")
_lag = histogram("uneventful_event_log_move_seconds", "Seconds from append to ledger, of the oldest row of a batch.")


class _RefusedBatch(Exception):  # noqa: N818 - carries what the next try needs
    def __init__(self, positions: Sequence[int], fault: Exception) -> None:
        super().__init__(str(fault))
        self.positions = positions
        self.fault = fault


class Mover:
    """Moves batches on one connection, which also holds the leader's lock.

    A batch that Postgres refuses is tried again by halves; the row that is refused alone is set aside with the error.

    Args:
        connection: Its own; in no transaction.
        batch_size: The most rows per transaction.
        idle_s: The longest pause between looks at an empty inbox.
        partitions_ahead: How many partitions to keep ready.
    """

    def __init__(
        self, connection: asyncpg.Connection[Any], *, batch_size: int, idle_s: float, partitions_ahead: int
    ) -> None:
        self._connection = connection
        self._batch_size = batch_size
        self._limit = batch_size
        self._idle_s = idle_s
        self._partitions_ahead = partitions_ahead
        self._head: Head | None = None
        self._room = 0

    async def run(self) -> None:
        """Move until the connection ends or another mover wrote.

        Raises:
            Conflict: The head is not where this mover left it.
        """
        pause = IDLE_FROM_S
        while True:
            if await self.step():
                pause = IDLE_FROM_S
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._idle_s)

    async def step(self) -> int:
        """Move one batch. Returns how many rows left the inbox; 0 when it is empty.

        Raises:
            Conflict: The head is not where this mover left it.
        """
        if not await self._connection.fetchval(QUERIES["anything"]):
            return 0
        head = await self._begin()
        try:
            count = await self._move(head)
        except _RefusedBatch as refused:
            self._head = None
            return await self._halve(refused)
        self._limit = min(self._batch_size, self._limit * 2)
        return count

    async def _begin(self) -> Head:
        if self._head is None:
            self._head = Head(*await read_head(self._connection))
        if self._head.seq + self._batch_size >= self._room:
            await self.make_room()
        return self._head

    async def make_room(self) -> None:
        """Make partitions ahead, so that no batch meets the end of the last one."""
        made = await self._connection.fetchval(QUERIES["ensure_partitions"], self._partitions_ahead)
        self._room = await self._connection.fetchval(QUERIES["room"])
        if made:
            _log.info("ledger partitions made", made=made, room_until=self._room)

    async def _move(self, head: Head) -> int:
        rows: Sequence[Mapping[str, Any]] = ()
        try:
            async with self._connection.transaction():
                rows = sorted(
                    await self._connection.fetch(QUERIES["take"], self._limit), key=lambda row: int(row["position"])
                )
                if not rows:
                    return 0
                batch = assemble(head, rows, rows[0]["taken_at"])
                await self._write(head, batch)
        except _POISON as fault:
            raise _RefusedBatch([row["position"] for row in rows], fault) from fault
        self._head = batch.head
        self._account(batch, rows)
        return len(rows)

    async def _write(self, head: Head, batch: Batch) -> None:
        for row, error in batch.refused:
            await self._connection.execute(
                QUERIES["put_aside"],
                *(row[name] for name in ("position", "event_id", "type", "source", "subject", "partition_key")),
                *(row[name] for name in ("occurred_at", "data", "correlation_id", "causation_id", "traceparent")),
                error,
            )
        if not batch.rows:
            return
        # The head first: it holds off a rival until we commit, and whoever is late ends here and not at a duplicate
        # seq, which would look like the row's fault.
        after = batch.head
        set_to = await self._connection.fetchval(
            QUERIES["set_head"], head.seq, head.hash, after.seq, after.hash, after.recorded_at
        )
        if set_to != after.seq:
            raise Conflict(f"the ledger's head is not at {head.seq} any more: another mover writes")
        await self._connection.copy_records_to_table(
            "ledger", schema_name="event_log", columns=_LEDGER_COLUMNS, records=batch.rows
        )

    async def _halve(self, refused: _RefusedBatch) -> int:
        if len(refused.positions) > 1:
            self._limit = max(1, len(refused.positions) // 2)
            return 1
        if not refused.positions:
            raise refused.fault
        position = refused.positions[0]
        await self._connection.execute(QUERIES["set_aside"], position, str(refused.fault))
        _set_aside.add(1)
        _log.error("an event was set aside", position=position, error=str(refused.fault))
        return 1

    def _account(self, batch: Batch, rows: Sequence[Mapping[str, Any]]) -> None:
        _moved.add(len(batch.rows))
        _head.set(batch.head.seq)
        _room.set(self._room - batch.head.seq - 1)
        oldest = min(row["appended_at"] for row in rows)
        _lag.observe((rows[0]["taken_at"] - oldest).total_seconds())
        for row, error in batch.refused:
            _set_aside.add(1)
            _log.error("an event was set aside", position=row["position"], event_id=str(row["event_id"]), error=error)
