"""Follow the ledger and judge: after every event; only the writing is batched, since a batch would hide its middle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import asyncpg
import stamina
import structlog

from services.rollback_analysis import store
from services.rollback_analysis.fold import Fold
from services.rollback_analysis.translate import fold_input_of
from services.rollback_analysis.verdicts import Halt, Verdict
from shared.clock import Clock
from shared.db.pool import connect, is_transient
from shared.events import EVENT_TYPES
from shared.ids import IdSource
from shared.ledger import LedgerEntry, LedgerFollower, checkpoint
from shared.observability.metrics import METRICS
from shared.observability.traces import span
from shared.settings import Secret

EVENTS = METRICS.counter("uneventful_analysis_events", "Ledger events that were judged.")
VERDICTS = METRICS.counter("uneventful_analysis_verdicts", "Verdicts, by kind.", ("kind",))
POSITION = METRICS.gauge("uneventful_analysis_position", "The ledger seq up to which events are judged.")
LEADS = METRICS.gauge("uneventful_analysis_leads", "1 on the instance that judges.")
STANDBY_LOOK_S = 0.5

_log = structlog.get_logger()


def judge(fold: Fold, entries: Iterable[LedgerEntry]) -> list[tuple[int, Verdict]]:
    """Apply entries in order; returns (ordinal within its seq, verdict). Types that are not known decide nothing."""
    verdicts: list[tuple[int, Verdict]] = []
    for entry in entries:
        data = fold_input_of(entry.type, entry.data) if entry.type in EVENT_TYPES else None
        if data is not None:
            verdicts.extend(enumerate(fold.apply(entry.seq, entry.recorded_at, entry.type, data)))
    return verdicts


class Analysis:
    """The one that judges, or a hot standby that waits to.

    The advisory lock and all writes share one connection: who loses the lock can write no more. When the connection
    is lost the fold is loaded anew from its checkpoint.
    """

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        database_url: Secret,
        *,
        ids: IdSource,
        clock: Clock,
        batch_events: int,
        wake: asyncio.Event,
    ) -> None:
        self._pool = pool
        self._database_url = database_url
        self._ids = ids
        self._clock = clock
        self._batch_events = batch_events
        self._wake = wake

    async def run(self) -> None:
        """Lead and judge until cancelled."""
        while True:
            try:
                await self._lead_once()
            except Exception as error:
                # Postgres being away is waited out, with the fold loaded anew; anything else ends the process.
                if not is_transient(error):
                    raise
                _log.warning("analysis.postgres_away", error=type(error).__name__)
                await asyncio.sleep(STANDBY_LOOK_S)
            finally:
                LEADS.set(0)

    async def ping(self) -> None:
        """For readiness: Postgres answers (a standby is ready too)."""
        async with self._pool.acquire(timeout=2) as connection:
            await connection.execute("SELECT 1")

    async def _lead_once(self) -> None:
        connection = await connect(self._database_url.reveal(), application_name="rollback_analysis leader")
        try:
            while not await store.lead(connection):  # noqa: ASYNC110  # only Postgres knows when the lock is free
                await asyncio.sleep(STANDBY_LOOK_S)
            LEADS.set(1)
            fold = await store.load(connection)
            position = await checkpoint(connection, store.FOLLOWER)
            _log.info("analysis.leads", position=position, changesets=len(fold.changeset_ids))
            follower = LedgerFollower(
                self._pool, after=position, batch=self._batch_events, wake=self._wake, clock=self._clock
            )
            async for entries in follower:
                position = await self._take(connection, fold, entries, position)
        finally:
            connection.terminate()

    async def _take(
        self, connection: asyncpg.Connection[Any], fold: Fold, entries: list[LedgerEntry], position: int
    ) -> int:
        with span("judge", entries[-1].envelope.traceparent):
            verdicts = judge(fold, entries)
            changes = fold.take_changes()
            new = entries[-1].seq
            async for attempt in stamina.retry_context(
                on=(asyncpg.DeadlockDetectedError, asyncpg.SerializationError), attempts=10, timeout=20
            ):
                with attempt:
                    await store.commit(
                        connection,
                        old=position,
                        new=new,
                        changes=changes,
                        verdicts=verdicts,
                        blind=fold.blind,
                        ids=self._ids,
                        clock=self._clock,
                    )
        EVENTS.add(len(entries))
        POSITION.set(new)
        for _, verdict in verdicts:
            VERDICTS.add(1, (type(verdict).__name__.lower(),))
            if isinstance(verdict, Halt):
                _log.warning("changeset.halted", changeset_id=verdict.changeset_id, seq=verdict.seq, **verdict.evidence)
        return new
