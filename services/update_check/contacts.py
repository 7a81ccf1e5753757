"""Last contacts: remembered per node, written in batches. A poll is not an event."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import asyncpg
import structlog
from asyncpg.pgproto.pgproto import UUID as FastUUID  # noqa: N811  # a UUID that asyncpg makes and encodes in C

from services.update_check.keeper import postgres_is_away
from services.update_check.poll import Poll, contact_of
from services.update_check.standing import NodeKey
from services.update_check.store import count_contacts, write_contacts
from shared.fleet import FleetReporter
from shared.ids import IdSource
from shared.observability.metrics import METRICS

MAX_NODES = 1_000_000
"""More nodes than this between two flushes are not remembered: only their last contact is lost."""
BATCH = 2_000

CONTACTS_DROPPED = METRICS.counter("uneventful_contacts_dropped", "Last contacts that were not written.")

_log = structlog.get_logger()


def quick_node_id(application_id: uuid.UUID, machine_id: str) -> uuid.UUID:
    """What ``shared.domain.identity.node_id_for`` says, at a quarter of its cost: every poll needs it once."""
    digest = bytearray(hashlib.sha1(application_id.bytes + machine_id.encode(), usedforsecurity=False).digest()[:16])
    # RFC 9562 5.5: version 5 and the variant.
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    node_id: uuid.UUID = FastUUID(bytes(digest))
    return node_id


class ContactBook:
    """Gathers polls and writes them every ``flush_s`` seconds.

    Nodes whose rows disagree with their poll (unknown, other boot, other version) go to the reporter as reports.
    """

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        reporter: FleetReporter,
        *,
        ids: IdSource,
        writer: str,
        flush_s: float,
        awaited_every: timedelta,
    ) -> None:
        self._pool = pool
        self._reporter = reporter
        self._ids = ids
        self._writer = writer
        self._flush_s = flush_s
        self._awaited_every = awaited_every
        self._contacts: dict[NodeKey, Poll] = {}
        self._idle_by_site: Counter[str] = Counter()

    def heard(self, poll: Poll) -> None:
        """Remember a poll in place of the node's former one; it is turned into a row only when it is written."""
        if len(self._contacts) < MAX_NODES:
            self._contacts[poll.key] = poll
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
            polls = list(contacts.values())
            for start in range(0, len(polls), BATCH):
                await self._write(polls[start : start + BATCH])
        except Exception as error:
            if not postgres_is_away(error):
                raise
            CONTACTS_DROPPED.add(len(contacts))
            _log.warning("contacts.dropped", nodes=len(contacts), error=type(error).__name__)

    async def _write(self, polls: list[Poll]) -> None:
        node_ids = [quick_node_id(*poll.key) for poll in polls]
        async with self._pool.acquire(timeout=5) as connection:
            disagreeing = await write_contacts(
                connection,
                node_ids=node_ids,
                group_ids=[poll.group.group_id if poll.group is not None else None for poll in polls],
                versions=[poll.version for poll in polls],
                boot_ids=[poll.boot_id for poll in polls],
                times=[poll.at for poll in polls],
                awaited_every=self._awaited_every,
            )
        if not disagreeing:
            return
        news = [
            contact_of(poll, self._ids.uuid7())
            for node_id, poll in zip(node_ids, polls, strict=True)
            if node_id in disagreeing
        ]
        for start in range(0, len(news), 500):
            await self._reporter.submit_many(news[start : start + 500])
