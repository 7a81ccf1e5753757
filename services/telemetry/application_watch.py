"""Keeps the names of applications in memory: fresh at each NOTIFY, each second in any case."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn

import asyncpg
import structlog
from aiohttp import web

from services.telemetry.store import read_applications
from shared.clock import Clock
from shared.db.listen import listen
from shared.db.pool import is_transient

CHANNEL: Final = "uneventful_gates"
LOOK_EVERY_S: Final = 1.0
LOOK_TIMEOUT_S: Final = 5.0
UNKNOWN_LOOK_S: Final = 0.1

_log = structlog.get_logger()


class ApplicationWatch:
    """Finds applications by id or name, from memory.

    Args:
        pool: Where connections come from; listening keeps one of them.
        clock: Measures ages.
    """

    def __init__(self, pool: asyncpg.Pool[Any], clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._known: Mapping[str, uuid.UUID] = {}
        self._read_at = float("-inf")
        self._wake = asyncio.Event()
        self._looking_again = asyncio.Lock()

    @property
    def find(self) -> Callable[[str], uuid.UUID | None]:
        """A look-up in what is known now."""
        known = self._known

        def application_id_of(name: str) -> uuid.UUID | None:
            found = known.get(name)
            # Ids may come in capitals or in braces, as Omaha has them.
            return known.get(name.strip("{}").lower()) if found is None else found

        return application_id_of

    async def look(self) -> None:
        """Read all applications.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError: Postgres did not answer; what is known stays.
        """
        began = self._clock.monotonic()
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            self._known = await read_applications(self._pool)
        self._read_at = began

    async def look_again(self) -> None:
        """Look for an application that may be new, together with all who want it, and not often."""
        asked = self._clock.monotonic()
        async with self._looking_again:
            if self._read_at >= asked:
                return
            await asyncio.sleep(max(0.0, UNKNOWN_LOOK_S - (self._clock.monotonic() - self._read_at)))
            await self.look()

    async def run(self) -> NoReturn:
        """Look for ever; while Postgres is away what is known stays, and nothing can be acknowledged anyway."""
        listening = asyncio.create_task(listen(self._pool, {CHANNEL: self._wake.set}), name="listen for applications")
        try:
            while True:
                with suppress(TimeoutError):
                    # Not wait_for: Python 3.11's loses a cancellation that comes together with the event.
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._wake.wait()
                self._wake.clear()
                if listening.done():
                    await listening
                try:
                    await self.look()
                except Exception as error:
                    if not is_transient(error):
                        raise
                    _log.warning("applications.away", cause=type(error).__name__)
                    await asyncio.sleep(LOOK_EVERY_S)
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening


APPLICATIONS: Final = web.AppKey("APPLICATIONS", ApplicationWatch)
