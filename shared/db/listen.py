"""NOTIFY as a hint to look now: lost while the connection is away, so whoever listens also looks by himself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn

import asyncpg
import structlog

from shared.db.pool import is_transient

RETRY_S: Final = 1.0

_log = structlog.get_logger()


async def listen(
    pool: asyncpg.Pool[Any],
    channels: Mapping[str, Callable[[], None]],
    *,
    listening: asyncio.Event | None = None,
    retry_s: float = RETRY_S,
) -> NoReturn:
    """Call back at every notification, and whenever listening begins anew; runs until cancelled.

    It keeps one connection of the pool. While Postgres is away it tries again every ``retry_s`` seconds.

    Args:
        pool: Where the connection comes from.
        channels: What to call, by channel.
        listening: Set while notifications are heard.
        retry_s: The pause after a lost connection.
    """
    listening = asyncio.Event() if listening is None else listening
    while True:
        try:
            await _listen_once(pool, channels, listening)
        except Exception as error:
            if not is_transient(error):
                raise
            _log.info("listen.away", channels=sorted(channels), cause=type(error).__name__)
        await asyncio.sleep(retry_s)


async def _listen_once(
    pool: asyncpg.Pool[Any], channels: Mapping[str, Callable[[], None]], listening: asyncio.Event
) -> None:
    gone = asyncio.Event()

    def heard(_connection: object, _pid: int, channel: str, _payload: object) -> None:
        channels[channel]()

    def ended(_: object) -> None:
        gone.set()

    async with pool.acquire() as connection:
        connection.add_termination_listener(ended)
        for channel in channels:
            await connection.add_listener(channel, heard)
        try:
            for wake in channels.values():
                wake()
            listening.set()
            await gone.wait()
        finally:
            listening.clear()
            # Where the connection has ended there is nothing to take off.
            with suppress(asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
                connection.remove_termination_listener(ended)
                for channel in channels:
                    await connection.remove_listener(channel, heard)
