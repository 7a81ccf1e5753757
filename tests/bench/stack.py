"""What a bench runs against: Postgres, RabbitMQ and services of its own, as real processes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import orjson

from services.standalone.errors import AlreadyRunning, StartFailed
from services.standalone.postgres import PostgresServer
from services.standalone.processes import LeashedProcess, free_ports, plain_environment, tail
from services.standalone.rabbitmq import RabbitNode
from shared.db import migrate
from shared.db.pool import set_codecs

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TRIES = 3

S = TypeVar("S", PostgresServer, RabbitNode)


class BenchFailedError(Exception):
    """A bench could not be run; the message says why."""


@dataclass(frozen=True)
class Running:
    """A server process that serves."""

    name: str
    process: LeashedProcess
    pid: int
    url: str
    status_url: str | None

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0


class Stack:
    """Starts servers below one temporary directory; all of them end with it."""

    def __init__(self, directory: Path, exits: contextlib.AsyncExitStack) -> None:
        self.directory = directory
        self._exits = exits
        self._postgres: PostgresServer | None = None
        self._rabbitmq: RabbitNode | None = None
        self._databases = 0

    async def postgres(self) -> PostgresServer:
        """A durable server (fsync, full-page writes and synchronous commit are on), started once."""
        if self._postgres is None:
            self._postgres = await self._begin(
                lambda number: PostgresServer(
                    self.directory / f"postgres-{number}", port=free_ports(1)[0], durable=True
                )
            )
        return self._postgres

    async def rabbitmq(self) -> RabbitNode:
        """A broker, started once."""
        if self._rabbitmq is None:

            def make(number: int) -> RabbitNode:
                amqp, dist, epmd = free_ports(3)
                directory = self.directory / f"rabbitmq-{number}"
                return RabbitNode(directory, amqp_port=amqp, dist_port=dist, epmd_port=epmd)

            self._rabbitmq = await self._begin(make)
        return self._rabbitmq

    async def _begin(self, make: Callable[[int], S]) -> S:
        """Start a server; again on other ports where somebody took them in the moment between."""
        for number in itertools.count(1):
            server = make(number)
            self._exits.push_async_callback(server.stop)
            try:
                await server.start()
            except (StartFailed, AlreadyRunning):
                if number == TRIES:
                    raise
            else:
                return server
        raise AssertionError

    async def database(self, name: str, *, migrated: bool = True) -> str:
        """URL of a new database."""
        server = await self.postgres()
        await server.create_database(name)
        if migrated:
            await migrate(server.url(name))
        return server.url(name)

    async def service(self, name: str, **settings: object) -> Running:
        """``python -m services.<name>`` with these settings, once it serves; it ends with the bench."""
        environ = {f"UNEVENTFUL_{key.upper()}": str(value) for key, value in settings.items()}
        environ |= {"UNEVENTFUL_PORT": "0", "UNEVENTFUL_STATUS_PORT": "0", "UNEVENTFUL_LOG_LEVEL": "WARNING"}
        return await self._start(name, ["-m", f"services.{name}"], environ)

    async def hello(self, payload: Path | None = None) -> Running:
        """The yardstick."""
        argv = [str(HERE / "hello.py"), "{ready}", *([str(payload)] if payload else [])]
        return await self._start("hello", argv, {})

    async def _start(self, name: str, argv: list[str], environ: dict[str, str]) -> Running:
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
        ready, log = directory / "ready.json", directory / "log"
        process = await LeashedProcess.start(
            name,
            [sys.executable, *(argument.replace("{ready}", str(ready)) for argument in argv)],
            log=log,
            environ={**plain_environment(os.environ), "UNEVENTFUL_READY_FILE": str(ready), **environ}
            if environ
            else plain_environment(os.environ),
            cwd=ROOT,
        )
        self._exits.push_async_callback(process.stop)
        deadline = time.monotonic() + 60
        while not ready.exists():
            if not process.running or time.monotonic() > deadline:
                raise BenchFailedError(f"{name} does not serve. The end of its log:\n{tail(log)}")
            await asyncio.sleep(0.02)
        said = json.loads(ready.read_text())
        return Running(name, process, said["pid"], said["url"], said.get("status_url"))


def _new_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="uneventful-bench-"))
    directory.chmod(0o711)  # an unprivileged server passes through
    return directory


@contextlib.asynccontextmanager
async def stack() -> AsyncIterator[Stack]:
    """A directory and what is started below it; nothing is left behind."""
    directory = _new_directory()
    try:
        async with contextlib.AsyncExitStack() as exits:
            yield Stack(directory, exits)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """One connection with our codecs."""
    connection = await asyncpg.connect(database_url)
    await set_codecs(connection)
    try:
        yield connection
    finally:
        await connection.close()


async def load(plan: dict[str, object]) -> dict[str, Any]:
    """Run the load generator, in a process of its own, and return what it saw."""
    process = await start_load(plan)
    said, _ = await process.communicate(orjson.dumps(plan))
    if process.returncode != 0:
        raise BenchFailedError("the load generator failed; see above")
    return orjson.loads(said)


async def start_load(_plan: dict[str, object]) -> asyncio.subprocess.Process:
    """The load generator, waiting for its plan on stdin."""
    return await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "client.py"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
