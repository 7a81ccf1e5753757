"""Keeps what is known of gates and payloads fresh: at each NOTIFY, each second in any case."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from typing import Any, Final, NoReturn

import asyncpg
import structlog
from aiohttp import web

from services.distribution.access import (
    Attempt,
    Decision,
    Snapshot,
    Unlisted,
    decide,
    decide_for_attempt,
)
from services.distribution.store import read_attempt, read_gates, read_listings
from shared.clock import Clock
from shared.db.listen import listen
from shared.db.pool import is_transient
from shared.errors import Unavailable
from shared.observability import counter, gauge

CHANNEL: Final = "uneventful_gates"
LOOK_EVERY_S: Final = 1.0
LOOK_TIMEOUT_S: Final = 5.0
MAX_ATTEMPTS: Final = 10_000
ATTEMPT_FRESH_S: Final = 2.0
UNLISTED_LOOK_S: Final = 0.1
RETRY_AFTER_S: Final = 5.0

_log = structlog.get_logger()
_LOOKS: Final = counter("uneventful_distribution_looks", "Looks at the gates, by outcome.", ("outcome",))
_AGE: Final = gauge("uneventful_distribution_snapshot_age_seconds", "Age of what is known of gates and payloads.")


class GateWatch:
    """Answers whether a payload may be sent now, from memory; only a token that is new here costs a query.

    Args:
        pool: Where connections come from; listening keeps one of them.
        clock: Measures ages.
        max_age_s: What is known may be this old; then nothing is allowed.
    """

    def __init__(self, pool: asyncpg.Pool[Any], clock: Clock, *, max_age_s: float) -> None:
        self._pool = pool
        self._clock = clock
        self._max_age_s = max_age_s
        self._snapshot = Snapshot()
        self._stamp: str | None = None
        self._read_at = float("-inf")
        self._wake = asyncio.Event()
        self._looking = asyncio.Lock()
        self._looking_again = asyncio.Lock()
        self._attempts: OrderedDict[str, tuple[Attempt, float]] = OrderedDict()
        _AGE.watch(lambda: min(self.age_s(), 1e9))

    def age_s(self) -> float:
        """Seconds since what is known was true."""
        return self._clock.monotonic() - self._read_at

    async def look(self) -> None:
        """Read the gates, and the payloads where another set of changesets is published.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError: Postgres did not answer; what is known stays, and ages.
        """
        async with self._looking:
            began = self._clock.monotonic()
            async with asyncio.timeout(LOOK_TIMEOUT_S), self._pool.acquire() as connection:
                gates = await read_gates(connection)
                listings = self._snapshot.listings
                if gates.stamp != self._stamp:
                    # Read after the stamp, so that they are at least as new: the next look sees a newer stamp.
                    listings = await read_listings(connection)
            self._snapshot = Snapshot(
                listings=listings,
                closed=gates.closed,
                suspended=gates.suspended,
                everything_halted=gates.everything_halted,
            )
            self._stamp = gates.stamp
            self._read_at = began

    async def decide(self, sha256: str, name: str, token: str | None) -> Decision:
        """Whether the payload may be sent now.

        Raises:
            Unavailable: What is known is too old to say yes.
        """
        decision = await self._decide(sha256, name, token)
        if isinstance(decision, Unlisted):
            # It may have been published a moment ago.
            await self._look_again()
            decision = await self._decide(sha256, name, token)
        return decision

    def still(self, sha256: str, name: str, token: str | None) -> Decision:
        """The decision for a download under way, from memory alone and however old it is."""
        if token is None:
            return decide(self._snapshot, sha256, name)
        known = self._attempts.get(token)
        if known is None:
            return decide(self._snapshot, sha256, name)
        return decide_for_attempt(self._snapshot, sha256, name, known[0])

    async def run(self) -> NoReturn:
        """Look for ever; while Postgres is away what is known ages, and is refused once it is too old."""
        listening = asyncio.create_task(listen(self._pool, {CHANNEL: self._wake.set}), name="listen for gates")
        try:
            while True:
                with suppress(TimeoutError):
                    # Not wait_for: Python 3.11's loses a cancellation that comes together with the event.
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._wake.wait()
                if self._wake.is_set():
                    self._wake.clear()
                    self._attempts.clear()
                if listening.done():
                    await listening
                try:
                    await self.look()
                    _LOOKS.add(1, ("ok",))
                except Exception as error:
                    if not is_transient(error):
                        raise
                    _LOOKS.add(1, ("away",))
                    _log.warning("gates.away", cause=type(error).__name__, age_s=round(self.age_s(), 1))
                    await asyncio.sleep(LOOK_EVERY_S)
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening

    async def ping(self) -> None:
        """Return if what is known is fresh enough."""
        self._refuse_if_stale()

    async def _decide(self, sha256: str, name: str, token: str | None) -> Decision:
        self._refuse_if_stale()
        if token is None:
            return decide(self._snapshot, sha256, name)
        attempt = await self._attempt(token) if sha256 in self._snapshot.listings else None
        return decide_for_attempt(self._snapshot, sha256, name, attempt)

    async def _attempt(self, token: str) -> Attempt | None:
        now = self._clock.monotonic()
        known = self._attempts.get(token)
        if known is not None and now - known[1] < ATTEMPT_FRESH_S:
            self._attempts.move_to_end(token)
            return known[0]
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            attempt = await read_attempt(self._pool, token)
        if attempt is None:
            # Not kept: guessed tokens must not push out real ones.
            return None
        self._attempts[token] = (attempt, now)
        self._attempts.move_to_end(token)
        if len(self._attempts) > MAX_ATTEMPTS:
            self._attempts.popitem(last=False)
        return attempt

    async def _look_again(self) -> None:
        """Look once more, together with all who want it, and not more often than every UNLISTED_LOOK_S."""
        asked = self._clock.monotonic()
        async with self._looking_again:
            if self._read_at >= asked:
                return
            await asyncio.sleep(max(0.0, UNLISTED_LOOK_S - self.age_s()))
            await self.look()

    def _refuse_if_stale(self) -> None:
        if self.age_s() > self._max_age_s:
            raise Unavailable(
                f"what is known of halts is older than {self._max_age_s:g} s, so nothing is sent; try again",
                retry_after_s=RETRY_AFTER_S,
            )


GATES: Final = web.AppKey("GATES", GateWatch)
