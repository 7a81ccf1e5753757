"""Builds distribution's application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import structlog
from aiohttp import web

from services.distribution.gate_watch import GATES, GateWatch
from services.distribution.payload_files import PayloadFiles
from services.distribution.routes import PayloadRoutes
from services.distribution.settings import Settings
from services.distribution.store import ping, principal_of
from shared.clock import SystemClock
from shared.db.migrate import check_schema
from shared.db.pool import create_pool
from shared.web import HEALTH, Principal, background, bearer_auth_middleware, new_app
from shared.web.oidc import OidcVerifier, rules_of

NAME: Final = "distribution"
POOL: Final[web.AppKey[asyncpg.Pool[Any]]] = web.AppKey("POOL", asyncpg.Pool)

_log = structlog.get_logger()


def _is_public(request: web.Request) -> bool:
    """Downloads need no token; what goes by the digest alone (uploads, looking up) is for operators."""
    return "sha256" not in request.match_info or "name" in request.match_info


def make_app(settings: Settings) -> web.Application:
    """The application; Postgres and the store are opened when it starts."""
    files = PayloadFiles(Path(settings.store_dir))

    rules = rules_of(settings)
    oidc = None if rules is None else OidcVerifier(rules, clock=SystemClock())

    async def verify(token: str) -> Principal | None:
        found = None if oidc is None else await oidc.verify(token)
        return found or await principal_of(app[POOL], token)

    async def open_store(_: web.Application) -> AsyncIterator[None]:
        removed = await asyncio.to_thread(files.prepare)
        if removed:
            _log.info("store.cleaned", removed=removed)
        yield

    async def check_store() -> None:
        await asyncio.to_thread(files.check_directory)

    async def open_database(_: web.Application) -> AsyncIterator[None]:
        pool = await create_pool(settings.database_url.reveal(), application_name=NAME, max_size=8)
        try:
            async with pool.acquire() as connection:
                await check_schema(connection)
            app[POOL] = pool
            app[GATES] = GateWatch(pool, SystemClock(), max_age_s=settings.snapshot_max_age_s)
            await app[GATES].look()
            app[HEALTH].add("postgres", lambda: ping(pool))
            app[HEALTH].add("gates", app[GATES].ping)
            yield
        finally:
            pool.terminate()

    app = new_app(
        name=NAME,
        max_body_bytes=settings.max_upload_bytes,
        middlewares=[bearer_auth_middleware(verify, is_public=_is_public)],
    )
    app[HEALTH].add("store", check_store)
    app.cleanup_ctx.append(open_store)
    app.cleanup_ctx.append(open_database)
    app.cleanup_ctx.append(background("watch of the gates", lambda running: running[GATES].run()))
    app.add_routes(PayloadRoutes(files, settings).table())
    return app
