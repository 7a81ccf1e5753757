"""Starts everything in order, starts again what dies, and stops everything in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import asyncpg
import msgspec

from services.standalone.errors import AlreadyRunning, ProgramMissing, StartFailed
from services.standalone.postgres import PostgresServer
from services.standalone.processes import (
    LeashedProcess,
    describe_exit,
    free_ports,
    plain_environment,
    port_is_free,
    tail,
    write_private,
)
from services.standalone.rabbitmq import RabbitNode, find_rabbitmq
from services.standalone.settings import (
    AMQP_OFFSET,
    COMMON_ENVIRON,
    DIST_OFFSET,
    EPMD_OFFSET,
    POSTGRES_OFFSET,
    SERVICES,
    STATUS_OFFSET,
    Bus,
    Service,
    Settings,
    default_data_directory,
)
from shared.db import migrate

DATABASE = "uneventful"
_LOG_LIMIT_BYTES = 50 * 1024 * 1024
_READY_POLL_SECONDS = 0.03
_SERVICE_START_SECONDS = 60.0
_FIRST_DELAY_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 5.0
_STEADY_SECONDS = 10.0
_PREDECESSOR_SECONDS = 12.0

# Three stages one after the other, so that a stop is over within 10 s whatever hangs.
_SERVICE_STOP_SECONDS = 2.6
_SERVER_STOP_SECONDS = 3.8

Say = Callable[[str], None]


class ServiceReady(msgspec.Struct, frozen=True, kw_only=True):
    """What a service writes once it serves."""

    pid: int
    url: str
    status_url: str


class PostgresReady(msgspec.Struct, frozen=True, kw_only=True):
    """The embedded Postgres; ``url_file`` (mode 0600) has the URL with its password."""

    pid: int
    version: str
    url_file: str


class RabbitReady(msgspec.Struct, frozen=True, kw_only=True):
    """The private RabbitMQ node; ``url_file`` (mode 0600) has the URL with its password."""

    pid: int
    version: str
    url_file: str


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What runs, as the ready file has it; written anew when a process was started again.

    Attributes:
        pid: The supervisor's.
        services: By name.
        bus: ``rabbitmq`` or ``none``.
        token_file: Has the operators' bearer token.
        data: The data directory.
    """

    pid: int
    services: dict[str, ServiceReady]
    postgres: PostgresReady
    rabbitmq: RabbitReady | None
    bus: Bus
    token_file: str
    data: str


class Program(Protocol):
    """What the supervisor needs of a program: Postgres, RabbitMQ or a service."""

    @property
    def running(self) -> bool:
        """Whether it is there."""

    async def start(self) -> None:
        """Starts it and returns once it serves; raises StartFailed."""

    async def wait(self) -> int:
        """Waits for its end; returns the exit status."""

    async def stop(self) -> None:
        """Stops it and waits for its end."""


class ServiceProcess:
    """One service in a process of its own.

    Args:
        name: ``python -m services.<name>`` runs it.
        environ: Its whole environment.
        log: Where its output goes.
        ready_file: What ``UNEVENTFUL_READY_FILE`` in ``environ`` says.
    """

    def __init__(self, name: str, *, environ: Mapping[str, str], log: Path, ready_file: Path) -> None:
        self.name = name
        self._environ = environ
        self._log = log
        self._ready_file = ready_file
        self._process: LeashedProcess | None = None
        self._ready: ServiceReady | None = None

    @property
    def ready(self) -> ServiceReady:
        """What it said when it was ready last."""
        if self._ready is None:
            raise StartFailed(f"{self.name} has not been started yet.")
        return self._ready

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.running

    async def start(self) -> None:
        """Starts it and returns once it has written its ready file.

        Raises:
            StartFailed: It ended or was silent too long; the message ends with the tail of its log.
        """
        self._ready_file.unlink(missing_ok=True)
        rotate(self._log)
        process = await LeashedProcess.start(
            self.name,
            [sys.executable, "-m", f"services.{self.name}"],
            log=self._log,
            environ=self._environ,
            grace_seconds=_SERVICE_STOP_SECONDS,
        )
        self._process = process
        try:
            self._ready = await self._wait_until_ready(process)
        except BaseException:
            await process.stop()
            raise

    async def wait(self) -> int:
        """Waits for its end; returns the exit status."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self) -> None:
        """Stops it and waits for its end."""
        if self._process is not None:
            await self._process.stop()

    async def _wait_until_ready(self, process: LeashedProcess) -> ServiceReady:
        ended = asyncio.ensure_future(process.wait())
        deadline = time.monotonic() + _SERVICE_START_SECONDS
        try:
            while not ended.done():
                # Written at once and whole, by rename; a reader sees all of it or none.
                with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
                    return msgspec.json.decode(self._ready_file.read_bytes(), type=ServiceReady)
                if time.monotonic() > deadline:
                    raise StartFailed(
                        f"{self.name} was not ready within {_SERVICE_START_SECONDS:g} s. "
                        f"The end of {self._log}:\n{tail(self._log)}"
                    )
                await asyncio.wait([ended], timeout=_READY_POLL_SECONDS)
            raise StartFailed(
                f"{self.name} {describe_exit(ended.result())} while starting. "
                f"The end of {self._log}:\n{tail(self._log)}"
            )
        finally:
            ended.cancel()


def rotate(log: Path) -> None:
    """Keeps a log that has grown large as ``<name>.1`` and lets a new one begin."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))


