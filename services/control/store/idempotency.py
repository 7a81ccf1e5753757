"""Idempotency keys: a request that is sent again is answered again, and not done again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.control.store.base import Database, one
from shared.db import Queries

QUERIES: Final = Queries.load("services.control.store", "idempotency.sql")
KEPT_FOR: Final = timedelta(hours=24)
GIVEN_UP_AFTER: Final = timedelta(minutes=2)
"""A request that has neither changed anything nor been answered in this time has died with its process."""
LOST: Final = 0
"""The status of a key whose request was done, and whose answer was not kept: the process ended in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """What is kept of an earlier request with the same key.

    Attributes:
        request_sha256: Of the request.
        status: None while it is under way.
    """

    request_sha256: bytes
    status: int | None
    body: bytes | None
    etag: str | None


class IdempotencyKeys:
    """Answers by principal and key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, principal: str, key: str, request_sha256: bytes) -> KeptAnswer | None:
        """Take a key for a request; None where it is taken now, else what an earlier one left."""
        now = self._database.clock.now()
        claimed = await self._database.main.fetchval(
            QUERIES["claim"], principal, key, request_sha256, now, now - KEPT_FOR, now - GIVEN_UP_AFTER
        )
        if claimed is not None:
            return None
        row = await self._database.main.fetchrow(QUERIES["kept"], principal, key)
        # It may have been released in between: then it looks as if it were under way, and is asked for again.
        return (
            KeptAnswer(**one(row))
            if row is not None
            else KeptAnswer(request_sha256=request_sha256, status=None, body=None, etag=None)
        )

    async def keep(self, principal: str, key: str, *, status: int, body: bytes, etag: str | None) -> None:
        """Keep the answer."""
        await self._database.main.execute(QUERIES["keep"], principal, key, status, body, etag)

    async def release(self, principal: str, key: str) -> None:
        """Give up a key whose request has changed nothing, so that the same may be tried again."""
        await self._database.main.execute(QUERIES["release"], principal, key)

    async def sweep(self) -> int:
        """Forget keys that are older than they are kept. Returns how many."""
        swept: int = await self._database.main.fetchval(QUERIES["sweep"], self._database.clock.now() - KEPT_FOR)
        return swept
