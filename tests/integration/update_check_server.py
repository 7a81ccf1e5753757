"""update_check as nodes of tests reach it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp.test_utils import TestServer

from services.update_check.app import make_app
from services.update_check.settings import Settings
from shared.settings import Secret


@asynccontextmanager
async def serving(database_url: str, spool: Path, **changes) -> AsyncIterator[TestServer]:
    """A real server on a free loopback port, with these settings changed."""
    settings = Settings(
        **{
            "database_url": Secret(database_url),
            "distribution_url": "http://127.0.0.1:9/",
            "spool_dir": str(spool),
            "contact_flush_s": 0.05,
            **changes,
        }
    )
    server = TestServer(make_app(settings))
    await server.start_server(access_log=None)
    try:
        yield server
    finally:
        await server.close()
