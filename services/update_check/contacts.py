"""Last contacts: remembered per node, written in batches. A poll is not an event."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import structlog

from services.update_check.keeper import postgres_is_away
from services.update_check.standing import NodeKey
from services.update_check.store import count_contacts, write_contacts
from shared.domain.identity import node_id_for
from shared.fleet import FleetReporter, Observation
from shared.observability.metrics import METRICS

MAX_NODES = 1_000_000
"""More nodes than this between two flushes are not remembered: only their last contact is lost."""
BATCH = 2_000

CONTACTS_DROPPED = METRICS.counter("uneventful_contacts_dropped", "Last contacts that were not written.")

_log = structlog.get_logger()


class Contact(NamedTuple):
    """The newest poll of a node, as it was heard; turned into rows only when it is written."""

    heard_at: datetime
    version: str
    boot_id: str
    group_id: uuid.UUID | None
    observe: Callable[[], Observation]


class ContactBook:
    """Gathers polls and writes them every ``flush_s`` seconds.

    Nodes whose rows disagree with their poll (unknown, other boot, other version) go to the reporter as reports.
    """

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        reporter: FleetReporter,
        *,
        writer: str,
        flush_s: float,
        awaited_every: timedelta,
    ) -> None:
        self._pool = pool
        self._reporter = reporter
        self._writer = writer
        self._flush_s = flush_s
        self._awaited_every = awaited_every
        self._contacts: dict[NodeKey, Contact] = {}
        self._idle_by_site: Counter[str] = Counter()

    def heard(self, key: NodeKey, contact: Contact) -> None:
        """Remember a poll in place of the node's former one."""
        if len(self._contacts) < MAX_NODES:
            self._contacts[key] = contact
        else:
            CONTACTS_DROPPED.add(1)

    def idle(self, site: str) -> None:
        """Count a contact of a node that is not updating: what silence of a site is judged by."""
        self._idle_by_site[site] += 1

    async def run(self) -> None:
        """Flush until cancelled; the last ones are flushed on the way out."""
        try:
            while True:
                await asyncio.sleep(self._flush_s)
                await self.flush()
        finally:
            await self.flush()

    async def flush(self) -> None:
        """Write what was heard since the last flush; dropped while Postgres is away: the next poll says it again."""
        contacts, self._contacts = self._contacts, {}
        idle, self._idle_by_site = self._idle_by_site, Counter()
        try:
            if idle:
                async with self._pool.acquire(timeout=5) as connection:
                    await count_contacts(connection, self._writer, dict(idle))
            items = list(contacts.items())
            for start in range(0, len(items), BATCH):
                await self._write(items[start : start + BATCH])
        except Exception as error:
            if not postgres_is_away(error):
                raise
            CONTACTS_DROPPED.add(len(contacts))
            _log.warning("contacts.dropped", nodes=len(contacts), error=type(error).__name__)

    async def _write(self, items: list[tuple[NodeKey, Contact]]) -> None:
        nodes = {node_id_for(*key): contact for key, contact in items}
        async with self._pool.acquire(timeout=5) as connection:
            disagreeing = await write_contacts(
                connection,
                node_ids=list(nodes),
                group_ids=[c.group_id for c in nodes.values()],
                versions=[c.version for c in nodes.values()],
                boot_ids=[c.boot_id for c in nodes.values()],
                times=[c.heard_at for c in nodes.values()],
                awaited_every=self._awaited_every,
            )
        news = [contact.observe() for node_id, contact in nodes.items() if node_id in disagreeing]
        for start in range(0, len(news), 500):
            await self._reporter.submit_many(news[start : start + 500])
