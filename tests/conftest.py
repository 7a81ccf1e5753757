"""Real Postgres and RabbitMQ for the tests: ours, started when the first test asks, or named by the environment.

``UNEVENTFUL_TEST_POSTGRES_URL`` (of a superuser) and ``UNEVENTFUL_TEST_AMQP_URL`` name servers to use instead. A test
that asks for one fails when it cannot be had; it is never skipped. With ``-n`` all workers share one pair.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import orjson
import psutil
import pytest
from hypothesis import HealthCheck, settings

from services.standalone.errors import StartFailed
from services.standalone.postgres import PostgresServer
from services.standalone.processes import free_ports
from services.standalone.rabbitmq import RabbitNode
from shared.db import create_pool, migrate

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

_MEMORY = Path("/dev/shm")  # noqa: S108  # directories are made there by mkdtemp
_MEMORY_WANTED = 4 * 1024**3
_STOP_SECONDS = 30.0
_SOCKET = pytest.StashKey[str]()
_BROKER_WANTED = pytest.StashKey[bool]()
_clone_numbers = itertools.count(1)


class Servers:
    """Starts each server when it is first asked for, in a thread of the process that was called.

    It answers on a Unix socket, so that the workers of ``pytest -n`` share what runs: the name of a server comes in,
    its URL goes out. The servers end with this process, however it ends.
    """

    def __init__(self) -> None:
        # Taken out of the environment, where programs that a test runs would refuse them as unknown settings.
        self._elsewhere = {
            "postgres": os.environ.pop("UNEVENTFUL_TEST_POSTGRES_URL", None),
            "rabbitmq": os.environ.pop("UNEVENTFUL_TEST_AMQP_URL", None),
        }
        self._directories = contextlib.ExitStack()
        self.socket = str(self._directory() / "servers")
        self._starts: dict[str, asyncio.Task[str]] = {}
        self._started: list[PostgresServer | RabbitNode] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers", daemon=True)
        self._thread.start()
        self._listener = self._run(asyncio.start_unix_server(self._answer, self.socket))

    def close(self) -> None:
        """Stops what was started, and the thread."""
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        self._loop.close()
        self._directories.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_STOP_SECONDS)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = (await reader.readline()).decode().strip()
        if name not in self._starts:
            self._starts[name] = asyncio.create_task(self._start(name))
        try:
            said = {"url": await asyncio.shield(self._starts[name])}
        except StartFailed as error:
            said = {"error": str(error)}
        writer.write(orjson.dumps(said))
        writer.close()

    async def _start(self, name: str) -> str:
        if url := self._elsewhere[name]:
            return url
        if name == "postgres":
            # Databases are made and dropped by the hundred: in memory that is thirty times faster.
            postgres = PostgresServer(self._directory(_roomy_memory()), port=free_ports(1)[0], durable=False)
            self._started.append(postgres)
            await postgres.start()
            return postgres.url("postgres")
        amqp, dist, epmd = free_ports(3)
        rabbitmq = RabbitNode(self._directory(), amqp_port=amqp, dist_port=dist, epmd_port=epmd)
        self._started.append(rabbitmq)
        await rabbitmq.start()
        return rabbitmq.url

    async def _stop(self) -> None:
        self._listener.close()
        for start in self._starts.values():
            start.cancel()
        await asyncio.gather(*self._starts.values(), return_exceptions=True)
        await asyncio.gather(*(server.stop() for server in self._started))

    def _directory(self, parent: Path | None = None) -> Path:
        """One that an unprivileged server may pass through (pytest's own are closed to others)."""
        directory = Path(tempfile.mkdtemp(prefix="uneventful-test-", dir=parent))
        self._directories.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o711)
        return directory


def _roomy_memory() -> Path | None:
    """A file system in memory that is large enough for the tests' Postgres; None where there is none."""
    if not _MEMORY.is_dir():
        return None
    room = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available)
    return _MEMORY if room >= _MEMORY_WANTED else None


async def _url_of(socket: str, name: str) -> str:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(f"{name}\n".encode())
        said = orjson.loads(await reader.read())
    finally:
        writer.close()
    if "error" in said:
        raise StartFailed(said["error"])
    return str(said["url"])


def pytest_configure(config: pytest.Config) -> None:
    """The process that was called has the servers; a worker asks it for them."""
    if (workerinput := getattr(config, "workerinput", None)) is not None:
        config.stash[_SOCKET] = workerinput["servers"]
        return
    servers = Servers()
    config.add_cleanup(servers.close)
    config.stash[_SOCKET] = servers.socket


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells a new worker where to ask."""
    node.workerinput["servers"] = node.config.stash[_SOCKET]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``-n`` the end-to-end tests go first, one after the other; the other workers do the rest meanwhile.

    They run whole systems against the clock, which two of at once on one core each would not bear.
    """
    if not hasattr(config, "workerinput"):
        return
    end_to_end = config.rootpath / "tests" / "e2e"
    for item in items:
        if end_to_end in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("end-to-end"))
    items.sort(key=lambda item: end_to_end not in item.path.parents)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Notes whether any test asks for the broker: it takes seconds to start, so it starts beside Postgres."""
    session.config.stash[_BROKER_WANTED] = any(
        "rabbitmq_node" in item.fixturenames for item in session.items if isinstance(item, pytest.Function)
    )


class Postgres:
    """The server of this run, known by the URL of one of its databases."""

    def __init__(self, admin_url: str) -> None:
        self._parts = urlsplit(admin_url)

    def url(self, database: str) -> str:
        return urlunsplit(self._parts._replace(path=f"/{database}"))


@pytest.fixture(scope="session")
async def _broker_start(request: pytest.FixtureRequest) -> AsyncIterator[asyncio.Task[str]]:
    """The start of the broker, under way."""
    task = asyncio.create_task(_url_of(request.config.stash[_SOCKET], "rabbitmq"))
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="session")
async def rabbitmq_node(_broker_start) -> str:
    """URL of a RabbitMQ node; a test that kills or stops it starts its own instead."""
    try:
        return await _broker_start
    except StartFailed as error:
        pytest.fail(f"This test needs RabbitMQ (Debian package rabbitmq-server): {error}", pytrace=False)


@pytest.fixture(scope="session")
def _broker_under_way(request: pytest.FixtureRequest) -> None:
    """Lets the broker start beside Postgres if a test will need it; only a sync fixture can ask by name."""
    if request.config.stash.get(_BROKER_WANTED, False):
        request.getfixturevalue("_broker_start")


@pytest.fixture(scope="session")
async def postgres_server(request: pytest.FixtureRequest, _broker_under_way: None) -> Postgres:
    """A Postgres server with ``url(database)``; a test that kills or stops it starts its own instead."""
    try:
        return Postgres(await _url_of(request.config.stash[_SOCKET], "postgres"))
    except StartFailed as error:
        pytest.fail(
            f"This test needs PostgreSQL (extra `embedded`, or Debian package postgresql): {error}", pytrace=False
        )


@contextlib.asynccontextmanager
async def _administrator(server: Postgres) -> AsyncIterator[asyncpg.Connection[Any]]:
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
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY file_copy")
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
    return rabbitmq_node


@pytest.fixture
def bus_namespace() -> str:
    """What the exchanges and queues of this test are called first, so that tests do not meet on the broker."""
    return f"test-{uuid.uuid4().hex[:12]}"
