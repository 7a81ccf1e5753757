"""The application: what it needs, and what runs beside its requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
import structlog
from aiohttp import web

from services.control.auth import TokenCheck
from services.control.completion import pause_s
from services.control.key_files import KeyFiles
from services.control.middleware import IDS, operation_middleware
from services.control.reference import page
from services.control.routes import REFERENCE, ROUTES, SESSION, SETTINGS, STORE, is_public
from services.control.settings import Settings
from services.control.store import Store
from services.control.tokens import KnownToken
from shared.clock import SystemClock
from shared.db import check_schema, create_pool, is_transient
from shared.ids import SystemIds
from shared.web import HEALTH, background, bearer_auth_middleware, new_app
from shared.web.oidc import OidcVerifier, rules_of

LOOKS_POOL_SIZE: Final = 3
"""Connections that can only read, for dry runs and for what If-Match is about."""
HOUSEKEEPING_EVERY_S: Final = 60.0

_log = structlog.get_logger()


def make_app(settings: Settings) -> web.Application:
    """Build control from its settings."""
    clock, ids = SystemClock(), SystemIds()

    async def lookup(hashed: bytes) -> KnownToken | None:
        return await app[STORE].tokens.find(hashed)

    rules = rules_of(settings)
    otherwise = None if rules is None else OidcVerifier(rules, clock=clock).verify
    tokens = TokenCheck(lookup, clock=clock, remember_s=settings.token_cache_s, otherwise=otherwise)
    app = new_app(
        name="control",
        max_body_bytes=256 * 1024,
        middlewares=[bearer_auth_middleware(tokens.verify, is_public=is_public), operation_middleware],
    )
    app[SETTINGS] = settings
    app[IDS] = ids
    app[REFERENCE] = page()

    async def database(app: web.Application) -> AsyncIterator[None]:
        pool = await create_pool(
            settings.database_url.reveal(), application_name="uneventful control", max_size=settings.pool_size
        )
        looks = await create_pool(
            settings.database_url.reveal(),
            application_name="uneventful control looks",
            min_size=0,
            max_size=LOOKS_POOL_SIZE,
            read_only=True,
        )
        try:
            async with pool.acquire() as connection:
                await check_schema(connection)
            app[STORE] = Store(pool, ids=ids, clock=clock, looks=looks, key_files=KeyFiles(settings.key_dir))
            if (first := await app[STORE].keys.begin()) is not None:
                _log.info("keys.first_made", key_id=first.key_id)
            app[HEALTH].add("postgres", app[STORE].ping)
            yield
            # What still runs is a look at the ledger at most; it is not worth the wait.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(pool.close(), looks.close()), 1.0)
        finally:
            pool.terminate()
            looks.terminate()

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as made:
            app[SESSION] = made
            yield

    async def keep_house(app: web.Application) -> None:
        """For ever, once a minute: keep when tokens were used last, forget idempotency keys and nodes that are old."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)
            await housekeep(app[STORE], tokens)
            await sweep_nodes(app[STORE], settings.node_retention_days)

    app.cleanup_ctx.extend(
        [database, session, background("conductor", conduct_rollouts), background("housekeeping", keep_house)]
    )
    app.router.add_routes([web.route(route.method, route.path, route.handler) for route in ROUTES])
    return app


async def conduct_rollouts(app: web.Application) -> None:
    """For ever: take the steps that rollouts take by themselves. Several replicas may do so at once."""
    store, every_s = app[STORE], app[SETTINGS].conduct_every_s
    while True:
        started = time.monotonic()
        try:
            for rollout_id, step in await store.rollouts.conduct_all():
                _log.info("rollout.conducted", rollout_id=str(rollout_id), step=str(step))
        except Exception as error:
            if not is_transient(error):
                raise
            _log.warning("conductor.postgres_away", cause=type(error).__name__)
        await asyncio.sleep(pause_s(took_s=time.monotonic() - started, at_least_s=every_s))


async def housekeep(store: Store, tokens: TokenCheck) -> None:
    """Keep when tokens were used last, and forget idempotency keys that are old."""
    try:
        await store.tokens.note_used(tokens.take_used())
        swept = await store.idempotency.sweep()
    except Exception as error:
        if not is_transient(error):
            raise
        _log.warning("housekeeping.postgres_away", cause=type(error).__name__)
    else:
        if swept:
            _log.info("idempotency_keys.swept", keys=swept)


async def sweep_nodes(store: Store, retention_days: int) -> None:
    """Have nodes that were silent for long be gone, and those that polled again be back."""
    try:
        back, went = await store.nodes.sweep(retention_days)
    except Exception as error:
        if not is_transient(error):
            raise
        _log.warning("nodes.postgres_away", cause=type(error).__name__)
    else:
        if back or went:
            _log.info("nodes.swept", back=back, gone=went)