def ports_for(settings: Settings) -> dict[str, int]:
    """A port for everything, by name: ``control``, ``control_status``, ``postgres``, ``amqp``, ..."""
    offsets = {service.name: service.offset for service in SERVICES}
    offsets |= {f"{service.name}_status": service.offset + STATUS_OFFSET for service in SERVICES}
    offsets |= {"postgres": POSTGRES_OFFSET, "amqp": AMQP_OFFSET, "dist": DIST_OFFSET, "epmd": EPMD_OFFSET}
    if settings.base_port == 0:
        return dict(zip(offsets, free_ports(len(offsets)), strict=True))
    return {name: settings.base_port + offset for name, offset in offsets.items()}


def environ_for(service: Service, values: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """A service's own ``UNEVENTFUL_*`` variables, from the table.

    Args:
        service: The row of the table.
        values: What the table's placeholders stand for.
        extra: Variables that go before the table's.
    """
    own = {
        "port": values[f"{service.name}_port"],
        "status_port": values[f"{service.name}_status_port"],
        "ready_file": values[f"{service.name}_ready_file"],
    }
    filled = {
        name: template.format_map({**values, **own})
        for name, template in {**COMMON_ENVIRON, **service.environ, **extra}.items()
    }
    return {name: value for name, value in filled.items() if value}


class Supervisor:
    """All of Uneventful on this machine.

    Args:
        settings: See there.
        say: Called with each line for people.
        extra: By service, variables that go before those of the table: ``{"telemetry": {"UNEVENTFUL_...": "..."}}``.
        durable: ``False`` gives up crash safety of Postgres; for tests only.

    Use :meth:`start`, then :meth:`keep` until it is to end, then :meth:`stop` in any case.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        say: Say,
        extra: Mapping[str, Mapping[str, str]] | None = None,
        durable: bool = True,
    ) -> None:
        self._settings = settings
        self._say = say
        self._extra = extra or {}
        self._durable = durable
        self.data = (settings.data or default_data_directory(os.environ)).absolute()
        self.token_file = self.data / "token"
        self._ports = ports_for(settings)
        self._postgres: PostgresServer | None = None
        self._rabbitmq: RabbitNode | None = None
        self._services: dict[str, ServiceProcess] = {}
        self._lock: int | None = None
        self._predecessor_was_killed = False
        self._stopping = asyncio.Event()

    @property
    def ready(self) -> Ready:
        """What runs; known after :meth:`start`."""
        if self._postgres is None or not self._services:
            raise StartFailed("Nothing has been started yet.")
        rabbitmq = None
        if self._rabbitmq is not None:
            rabbitmq = RabbitReady(
                pid=self._rabbitmq.pid,
                version=self._rabbitmq.program.version,
                url_file=str(self._run_file("amqp.url")),
            )
        return Ready(
            pid=os.getpid(),
            services={name: service.ready for name, service in self._services.items()},
            postgres=PostgresReady(
                pid=self._postgres.pid,
                version=self._postgres.binaries.version,
                url_file=str(self._run_file("database.url")),
            ),
            rabbitmq=rabbitmq,
            bus=Bus.NONE if rabbitmq is None else Bus.RABBITMQ,
            token_file=str(self.token_file),
            data=str(self.data),
        )

    async def start(self) -> Ready:
        """Starts everything; returns once all of it serves.

        Raises:
            AlreadyRunning: Another one runs on the same data.
            StartFailed: Something did not start; the message has the tail of its log.
        """
        self._make_directories()
        self._take_lock()
        self._remove_ready_file()
        self._say(f"Data: {self.data}")
        await self._check_ports()
        await self._start_servers()
        postgres = self._started_postgres()
        database_url = postgres.url(DATABASE)
        await postgres.create_database(DATABASE)
        write_private(self._run_file("database.url"), database_url + "\n")
        applied = await migrate(database_url)
        if applied:
            self._say(f"Migrations: {len(applied)} applied")
        await self._make_token(database_url)
        self._services = {service.name: self._prepare(service, database_url) for service in SERVICES}
        self._say(f"Starting {', '.join(self._services)}")
        await _all_or_first_error([service.start() for service in self._services.values()])
        ready = self.ready
        self._write_ready_file()
        return ready

    async def keep(self) -> None:
        """Starts again whatever ends, until :meth:`stop` is called."""
        async with asyncio.TaskGroup() as group:
            for name, program in self._programs().items():
                group.create_task(self._keep(name, program))

    async def stop(self) -> None:
        """Stops everything within 10 s: the services, then those that finish their work, then the servers."""
        self._stopping.set()
        self._remove_ready_file()
        last = {service.name for service in SERVICES if service.last}
        for stage in (
            [service for name, service in self._services.items() if name not in last],
            [service for name, service in self._services.items() if name in last],
            [server for server in (self._rabbitmq, self._postgres) if server is not None],
        ):
            await asyncio.gather(*(program.stop() for program in stage))
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def _programs(self) -> dict[str, Program]:
        programs: dict[str, Program] = {"PostgreSQL": self._started_postgres()}
        if self._rabbitmq is not None:
            programs["RabbitMQ"] = self._rabbitmq
        return {**programs, **self._services}

    def _started_postgres(self) -> PostgresServer:
        if self._postgres is None:
            raise StartFailed("PostgreSQL has not been started yet.")
        return self._postgres

    def _run_file(self, name: str) -> Path:
        return self.data / "run" / name

    def _log_file(self, name: str) -> Path:
        return self.data / "log" / f"{name}.log"

    def _make_directories(self) -> None:
        if not self.data.exists():
            self.data.mkdir(parents=True)
            self.data.chmod(0o711)  # servers run under users of their own and must pass through
        for name in ("run", "log", "store", "spool", "keys"):
            (self.data / name).mkdir(mode=0o700, exist_ok=True)

    def _take_lock(self) -> None:
        path = self.data / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise AlreadyRunning(
                f"`uneventful up` already runs on {self.data} (pid {holder or 'unknown'}). "
                f"Stop it first, or choose another directory with --data."
            ) from error
        # A stop empties the file, so a number in it means that the last one was killed.
        self._predecessor_was_killed = bool(os.read(descriptor, 32).strip())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    async def _check_ports(self) -> None:
        """Names the ports that are taken; those of a killed predecessor become free within seconds."""
        deadline = time.monotonic() + _PREDECESSOR_SECONDS
        while taken := [f"{port} ({name})" for name, port in self._ports.items() if not port_is_free(port)]:
            if time.monotonic() > deadline or not self._predecessor_was_killed:
                raise AlreadyRunning(
                    f"These ports on 127.0.0.1 are taken: {', '.join(taken)}. "
                    f"Choose others with --base-port, or free ones with --base-port 0."
                )
            await asyncio.sleep(0.2)

    async def _start_servers(self) -> None:
        self._postgres = PostgresServer(
            self.data / "postgres",
            port=self._ports["postgres"],
            durable=self._durable,
            binaries=self._settings.postgres_bin,
            stop_timeout_s=_SERVER_STOP_SECONDS,
            log=self._log_file("postgres"),
        )
        rotate(self._log_file("postgres"))
        starts = [_patiently(self._postgres.start)]
        if self._wants_rabbitmq():
            self._rabbitmq = RabbitNode(
                self.data / "rabbitmq",
                amqp_port=self._ports["amqp"],
                dist_port=self._ports["dist"],
                epmd_port=self._ports["epmd"],
                home=self._settings.rabbitmq_home,
                stop_timeout_s=_SERVER_STOP_SECONDS,
                log=self._log_file("rabbitmq"),
            )
            rotate(self._log_file("rabbitmq"))
            starts.append(_patiently(self._rabbitmq.start))
            self._say("Starting PostgreSQL and RabbitMQ (the broker takes some seconds)")
        else:
            self._say("Starting PostgreSQL")
        await _all_or_first_error(starts)
        binaries = self._postgres.binaries
        self._say(f"PostgreSQL {binaries.version} from {binaries.directory} ({binaries.origin})")
        if self._rabbitmq is not None:
            write_private(self._run_file("amqp.url"), self._rabbitmq.url + "\n")
            self._say(f"RabbitMQ {self._rabbitmq.program.version} from {self._rabbitmq.program.home}")

    def _wants_rabbitmq(self) -> bool:
        wish = self._settings.bus
        if wish is Bus.NONE:
            self._say("No broker, as told: services follow the ledger in Postgres")
            return False
        try:
            found = find_rabbitmq(self._settings.rabbitmq_home)
        except ProgramMissing as error:
            if wish is Bus.RABBITMQ:
                raise
            self._say(f"No broker: {error}")
            return False
        if found is None and wish is Bus.RABBITMQ:
            raise ProgramMissing("RabbitMQ is not installed: install the Debian package rabbitmq-server.")
        if found is None:
            self._say("No broker: rabbitmq-server is not installed. Services follow the ledger in Postgres")
        return found is not None

    async def _make_token(self, database_url: str) -> None:
        """Makes the operators' first token, unless the database has one; it is printed this once."""
        connection = await asyncpg.connect(database_url, timeout=30)
        try:
            if await connection.fetchval("SELECT EXISTS (SELECT FROM control.tokens)"):
                return
            token = f"une_{secrets.token_urlsafe(32)}"
            write_private(self.token_file, token + "\n")
            await connection.execute(
                "INSERT INTO control.tokens (name, token_sha256, role) VALUES ($1, $2, 'admin')",
                "first",
                hashlib.sha256(token.encode()).digest(),
            )
        finally:
            await connection.close()
        self._say(f"Operators' token, shown this once and kept in {self.token_file}: {token}")

    def _prepare(self, service: Service, database_url: str) -> ServiceProcess:
        values = {
            "data": str(self.data),
            "database_url": database_url,
            "amqp_url": "" if self._rabbitmq is None else self._rabbitmq.url,
            "log_level": str(self._settings.log_level),
            "otlp_endpoint": self._settings.otlp_endpoint or "",
        }
        for other in SERVICES:
            values[f"{other.name}_port"] = str(self._ports[other.name])
            values[f"{other.name}_status_port"] = str(self._ports[f"{other.name}_status"])
            values[f"{other.name}_url"] = f"http://127.0.0.1:{self._ports[other.name]}"
            values[f"{other.name}_ready_file"] = str(self._run_file(f"{other.name}.json"))
        own = environ_for(service, values, self._extra.get(service.name, {}))
        return ServiceProcess(
            service.name,
            environ=plain_environment(os.environ) | own,
            log=self._log_file(service.name),
            ready_file=self._run_file(f"{service.name}.json"),
        )

    async def _keep(self, name: str, program: Program) -> None:
        delay = _FIRST_DELAY_SECONDS
        while not self._stopping.is_set():
            since = time.monotonic()
            code = await program.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - since > _STEADY_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            problem = f"{name} {describe_exit(code)}"
            while not program.running:
                self._say(f"{problem}; starting it again in {delay:g} s")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._stopping.wait()
                if self._stopping.is_set():
                    return
                delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
                try:
                    await program.start()
                except StartFailed as error:
                    problem = str(error)
            if self._stopping.is_set():  # it was started while everything else stopped
                await program.stop()
                return
            self._say(f"{name} runs again")
            self._write_ready_file()

    def _remove_ready_file(self) -> None:
        """Also one that a killed predecessor left; never that of another one, which holds the lock."""
        if self._lock is not None and self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)

    def _write_ready_file(self) -> None:
        if self._settings.ready_file is None:
            return
        with contextlib.suppress(StartFailed):  # another one is down; its own return writes the file
            content = msgspec.json.format(msgspec.json.encode(self.ready), indent=2).decode()
            self._settings.ready_file.parent.mkdir(parents=True, exist_ok=True)
            write_private(self._settings.ready_file, content + "\n")


async def _patiently(start: Callable[[], Awaitable[None]]) -> None:
    """Starts a server; while a predecessor whose supervisor was killed is on its way out, waits for it."""
    deadline = time.monotonic() + _PREDECESSOR_SECONDS
    while True:
        try:
            return await start()
        except AlreadyRunning:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def _all_or_first_error(starts: Sequence[Awaitable[None]]) -> None:
    """Runs all at once; the first error ends the others and is raised as it is, not in a group."""
    tasks = [asyncio.ensure_future(start) for start in starts]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
