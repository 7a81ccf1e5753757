"""Reading and verifying the ledger."""

from __future__ import annotations

import asyncio
from datetime import datetime

from services.control import requests
from services.control.store.base import Database
from shared.errors import NotFound, Unavailable
from shared.ledger import LedgerEntry, VerifyResult, head, read, verify_chain


class Ledger:
    """What happened, in the order of seq."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._verifying = asyncio.Lock()

    async def events(self, asked: requests.EventsQuery) -> list[LedgerEntry]:
        """Ledger entries in the order of seq."""
        kind, _, key = (asked.subject or "").partition("/")
        async with self._database.pool.acquire() as connection:
            return await read(
                connection,
                after=asked.after,
                limit=asked.limit,
                types=asked.type or None,
                subject=asked.subject,
                # These keep their order by their own id, which is indexed.
                partition_key=key if kind in ("nodes", "changesets", "groups", "channels") else None,
                correlation_id=asked.correlation or (key if kind == "rollouts" else None),
            )

    async def event(self, seq: int) -> LedgerEntry:
        """The ledger entry of a seq.

        Raises:
            NotFound: There is none.
        """
        async with self._database.pool.acquire() as connection:
            found = await read(connection, after=seq - 1, limit=1, until=seq) if seq > 0 else []
        if not found:
            raise NotFound(f"the ledger has no entry {seq}")
        return found[0]

    async def head(self) -> tuple[int, bytes, datetime]:
        """The ledger's last seq, the hash there, and its ledger time."""
        async with self._database.pool.acquire() as connection:
            return await head(connection)

    async def verify(self, after: int) -> VerifyResult:
        """Verify the chain after a seq.

        Raises:
            NotFound: There is no such entry.
            Unavailable: Somebody has it verified already; it takes a connection for long, so one at a time.
        """
        if self._verifying.locked():
            raise Unavailable("the ledger is being verified already: wait for that", retry_after_s=10.0)
        async with self._verifying, self._database.pool.acquire() as connection:
            return await verify_chain(connection, after=after)
