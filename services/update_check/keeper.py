"""Keeps the snapshot young: the configuration by news and every second, the nodes by following the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg
import structlog

from services.update_check.configuration import EMPTY, Configuration
from services.update_check.standing import NodeKey, Standings
from services.update_check.store import Connection, Gates, read_configuration, read_gates, read_imported, read_nodes
from shared.clock import Clock
from shared.db.listen import listen
from shared.db.pool import is_transient
from shared.domain.reasons import Reason
from shared.errors import Unavailable
from shared.events import EVENT_TYPES
from shared.events.types import EventData, NodeChanged
from shared.ledger import CHANNEL, read
from shared.observability.metrics import METRICS

LOOK_EVERY_S = 1.0
BATCH = 1_000
RELOAD_GAP_S = 0.02
"""Reloads are at least this far apart, so that a burst of paces costs one."""
FOLLOW_GAP_S = 0.1
"""Looks at the ledger are at least this far apart: under thousands of reports a second, one look for each of the
mover's batches would cost more than the polls. Halts and paces do not come this way."""
NODE_CHANGED = "node.changed.v1"
FOLLOWED = ("update.#", "node.quarantined.v1", "node.cloned.v1", NODE_CHANGED)
READ = frozenset(EVENT_TYPES) - {"update.download_started.v1", "update.downloaded.v1", NODE_CHANGED}
"""What is decoded: a node that fetches what it was offered is decided on as one that has the offer."""


SNAPSHOT_AGE = METRICS.gauge("uneventful_snapshot_age_seconds", "Age of the snapshot that decisions are made from.")
RELOADS = METRICS.counter("uneventful_snapshot_reloads", "Reloads of the configuration, by outcome.", ("outcome",))

_log = structlog.get_logger()


def postgres_is_away(error: BaseException) -> bool:
    """Whether this is what a lost, refused, hung or overloaded Postgres looks like."""
    return isinstance(error, Unavailable) or is_transient(error)


class SnapshotKeeper:
    """The snapshot that decisions read, and the tasks that keep it.

    Attributes:
        configuration: Replaced as a whole; never changed in place.
        standings: Moved by the ledger, and by the request handlers for what they did themselves.
        watched: Whether somebody watches polls.
    """

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        clock: Clock,
        *,
        distribution_url: str,
        max_age_s: float,
        analysis_max_lag_s: float,
    ) -> None:
        self.configuration: Configuration = EMPTY
        self.standings = Standings()
        self._pool = pool
        self._clock = clock
        self._distribution_url = distribution_url
        self._max_age_s = max_age_s
        self._analysis_max_lag_s = analysis_max_lag_s
        self.watched = False
        self._gates: Gates | None = None
        self._fresh_at = -1e9
        self._followed_seq = 0
        self._followed_at = -1e9
        self._configuration_wanted = asyncio.Event()
        self._ledger_wanted = asyncio.Event()
        SNAPSHOT_AGE.watch(lambda: self._clock.monotonic() - self._fresh_at)

    def fail_closed(self) -> Reason | None:
        """Why nothing may be offered now whatever the snapshot says; None where it may be trusted."""
        now = self._clock.monotonic()
        if now - self._fresh_at > self._max_age_s or now - self._followed_at > self._max_age_s:
            return Reason.SNAPSHOT_STALE
        gates = self._gates
        limit = self._analysis_max_lag_s
        if gates is None or gates.log_age_s > limit or gates.analysis_age_s > limit or gates.analysis_lag_s > limit:
            return Reason.ANALYSIS_LAGS
        return None

    async def ping(self) -> None:
        """For readiness: raises where the snapshot is too old to offer anything."""
        if self._clock.monotonic() - self._fresh_at > self._max_age_s:
            raise TimeoutError(f"the snapshot is older than {self._max_age_s:g} s: Postgres does not answer")

    def wake(self) -> None:
        """Look now: something changed that decisions read."""
        self._configuration_wanted.set()

    async def load(self) -> None:
        """Read all of it, in one snapshot of the database."""
        started = self._clock.monotonic()
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            gates = await read_gates(connection)
            configuration = await read_configuration(connection, self._distribution_url)
            nodes = await read_nodes(connection)
        self.standings.replace_all(nodes.attempts, nodes.quarantined, nodes.cloned, nodes.imported)
        self.configuration = configuration
        self._gates = gates
        self.watched = gates.watched
        self._followed_seq = gates.head_seq
        self._fresh_at = self._followed_at = started

    async def run(self) -> None:
        """Keep the snapshot until cancelled. While Postgres is away it grows old, and decisions fail closed."""
        async with asyncio.TaskGroup() as tasks:
            channels = {"uneventful_gates": self._configuration_wanted.set, CHANNEL: self._ledger_wanted.set}
            tasks.create_task(listen(self._pool, channels), name="snapshot: listen")
            tasks.create_task(self._forever(self._keep_configuration), name="snapshot: configuration")
            tasks.create_task(self._forever(self._keep_standings), name="snapshot: standings")

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception as error:
                if not postgres_is_away(error):
                    raise
                # Not swallowed: the snapshot's age is what decisions, readiness and the metric judge by.
                RELOADS.add(1, ("failed",))
                _log.warning("snapshot.postgres_away", error=type(error).__name__, detail=str(error))
                await asyncio.sleep(0.5)

    async def _keep_configuration(self) -> None:
        while True:
            await _wait(self._configuration_wanted, LOOK_EVERY_S)
            started = self._clock.monotonic()
            async with (
                self._pool.acquire(timeout=LOOK_EVERY_S * 2) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                gates = await read_gates(connection)
                configuration = await read_configuration(connection, self._distribution_url, self.configuration)
            self.configuration = configuration
            self._gates = gates
            self.watched = gates.watched
            self._fresh_at = started
            RELOADS.add(1, ("done",))
            await asyncio.sleep(RELOAD_GAP_S)

    async def _keep_standings(self) -> None:
        while True:
            await _wait(self._ledger_wanted, LOOK_EVERY_S)
            more = True
            while more:
                started = self._clock.monotonic()
                async with self._pool.acquire(timeout=LOOK_EVERY_S * 2) as connection:
                    head = (await read_gates(connection)).head_seq
                    entries = await read(connection, after=self._followed_seq, limit=BATCH, types=FOLLOWED)
                    changed = [entry.data for entry in entries if entry.type == NODE_CHANGED]
                    imported = await _imported_of(connection, changed)
                for entry in entries:
                    if entry.type in READ:
                        self.standings.apply(entry.data, entry.type)
                self.standings.take_imported(changed, imported)
                more = len(entries) == BATCH
                self._followed_seq = entries[-1].seq if more else max(head, entries[-1].seq if entries else 0)
                self._followed_at = started
            await asyncio.sleep(FOLLOW_GAP_S)


async def _imported_of(connection: Connection, changed: Sequence[EventData]) -> dict[NodeKey, Mapping[str, str]]:
    """What is imported now of the nodes of ``node.changed.v1`` events: the row says it, whatever the event changed."""
    node_ids = [uuid.UUID(event.node_id) for event in changed if isinstance(event, NodeChanged)]
    return await read_imported(connection, node_ids) if node_ids else {}


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    event.clear()
