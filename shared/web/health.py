"""Health: whether a service can do its work, dependency by dependency."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from shared.errors import UneventfulError

PING_TIMEOUT_S: Final = 2.0

Ping = Callable[[], Awaitable[None]]


class Phase(enum.StrEnum):
    """Where a service is in its life; it is ready only while it serves."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencyHealth:
    """What one ping found.

    Attributes:
        name: The dependency.
        ms: How long the ping took, in milliseconds.
        error: Why it failed; None when it answered.
    """

    name: str
    ms: float
    error: str | None


class Health:
    """A service's dependencies, each with a ping that returns when it works and raises when it does not."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self._pings: dict[str, Ping] = {}

    def add(self, name: str, ping: Ping) -> None:
        """Watch a dependency; each name is used once."""
        if name in self._pings:
            msg = f"the dependency {name!r} is watched already"
            raise ValueError(msg)
        self._pings[name] = ping

    async def check(self, *, timeout_s: float = PING_TIMEOUT_S) -> list[DependencyHealth]:
        """Ping all at once; one that does not answer in ``timeout_s`` has failed."""
        return list(await asyncio.gather(*(_check(name, ping, timeout_s) for name, ping in self._pings.items())))


HEALTH: Final = web.AppKey("HEALTH", Health)


async def _check(name: str, ping: Ping, timeout_s: float) -> DependencyHealth:
    loop = asyncio.get_running_loop()
    started = loop.time()
    error: str | None = None
    try:
        async with asyncio.timeout(timeout_s):
            await ping()
    except TimeoutError:
        error = f"no answer within {timeout_s:g} s"
    except UneventfulError as failure:
        error = failure.message
    except Exception as failure:  # noqa: BLE001  # not swallowed: it is what the check is for
        # Texts of foreign errors may hold addresses and names; the class says enough here.
        error = type(failure).__name__
    return DependencyHealth(name=name, ms=round((loop.time() - started) * 1000, 2), error=error)
