"""Puts event_log together: mover, relay, ticks and housekeeping, each a task without which the service ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
from aiohttp import web

from services.event_log.housekeeping import keep_house
from services.event_log.leadership import lead_for_ever
from services.event_log.mover import Mover
from services.event_log.relay import Relay
from services.event_log.settings import Settings
from services.event_log.ticker import Ticker
from shared.bus.dead_letters import DeadLetterCopier
from shared.bus.rabbitmq import RabbitBus
from shared.clock import SystemClock
from shared.db import check_schema, create_pool
from shared.ids import SystemIds
from shared.ledger import LedgerSignal
from shared.web import HEALTH, background, new_app

SETTINGS: Final = web.AppKey("SETTINGS", Settings)
POOL: Final[web.AppKey[asyncpg.Pool[Any]]] = web.AppKey("POOL", asyncpg.Pool)
RELAY: Final = web.AppKey("RELAY", Relay)
LEADERSHIPS: Final = ("mover", "relay")


def make_app(settings: Settings) -> web.Application:
    """The application; it has no routes of its own, its work is done beside."""
    app = new_app(name="event_log")
    app[SETTINGS] = settings
    app.cleanup_ctx.append(_pool)
    app.cleanup_ctx.append(background("mover", _move))
    app.cleanup_ctx.append(background("ticker", _tick))
    app.cleanup_ctx.append(background("housekeeping", _keep_house))
    if settings.amqp_url is not None:
        app.cleanup_ctx.append(_broker)
        app.cleanup_ctx.append(background("relay", _relay))
    return app


async def _pool(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    pool = await create_pool(settings.database_url.reveal(), application_name="event_log", max_size=5)
    try:
        async with pool.acquire() as connection:
            await check_schema(connection)

        async def ping() -> None:
            await pool.fetchval("SELECT 1")

        app[HEALTH].add("postgres", ping)
        app[POOL] = pool
        yield
    finally:
        await pool.close()


async def _broker(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    if settings.amqp_url is None:
        raise RuntimeError("the relay needs a broker")
    url = settings.amqp_url.reveal()
    bus = RabbitBus(url, name="event_log")
    copier = DeadLetterCopier(bus, app[POOL])
    async with LedgerSignal(app[POOL]) as signal:
        app[RELAY] = Relay(app[POOL], url, batch=settings.relay_batch, wake=signal.event())
        app[HEALTH].add("rabbitmq", bus.ping)
        yield
        await copier.close()
        await bus.close()


async def _move(app: web.Application) -> None:
    settings = app[SETTINGS]

    async def lead(connection: asyncpg.Connection[Any]) -> None:
        mover = Mover(
            connection,
            batch_size=settings.mover_batch,
            idle_s=settings.mover_idle_seconds,
            partitions_ahead=settings.partitions_ahead,
        )
        await mover.run()

    await lead_for_ever(settings.database_url.reveal(), "mover", lead, standby_s=settings.standby_seconds)


async def _relay(app: web.Application) -> None:
    settings = app[SETTINGS]
    await lead_for_ever(settings.database_url.reveal(), "relay", app[RELAY].run, standby_s=settings.standby_seconds)


async def _tick(app: web.Application) -> None:
    await Ticker(app[POOL], SystemClock(), SystemIds(), interval_s=app[SETTINGS].tick_seconds).run()


async def _keep_house(app: web.Application) -> None:
    settings = app[SETTINGS]
    await keep_house(app[POOL], partitions_ahead=settings.partitions_ahead, seen_days=settings.seen_days)
