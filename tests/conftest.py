"""Real Postgres and RabbitMQ for the tests: ours, started when the first test asks, or named by the environment.

``UNEVENTFUL_TEST_POSTGRES_URL`` (of a superuser) and ``UNEVENTFUL_TEST_AMQP_URL`` name servers to use instead. A test
that asks for one fails when it cannot be had; it is never skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from services.standalone.errors import StartFailed
from services.standalone.postgres import PostgresServer
from services.standalone.processes import free_ports
from services.standalone.rabbitmq import RabbitNode
from shared.db import create_pool, migrate

_BROKER_WANTED = pytest.StashKey[bool]()
_clone_numbers = itertools.count(1)


class PostgresElsewhere:
    """The server that ``UNEVENTFUL_TEST_POSTGRES_URL`` names; the part of PostgresServer that tests need."""

    def __init__(self, admin_url: str) -> None:
        self._parts = urlsplit(admin_url)

    def url(self, database: str) -> str:
        return urlunsplit(self._parts._replace(path=f"/{database}"))


class RabbitElsewhere:
    """The broker that ``UNEVENTFUL_TEST_AMQP_URL`` names."""

    def __init__(self, url: str) -> None:
        self.url = url


def pytest_collection_finish(session: pytest.Session) -> None:
    """Notes whether any test asks for the broker: it takes seconds to start, so it starts beside Postgres."""
    session.config.stash[_BROKER_WANTED] = any(
        "rabbitmq_node" in item.fixturenames for item in session.items if isinstance(item, pytest.Function)
    )


@contextlib.contextmanager
def _state_directory(name: str):
    """A directory that an unprivileged server may pass through (pytest's own are closed to others)."""
    directory = Path(tempfile.mkdtemp(prefix=f"uneventful-test-{name}-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
async def _rabbitmq_start(request: pytest.FixtureRequest) -> AsyncIterator[asyncio.Task[RabbitNode | RabbitElsewhere]]:
    """The start of the broker, under way."""
    with contextlib.ExitStack() as stack:
        node: RabbitNode | None = None

        async def start() -> RabbitNode | RabbitElsewhere:
            nonlocal node
            if url := os.environ.get("UNEVENTFUL_TEST_AMQP_URL"):
                return RabbitElsewhere(url)
            directory = stack.enter_context(_state_directory("rabbitmq"))
            amqp, dist, epmd = free_ports(3)
            node = RabbitNode(directory, amqp_port=amqp, dist_port=dist, epmd_port=epmd)
            await node.start()
            return node

        task = asyncio.create_task(start())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if node is not None:
                await node.stop()


@pytest.fixture(scope="session")
async def rabbitmq_node(_rabbitmq_start) -> RabbitNode | RabbitElsewhere:
    """A RabbitMQ node with ``url``; a test that kills or stops it starts its own instead."""
    try:
        return await _rabbitmq_start
    except StartFailed as error:
        pytest.fail(f"This test needs RabbitMQ (Debian package rabbitmq-server): {error}", pytrace=False)


@pytest.fixture(scope="session")
def _broker_under_way(request: pytest.FixtureRequest) -> None:
    """Lets the broker start beside Postgres if a test will need it; only a sync fixture can ask by name."""
    if request.config.stash.get(_BROKER_WANTED, False):
        request.getfixturevalue("_rabbitmq_start")


@pytest.fixture(scope="session")
async def postgres_server(_broker_under_way: None) -> AsyncIterator[PostgresServer | PostgresElsewhere]:
    """A Postgres server with ``url(database)``; a test that kills or stops it starts its own instead."""
    if url := os.environ.get("UNEVENTFUL_TEST_POSTGRES_URL"):
        yield PostgresElsewhere(url)
        return
    with _state_directory("postgres") as directory:
        server = PostgresServer(directory, port=free_ports(1)[0], durable=False)
        try:
            await server.start()
        except StartFailed as error:
            pytest.fail(
                f"This test needs PostgreSQL (extra `embedded`, or Debian package postgresql): {error}", pytrace=False
            )
        try:
            yield server
        finally:
            await server.stop()


@contextlib.asynccontextmanager
async def _administrator(server: PostgresServer | PostgresElsewhere) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(server.url("postgres"), timeout=30)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture(scope="session")
async def template_database(postgres_server) -> AsyncIterator[str]:
    """Name of a database that all migrations made; databases of tests are copies of it."""
    name = f"uneventful_template_{uuid.uuid4().hex[:12]}"
    async with _administrator(postgres_server) as admin:
        await admin.execute(f"CREATE DATABASE {name}")
    await migrate(postgres_server.url(name))
    async with _administrator(postgres_server) as admin:
        await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    yield name
    async with _administrator(postgres_server) as admin:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database_url(postgres_server, template_database) -> AsyncIterator[str]:
    """URL of a database of this test's own, migrated and otherwise empty."""
    name = f"{template_database}_{next(_clone_numbers)}"
    async with _administrator(postgres_server) as admin:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    yield postgres_server.url(name)
    async with _administrator(postgres_server) as admin:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_database_url(postgres_server) -> AsyncIterator[str]:
    """URL of a database of this test's own without any migration."""
    name = f"uneventful_empty_{uuid.uuid4().hex[:12]}"
    async with _administrator(postgres_server) as admin:
        await admin.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    async with _administrator(postgres_server) as admin:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def pool(database_url) -> AsyncIterator[asyncpg.Pool[Any]]:
    """A pool on the test's own database, made as services make theirs."""
    pool = await create_pool(database_url, application_name="test", max_size=20)
    try:
        yield pool
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pool.close(), 5)
        pool.terminate()


@pytest.fixture(scope="session")
def amqp_url(rabbitmq_node) -> str:
    """URL of the broker that all tests share; names of a test begin with its ``bus_namespace``."""
    return rabbitmq_node.url


@pytest.fixture
def bus_namespace() -> str:
    """What the exchanges and queues of this test are called first, so that tests do not meet on the broker."""
    return f"test-{uuid.uuid4().hex[:12]}"
