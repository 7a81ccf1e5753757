"""What must be done now and then: partitions ahead, and forgetting event ids that nobody can send again."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import structlog

from services.event_log.leadership import QUERIES
from shared.db import is_transient
from shared.observability import counter

INTERVAL_S = 60.0
CHUNK = 5000
MAX_CHUNKS = 200

_log = structlog.stdlib.get_logger(__name__)
_forgotten = counter("uneventful_event_log_forgotten", "Event ids forgotten because of their age.")


async def keep_house(pool: asyncpg.Pool[Any], *, partitions_ahead: int, seen_days: int) -> None:
    """Keep house once a minute, for ever."""
    while True:
        try:
            async with pool.acquire() as connection:
                await connection.fetchval(QUERIES["ensure_partitions"], partitions_ahead)
            await forget_seen(pool, seen_days=seen_days)
        except Exception as fault:
            if not is_transient(fault):
                raise
            _log.warning("house could not be kept, trying again", error=repr(fault))
        await asyncio.sleep(INTERVAL_S)


async def forget_seen(pool: asyncpg.Pool[Any], *, seen_days: int, chunk: int = CHUNK) -> int:
    """Forget event ids older than so many days, in chunks of a transaction each. Returns how many."""
    total = 0
    for _ in range(MAX_CHUNKS):
        async with pool.acquire() as connection:
            status = await connection.execute(QUERIES["forget_seen"], seen_days, chunk)
        count = int(status.rpartition(" ")[2])
        total += count
        if count < chunk:
            break
    if total:
        _forgotten.add(total)
        _log.info("event ids forgotten", count=total)
    return total
