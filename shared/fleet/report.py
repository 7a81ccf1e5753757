"""Record observations durably: many waiters, one transaction (group commit)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import stamina
import structlog

from shared.db.group_commit import GroupCommit
from shared.db.queries import Queries
from shared.domain.observation import Observation, Outcome, OutcomeStatus

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

QUERIES = Queries.load("shared.fleet")
REFUSED = Outcome(
    status=OutcomeStatus.REFUSED, attempt_id=None, changeset_id=None, state=None, quarantined=False, cloned=False
)
AWAITED_EVERY = timedelta(minutes=15)
"""A staged node's polls become an event at most this often: enough for the fold to know that it still polls."""

_log = structlog.get_logger()


async def record(
    connection: asyncpg.Connection[Any] | PoolConnectionProxy[Any],
    observations: Sequence[Observation],
    *,
    awaited_every: timedelta = AWAITED_EVERY,
) -> list[Outcome]:
    """Record observations in one call of ``fleet.report_v1``; durable once the surrounding transaction commits.

    Returns:
        One outcome per observation, in order.
    """
    o = observations
    rows = await connection.fetch(
        QUERIES["report"],
        [x.event_id for x in o],
        [x.kind.value for x in o],
        [x.source.value for x in o],
        [x.node_id for x in o],
        [x.application_id for x in o],
        [x.machine_id for x in o],
        [x.group_id for x in o],
        [x.version for x in o],
        [x.arch for x in o],
        [x.boot_id for x in o],
        [x.at for x in o],
        [x.facts for x in o],
        [x.address for x in o],
        [x.error_code for x in o],
        [x.error_base for x in o],
        [x.error_class for x in o],
        [x.previous_version for x in o],
        [x.reason for x in o],
        [x.traceparent for x in o],
        awaited_every,
    )
    return [
        Outcome(
            status=OutcomeStatus(row[1]),
            attempt_id=row[2],
            changeset_id=row[3],
            state=row[4],
            quarantined=row[5],
            cloned=row[6],
        )
        for row in rows
    ]


class FleetReporter:
    """Group commit of observations: each caller waits until its own are durable.

    Deadlocks and serialization failures are retried with an end; while Postgres is away every waiter gets the error.
    """

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        *,
        awaited_every: timedelta = AWAITED_EVERY,
        max_batch: int = 1_000,
        max_waiting: int = 10_000,
        flush_timeout_s: float = 10.0,
    ) -> None:
        self._pool = pool
        self._awaited_every = awaited_every
        self._flush_timeout_s = flush_timeout_s
        self._commits: GroupCommit[Observation, Outcome] = GroupCommit(
            self._flush, max_batch=max_batch, max_waiting=max_waiting
        )

    async def submit(self, observation: Observation) -> Outcome:
        """Record one observation; returns once it is committed.

        Raises:
            Unavailable: Too many are waiting already.
            OSError, asyncpg.PostgresError, TimeoutError: Postgres did not take it; whether it is stored is unknown.
        """
        return await self._commits.submit(observation)

    async def submit_many(self, observations: list[Observation]) -> list[Outcome]:
        """Record several, in order; as :meth:`submit`."""
        return await self._commits.submit_many(observations)

    async def close(self) -> None:
        """Flush what waits."""
        await self._commits.close()

    async def _flush(self, batch: list[Observation]) -> list[Outcome]:
        """Record a batch; one that Postgres cannot take is found by halving, so that it does not take others along."""
        try:
            return await self._record(batch)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                return [*await self._flush(batch[:middle]), *await self._flush(batch[middle:])]
            _log.warning("report.refused", node_id=str(batch[0].node_id), kind=batch[0].kind.value, error=str(error))
            return [REFUSED]

    async def _record(self, batch: list[Observation]) -> list[Outcome]:
        async for attempt in stamina.retry_context(
            on=(asyncpg.DeadlockDetectedError, asyncpg.SerializationError), attempts=5, timeout=self._flush_timeout_s
        ):
            with attempt:
                async with asyncio.timeout(self._flush_timeout_s), self._pool.acquire() as connection:
                    return await record(connection, batch, awaited_every=self._awaited_every)
        raise AssertionError("stamina returns or raises")  # pragma: no cover
