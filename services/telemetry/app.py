"""Builds telemetry's application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import asyncpg
from aiohttp import web

from services.telemetry.application_watch import APPLICATIONS, ApplicationWatch
from services.telemetry.routes import NODE_TOKENS, REPORTER, ReportRoutes
from services.telemetry.settings import Settings
from services.telemetry.store import ping
from services.telemetry.wire import MAX_REPORTS
from shared.clock import SystemClock
from shared.db.migrate import check_schema
from shared.db.pool import create_pool
from shared.fleet import FleetReporter
from shared.fleet.node_tokens import NodeTokenCheck
from shared.web import HEALTH, background, new_app

NAME: Final = "telemetry"
MAX_BODY_BYTES: Final = 1024 * 1024
POOL: Final[web.AppKey[asyncpg.Pool[Any]]] = web.AppKey("POOL", asyncpg.Pool)


def make_app(settings: Settings) -> web.Application:
    """The application; Postgres is opened when it starts."""
    clock = SystemClock()

    async def open_database(_: web.Application) -> AsyncIterator[None]:
        # One connection writes, one listens, one looks; one is for the health check.
        pool = await create_pool(settings.database_url.reveal(), application_name=NAME, max_size=4)
        try:
            async with pool.acquire() as connection:
                await check_schema(connection)
            app[POOL] = pool
            app[NODE_TOKENS] = NodeTokenCheck(pool, clock)
            app[APPLICATIONS] = ApplicationWatch(pool, clock)
            await app[APPLICATIONS].look()
            app[REPORTER] = FleetReporter(
                pool,
                awaited_every=timedelta(seconds=settings.reboot_awaited_every_s),
                max_batch=MAX_REPORTS,
                max_waiting=settings.max_waiting,
                flush_timeout_s=settings.flush_timeout_s,
            )
            app[HEALTH].add("postgres", lambda: ping(pool))
            yield
            await app[REPORTER].close()
        finally:
            pool.terminate()

    app = new_app(name=NAME, max_body_bytes=MAX_BODY_BYTES, bare=True)
    app.cleanup_ctx.append(open_database)
    app.cleanup_ctx.append(background("watch of the applications", lambda running: running[APPLICATIONS].run()))
    routes = ReportRoutes(
        clock,
        trust_forwarded_for=settings.trust_forwarded_for,
        require_node_tokens=settings.require_node_tokens,
    )
    app.add_routes(routes.table())
    return app
