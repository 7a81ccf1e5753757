"""The application: nothing is asked of it over HTTP; it follows the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from services.rollback_analysis.follow import Analysis
from services.rollback_analysis.settings import Settings
from shared.clock import SystemClock
from shared.db.migrate import check_schema
from shared.db.pool import create_pool
from shared.ids import SystemIds
from shared.ledger import LedgerSignal
from shared.web import HEALTH, background, new_app

ANALYSIS = web.AppKey("ANALYSIS", Analysis)


def make_app(settings: Settings) -> web.Application:
    """Build it."""
    app = new_app(name="rollback_analysis")

    async def analysis(app: web.Application) -> AsyncIterator[None]:
        pool = await create_pool(
            settings.database_url.reveal(), application_name="rollback_analysis", min_size=2, max_size=4
        )
        try:
            async with pool.acquire() as connection:
                await check_schema(connection)
            async with LedgerSignal(pool) as signal:
                app[ANALYSIS] = Analysis(
                    pool,
                    settings.database_url,
                    ids=SystemIds(),
                    clock=SystemClock(),
                    batch_events=settings.batch_events,
                    wake=signal.event(),
                )
                app[HEALTH].add("postgres", app[ANALYSIS].ping)
                yield
        finally:
            pool.terminate()

    async def follow(app: web.Application) -> None:
        await app[ANALYSIS].run()

    app.cleanup_ctx.append(analysis)
    app.cleanup_ctx.append(background("analysis", follow))
    return app
