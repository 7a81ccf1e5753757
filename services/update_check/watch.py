"""The poll watch: while somebody looks, what is asked and answered is written down for them, in bounded batches."""

from __future__ import annotations

import asyncio
import enum
from typing import Any, Final

import asyncpg

from services.update_check.keeper import SnapshotKeeper, postgres_is_away
from services.update_check.poll import Poll
from services.update_check.store import WatchedPoll, forget_watched_polls, write_watched_polls
from shared.clock import Clock
from shared.observability.metrics import METRICS

FLUSH_EVERY_S: Final = 1.0
MAX_POLLS: Final = 200
"""So many are written each time; the rest is counted in one row."""
FORGET_EVERY_S: Final = 10.0
LEFT_OUT: Final = "left_out"
_LONGEST: Final = 256

REJECTED = METRICS.counter(
    "uneventful_polls_rejected", "Polls that were not judged since they were not understood or not let in.", ("reason",)
)


class Rejection(enum.StrEnum):
    """Why a poll is not judged at all, beside the codes of what cannot be read."""

    UNKNOWN_APPLICATION = "unknown_application"
    UNIDENTIFIED = "unidentified"


class PollWatch:
    """Gathers polls while `SnapshotKeeper.watched`, and writes them every second; it costs nothing else."""

    def __init__(self, pool: asyncpg.Pool[Any], keeper: SnapshotKeeper, clock: Clock) -> None:
        self._pool = pool
        self._keeper = keeper
        self._clock = clock
        self._polls: list[WatchedPoll] = []
        self._left_out = 0
        # What an earlier life wrote is to be forgotten too.
        self._forget_at = clock.monotonic()
        self._written = True

    def polled(self, poll: Poll, answer: str | None) -> None:
        """A poll was judged while somebody watches; ``answer`` is None where it asked for nothing."""
        track = poll.fact("track")
        self._add(
            WatchedPoll(
                at=poll.at,
                dialect=poll.source.value,
                answer=answer or "noted",
                address=poll.address,
                application=poll.application.name,
                machine_id=poll.key[1],
                version=poll.version,
                group_name=poll.group.name if poll.group is not None else None,
                detail=_text(f"track {track}") if track is not None else None,
            )
        )

    def rejected(
        self,
        dialect: str,
        reason: str,
        *,
        address: str | None,
        application: str | None = None,
        machine_id: str | None = None,
        version: str | None = None,
        detail: str | None = None,
    ) -> None:
        """A poll was not judged: it is counted, and shown while somebody watches. ``reason`` is bounded."""
        REJECTED.add(1, (reason,))
        if self._keeper.watched:
            self._add(
                WatchedPoll(
                    at=self._clock.now(),
                    dialect=dialect,
                    answer=reason,
                    address=address,
                    application=_text(application),
                    machine_id=_text(machine_id),
                    version=_text(version),
                    detail=_text(detail),
                )
            )

    async def run(self) -> None:
        """Write every second until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what was gathered, and forget what is old; dropped while Postgres is away."""
        polls, self._polls = self._polls, []
        left_out, self._left_out = self._left_out, 0
        if left_out:
            detail = f"{left_out} more polls in this second"
            polls.append(WatchedPoll(at=self._clock.now(), dialect="", answer=LEFT_OUT, detail=detail))
        forgets = self._written and self._forget_at <= self._clock.monotonic()
        if not polls and not forgets:
            return
        try:
            async with self._pool.acquire(timeout=5) as connection:
                if polls:
                    await write_watched_polls(connection, polls)
                    self._written = True
                if forgets:
                    self._written = await forget_watched_polls(connection)
                    self._forget_at = self._clock.monotonic() + FORGET_EVERY_S
        except Exception as error:
            if not postgres_is_away(error):
                raise

    def _add(self, poll: WatchedPoll) -> None:
        if len(self._polls) < MAX_POLLS:
            self._polls.append(poll)
        else:
            self._left_out += 1


def _text(said: str | None) -> str | None:
    """A node's words as a column takes them."""
    if said is None:
        return None
    return said[:_LONGEST].replace("\0", "").encode("utf-8", "replace").decode()
