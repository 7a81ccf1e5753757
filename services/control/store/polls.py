"""Polls as they come in, for those who watch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from services.control import requests
from services.control.store.applications import Applications
from services.control.store.base import Database, Row, rows_of
from shared.clock import Clock
from shared.db import Queries
from shared.domain.reasons import GRANTED, Reason

QUERIES: Final = Queries.load("services.control.store", "polls.sql")
WATCH_FOR_S: Final = 15.0
"""update_check writes polls for so long after each look: it stops by itself when nobody looks any more."""
BATCH: Final = 500
OVERLAP: Final = 2_000
"""Ids are given before rows are committed: so many of them are looked at again."""
UNDERSTOOD: Final = (*(reason.value for reason in Reason), GRANTED, "noted")
"""Answers to polls that were judged; all others were rejected."""

Pause = Callable[[float], Awaitable[None]]


class WatchedPolls:
    """What update_check is asked and what it answers."""

    def __init__(self, database: Database, applications: Applications) -> None:
        self._database = database
        self._applications = applications

    async def follow(
        self, asked: requests.PollStreamQuery, *, clock: Clock, every_s: float, pause: Pause
    ) -> AsyncIterator[list[Row]]:
        """Polls as they come, in batches that may be empty, until the time is over. Each poll comes once.

        Args:
            asked: What to watch and for how long.
            clock: Measures how long.
            every_s: Between two looks.
            pause: Waits.

        Raises:
            NotFound: There is no such application.
        """
        application = None if asked.application is None else (await self._applications.get(asked.application))["name"]
        pool = self._database.main
        ends = clock.monotonic() + asked.seconds
        begins = behind = await pool.fetchval(QUERIES["last_poll"])
        seen: OrderedDict[int, None] = OrderedDict()
        while True:
            await pool.execute(QUERIES["watch"], min(WATCH_FOR_S, max(1.0, ends - clock.monotonic())))
            found = rows_of(
                await pool.fetch(
                    QUERIES["polls"],
                    max(begins, behind - OVERLAP),
                    application,
                    asked.machine,
                    asked.answer,
                    asked.rejected,
                    list(UNDERSTOOD),
                    OVERLAP + BATCH,
                )
            )
            fresh = [row for row in found if row["poll_id"] not in seen]
            for row in fresh:
                seen[row["poll_id"]] = None
            while len(seen) > 2 * (OVERLAP + BATCH):
                seen.popitem(last=False)
            if found:
                behind = max(behind, found[-1]["poll_id"])
            yield fresh
            if clock.monotonic() >= ends:
                return
            await pause(every_s)
