"""NOTIFY as a hint to look now: lost while the connection is away, so whoever listens also looks by himself."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final, NoReturn

import asyncpg
import structlog

from shared.db.pool import is_transient

RETRY_S: Final = 1.0

_log = structlog.get_logger()


async def listen(pool: asyncpg.Pool[Any], channel: str, wake: asyncio.Event, *, retry_s: float = RETRY_S) -> NoReturn:
    """Set ``wake`` at every notification on ``channel``, and whenever listening begins anew; runs until cancelled.

    It keeps one connection of the pool. While Postgres is away it tries again every ``retry_s`` seconds.
    """
    while True:
        try:
            await _listen_once(pool, channel, wake)
        except Exception as error:
            if not is_transient(error):
                raise
            _log.info("listen.away", channel=channel, cause=type(error).__name__)
        await asyncio.sleep(retry_s)


async def _listen_once(pool: asyncpg.Pool[Any], channel: str, wake: asyncio.Event) -> None:
    gone = asyncio.Event()

    def heard(*_: object) -> None:
        wake.set()

    def ended(_: object) -> None:
        gone.set()

    async with pool.acquire() as connection:
        connection.add_termination_listener(ended)
        await connection.add_listener(channel, heard)
        try:
            wake.set()
            await gone.wait()
        finally:
            # Where the connection has ended there is nothing to take off.
            with suppress(asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
                connection.remove_termination_listener(ended)
                await connection.remove_listener(channel, heard)
