"""Follow the ledger from a seq: woken by news, and looking once a second in any case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Self

import asyncpg
import structlog

from shared.clock import Clock, SystemClock
from shared.db.listen import listen
from shared.db.pool import is_transient
from shared.ledger.entry import LedgerEntry
from shared.ledger.store import MAX_SEQ, head, read

CHANNEL = "uneventful_ledger"
POLL_S = 1.0
OUTAGE_S = 300.0
RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)

_log = structlog.stdlib.get_logger(__name__)


class LedgerFollower:
    """Yields batches of new entries for ever; iterate it from one task.

    ``position`` is the seq up to which everything that fits the filter has been yielded: it is what to advance a
    checkpoint to, and may be past the last entry of the batch where a filter left entries out.

    While Postgres is away the follower waits and tries again; after ``outage_s`` without one successful look it
    raises what it met.

    Args:
        pool: Where connections come from; one is held only while reading.
        after: Where to begin.
        types: Patterns as for ``read``; all types when None.
        batch: The most entries at once.
        wake: Set by whoever hears news: the bus, or a ``LedgerSignal``.
        poll_s: Look at least this often.
        outage_s: How long Postgres may be away.
        clock: Measures the outage.
    """

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        *,
        after: int,
        types: Sequence[str] | None = None,
        batch: int = 1000,
        wake: asyncio.Event | None = None,
        poll_s: float = POLL_S,
        outage_s: float = OUTAGE_S,
        clock: Clock | None = None,
    ) -> None:
        self._pool = pool
        self.position = after
        self._types = types
        self._batch = batch
        self.wake = asyncio.Event() if wake is None else wake
        self._poll_s = poll_s
        self._outage_s = outage_s
        self._clock: Clock = SystemClock() if clock is None else clock

    async def __aiter__(self) -> AsyncIterator[list[LedgerEntry]]:
        while True:
            self.wake.clear()
            entries = await self._look_through_outages()
            if entries:
                yield entries
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s):
                        await self.wake.wait()

    async def look(self) -> list[LedgerEntry]:
        """Read the next batch and move ``position``; empty when there is nothing new."""
        async with self._pool.acquire() as connection:
            until = MAX_SEQ if self._types is None else (await head(connection))[0]
            entries = await read(connection, after=self.position, until=until, limit=self._batch, types=self._types)
        if len(entries) == self._batch or self._types is None:
            self.position = entries[-1].seq if entries else self.position
        else:
            self.position = max(self.position, until)
        return entries

    async def _look_through_outages(self) -> list[LedgerEntry]:
        began = self._clock.monotonic()
        attempt = 0
        while True:
            try:
                return await self.look()
            except Exception as fault:
                if not is_transient(fault) or self._clock.monotonic() - began > self._outage_s:
                    raise
                if attempt == 0:
                    _log.warning("the ledger cannot be read, trying again", error=repr(fault), position=self.position)
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1


class LedgerSignal:
    """Wakes followers of this process when the ledger grows, by LISTEN on one connection of the pool.

    A hint only: notifications are lost while the connection is away, which is why followers also look by themselves.
    Use it as an async context manager.
    """

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._events: list[asyncio.Event] = []
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    def event(self) -> asyncio.Event:
        """A new event that is set on every growth; give it to one follower, which clears it."""
        event = asyncio.Event()
        self._events.append(event)
        return event

    def start(self) -> None:
        """Begin to listen, once; also done by ``async with``."""
        if self._task is None:
            self._task = asyncio.create_task(
                listen(self._pool, {CHANNEL: self._wake_all}, listening=self._listening), name="ledger-signal"
            )

    async def stop(self) -> None:
        """Stop listening and give the connection back."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def listening(self) -> None:
        """Wait until the signal hears notifications."""
        await self._listening.wait()

    def _wake_all(self) -> None:
        for event in self._events:
            event.set()
