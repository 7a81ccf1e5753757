"""Ticks: the log says that it is alive, how many contacts there were, and how far behind it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import asyncpg
import orjson
import structlog

from services.event_log.leadership import QUERIES
from shared.clock import Clock
from shared.db import is_transient
from shared.events import new_event
from shared.events.types import LogTicked
from shared.ids import IdSource
from shared.ledger import append
from shared.observability import gauge

SOURCE = "/uneventful/event_log"
# Two processes tick in turn at a handover; the second of two within this part of the interval keeps quiet.
TOO_SOON = 0.5
RETRY_S = 1.0

_log = structlog.stdlib.get_logger(__name__)
_ingest_lag = gauge("uneventful_event_log_ingest_lag_seconds", "Age of the oldest row in the inbox.")
_depth = gauge("uneventful_event_log_inbox_depth", "Rows in the inbox.")


def differences(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """Contacts per site since the last tick; a counter that went back (a writer was removed) counts as none."""
    return {site: max(0, count - before.get(site, 0)) for site, count in now.items()}


class Ticker:
    """Appends ``log.ticked.v1`` about every ``interval_s`` seconds, whichever process is quickest.

    Args:
        pool: Where connections come from.
        clock: For the event's time.
        ids: For the event's id.
        interval_s: Seconds between two ticks.
    """

    def __init__(self, pool: asyncpg.Pool[Any], clock: Clock, ids: IdSource, *, interval_s: float) -> None:
        self._pool = pool
        self._clock = clock
        self._ids = ids
        self._interval_s = interval_s

    async def run(self) -> None:
        """Tick for ever. While Postgres is away there are no ticks, which is what deadlines rely on."""
        while True:
            try:
                await self.tick()
            except Exception as fault:
                if not is_transient(fault):
                    raise
                _log.warning("no tick, trying again", error=repr(fault))
                await asyncio.sleep(min(RETRY_S, self._interval_s))
            else:
                await asyncio.sleep(self._interval_s)

    async def tick(self) -> bool:
        """Append one tick, unless there was one just now. Returns whether it did."""
        async with self._pool.acquire() as connection, connection.transaction():
            last = await connection.fetchrow(QUERIES["lock_last_tick"])
            if last is None:
                raise RuntimeError("event_log.last_tick has no row: the database was not migrated")
            interval_s = _seconds_between(last["ticked_at"], last["now"], self._interval_s)
            if interval_s < self._interval_s * TOO_SOON:
                return False
            contacts = {row["site"]: row["contacts"] for row in await connection.fetch(QUERIES["contacts"])}
            expected = await connection.fetch(QUERIES["expected_contacts"], interval_s)
            inbox = await connection.fetchrow(QUERIES["inbox_state"])
            ticked = LogTicked(
                # The first tick knows no beginning to count from.
                contacts=differences(contacts, contacts if last["ticked_at"] is None else last["contacts"]),
                expected={row["site"]: row["expected"] for row in expected},
                ingest_lag_s=0.0 if inbox is None else max(0.0, inbox["lag_s"]),
                interval_s=interval_s,
                inbox_depth=0 if inbox is None else inbox["depth"],
            )
            await connection.execute(QUERIES["set_last_tick"], last["now"], orjson.dumps(contacts).decode())
            event = new_event(ticked, ids=self._ids, clock=self._clock, source=SOURCE, subject="log")
            await append(connection, [event])
        _ingest_lag.set(ticked.ingest_lag_s)
        _depth.set(ticked.inbox_depth)
        return True


def _seconds_between(before: datetime | None, now: datetime, default_s: float) -> float:
    return default_s if before is None else max(0.0, (now - before).total_seconds())
