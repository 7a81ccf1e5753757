"""The application: its parts and their lives."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import structlog
from aiohttp import web

from services.update_check.checks import Checks
from services.update_check.contacts import ContactBook
from services.update_check.dialect_store import tell_floods
from services.update_check.flood import FloodGuard, Rate
from services.update_check.graph_routes import APPLICATION, RELEASES, ReleaseBook, add_graph_routes
from services.update_check.keeper import SnapshotKeeper, postgres_is_away
from services.update_check.native_routes import (
    DETAILS,
    DISTRIBUTION_URL,
    IDS,
    NODE_TOKENS,
    POOL,
    TOKENS_REQUIRED,
    DetailsBook,
    add_native_routes,
)
from services.update_check.path_secrets import PathGuard
from services.update_check.routes import (
    CHECKS,
    CLOCK,
    KEEPER,
    MAX_BODY_BYTES,
    PATH_GUARD,
    TRUST_FORWARDED_FOR,
    WATCH,
    add_routes,
)
from services.update_check.settings import Settings
from services.update_check.spool import Spool
from services.update_check.watch import PollWatch
from shared.bus import connect_bus
from shared.clock import SystemClock
from shared.db.migrate import check_schema
from shared.db.pool import create_pool
from shared.fleet import FleetReporter
from shared.fleet.node_tokens import NodeTokenCheck
from shared.ids import SystemIds
from shared.web import HEALTH, background, new_app

CONTACTS = web.AppKey("CONTACTS", ContactBook)
SPOOL = web.AppKey("SPOOL", Spool)
FLOODS = web.AppKey("FLOODS", FloodGuard)
DRAIN_EVERY_S = 0.5
FLOODS_EVERY_S = 2.0

_log = structlog.get_logger()


def make_app(settings: Settings) -> web.Application:
    """Build it."""
    app = new_app(name="update_check", max_body_bytes=MAX_BODY_BYTES, bare=True)
    app[TRUST_FORWARDED_FOR] = settings.trust_forwarded_for
    app[PATH_GUARD] = PathGuard(settings.omaha_secret, required=settings.require_path_secret)
    app[APPLICATION] = settings.cincinnati_application
    app[TOKENS_REQUIRED] = settings.require_node_tokens
    app[DISTRIBUTION_URL] = settings.distribution_url
    add_routes(app)
    add_graph_routes(app)
    add_native_routes(app)

    async def parts(app: web.Application) -> AsyncIterator[None]:
        clock, ids = SystemClock(), SystemIds()
        awaited_every = timedelta(seconds=settings.reboot_awaited_every_s)
        pool = await create_pool(
            settings.database_url.reveal(), application_name="update_check", min_size=2, max_size=settings.pool_size
        )
        try:
            async with pool.acquire() as connection:
                await check_schema(connection)
            keeper = SnapshotKeeper(
                pool,
                clock,
                distribution_url=settings.distribution_url,
                max_age_s=settings.snapshot_max_age_s,
                analysis_max_lag_s=settings.analysis_max_lag_s,
            )
            reporter = FleetReporter(pool, awaited_every=awaited_every, max_waiting=settings.max_waiting_reports)
            contacts = ContactBook(
                pool,
                reporter,
                ids=ids,
                writer=f"{socket.gethostname()}:{settings.port}",
                flush_s=settings.contact_flush_s,
                awaited_every=awaited_every,
            )
            spool = Spool(Path(settings.spool_dir), max_bytes=settings.spool_max_bytes)
            watch = PollWatch(pool, keeper, clock)
            floods = FloodGuard(
                machine=Rate(settings.flood_machine_per_minute, settings.flood_machine_burst),
                address=Rate(settings.flood_address_per_minute, settings.flood_address_burst),
            )
            checks = Checks(pool, keeper, reporter, contacts, spool, watch=watch, floods=floods, ids=ids, clock=clock)
            app[POOL], app[IDS], app[FLOODS] = pool, ids, floods
            app[RELEASES], app[DETAILS], app[NODE_TOKENS] = (
                ReleaseBook(pool, clock),
                DetailsBook(pool),
                NodeTokenCheck(pool, clock),
            )
            app[KEEPER], app[CONTACTS], app[SPOOL], app[CHECKS], app[CLOCK] = keeper, contacts, spool, checks, clock
            app[WATCH] = watch
            # What an earlier life left behind is older than anything that can be said now.
            await checks.drain_spool()
            await keeper.load()
            app[HEALTH].add("snapshot", keeper.ping)
            bus = connect_bus(settings.amqp_url, pool)
            bus.subscribe(("changeset.#", "rollout.#", "channel.#", "policy.#"), lambda *_: keeper.wake())
            try:
                yield
            finally:
                await bus.close()
                await checks.close()
                await reporter.close()
        finally:
            pool.terminate()

    async def keep(app: web.Application) -> None:
        await app[KEEPER].run()

    async def write_contacts(app: web.Application) -> None:
        await app[CONTACTS].run()

    async def watch_polls(app: web.Application) -> None:
        await app[WATCH].run()

    async def drain(app: web.Application) -> None:
        while True:
            await asyncio.sleep(DRAIN_EVERY_S)
            if not app[SPOOL].empty:
                try:
                    drained = await app[CHECKS].drain_spool()
                    await app[KEEPER].load()
                    _log.info("spool.drained", reports=drained)
                except Exception as error:
                    if not postgres_is_away(error):
                        raise

    async def keep_telling_floods(app: web.Application) -> None:
        while True:
            await asyncio.sleep(FLOODS_EVERY_S)
            await tell_floods(app[POOL], app[FLOODS], app[CLOCK].now())

    app.cleanup_ctx.append(parts)
    app.cleanup_ctx.append(background("snapshot", keep))
    app.cleanup_ctx.append(background("contacts", write_contacts))
    app.cleanup_ctx.append(background("watch", watch_polls))
    app.cleanup_ctx.append(background("spool", drain))
    app.cleanup_ctx.append(background("floods", keep_telling_floods))
    return app
