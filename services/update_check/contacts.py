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
        self._contacts: dict[NodeKey, tuple[Poll, str | None]] = {}
        self._idle_by_site: Counter[str] = Counter()

    def heard(self, poll: Poll, answer: str | None) -> None:
        """Remember a poll and its answer in place of the node's former one; it becomes a row only when it is written.

        Args:
            poll: What was heard.
            answer: Why there was no update, or ``granted``; None where none was asked for.
        """
        if len(self._contacts) < MAX_NODES:
            if answer is None:
                former = self._contacts.get(poll.key)
                if former is not None:
                    answer = former[1]
            self._contacts[poll.key] = (poll, answer)
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
            heard = list(contacts.values())
            for start in range(0, len(heard), BATCH):
                await self._write(heard[start : start + BATCH])
        except Exception as error:
            if not postgres_is_away(error):
                raise
            CONTACTS_DROPPED.add(len(contacts))
            _log.warning("contacts.dropped", nodes=len(contacts), error=type(error).__name__)

    async def _write(self, heard: list[tuple[Poll, str | None]]) -> None:
        node_ids = [quick_node_id(*poll.key) for poll, _ in heard]
        disagreeing = await self._write_rows(node_ids, heard)
        if not disagreeing:
            return
        news = [
            contact_of(poll, self._ids.uuid7())
            for node_id, (poll, _) in zip(node_ids, heard, strict=True)
            if node_id in disagreeing
        ]
        for start in range(0, len(news), 500):
            await self._reporter.submit_many(news[start : start + 500])
        # What they were answered has a row to go to only now.
        new = [n for n, node_id in enumerate(node_ids) if disagreeing.get(node_id) is False]
        if new:
            await self._write_rows([node_ids[n] for n in new], [heard[n] for n in new])

    async def _write_rows(
        self, node_ids: list[uuid.UUID], heard: list[tuple[Poll, str | None]]
    ) -> dict[uuid.UUID, bool]:
        async with self._pool.acquire(timeout=5) as connection:
            return await write_contacts(
                connection,
                node_ids=node_ids,
                group_ids=[poll.group.group_id if poll.group is not None else None for poll, _ in heard],
                versions=[poll.version for poll, _ in heard],
                boot_ids=[poll.boot_id for poll, _ in heard],
                times=[poll.at for poll, _ in heard],
                answers=[answer for _, answer in heard],
                awaited_every=self._awaited_every,
            )
