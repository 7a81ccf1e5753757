"""A RabbitMQ node of our own: loopback only, its own epmd, a random user, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import aio_pika
import aiormq.exceptions
import orjson

from services.standalone.errors import AlreadyRunning, ProgramMissing, StartFailed
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

_OLDEST_VERSION = (3, 10)
_READY_POLL_SECONDS = 0.1
_HOMES = ("/usr/lib/rabbitmq/lib", "/opt/rabbitmq", "/usr/local/lib/rabbitmq", "/opt/homebrew/opt/rabbitmq")

# epmd goes first and ends last: started by the node itself it would stay behind as a daemon. setpriv ties it to this
# shell's process, which becomes the node; and when the node ends, the leash ends what is left.
_START_SCRIPT = """\
if command -v setpriv >/dev/null 2>&1; then setpriv --pdeathsig KILL epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" &
else epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" & fi
exec "$1"
"""


@dataclass(frozen=True, slots=True)
class RabbitProgram:
    """Where RabbitMQ is.

    Attributes:
        home: The ``rabbitmq_server-*`` directory.
        version: Such as ``3.10.8``.
    """

    home: Path
    version: str


def _version_of(home: Path) -> str | None:
    """From the directory's name, else from the application file that every release has."""
    found = re.search(r"rabbitmq_server-(\d+(?:\.\d+)+)", home.resolve().name)
    if found is None:
        for application in home.glob("plugins/rabbit-*"):
            found = re.search(r"rabbit-(\d+(?:\.\d+)+)", application.name)
            if found is not None:
                break
    return None if found is None else found.group(1)


def find_rabbitmq(explicit: Path | None = None) -> RabbitProgram | None:
    """The installed RabbitMQ: the one told, else the newest in the usual places; ``None`` when there is none.

    Raises:
        ProgramMissing: One is installed that cannot be used: older than 3.10, which lacks at-least-once
            dead-lettering, or without Erlang.
    """
    homes = [explicit] if explicit is not None else [Path(home) for home in _HOMES]
    found = [
        RabbitProgram(server.parent.parent, version)
        for home in homes
        for server in [*home.glob("sbin/rabbitmq-server"), *home.glob("rabbitmq_server-*/sbin/rabbitmq-server")]
        if (version := _version_of(server.parent.parent)) is not None
    ]
    if not found:
        if explicit is not None:
            raise ProgramMissing(f"There is no sbin/rabbitmq-server in {explicit}.")
        return None
    newest = max(found, key=lambda program: _comparable(program.version))
    if _comparable(newest.version) < _OLDEST_VERSION:
        raise ProgramMissing(
            f"RabbitMQ {newest.version} in {newest.home} is too old: 3.10 or newer is needed, because quorum queues "
            f"there dead-letter at least once. Install a newer rabbitmq-server, or go on without one (--bus none)."
        )
    for program in ("erl", "epmd"):
        if shutil.which(program) is None:
            raise ProgramMissing(f"RabbitMQ is in {newest.home}, but {program} is not on PATH: install erlang-base.")
    return newest


def _comparable(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


class RabbitNode:
    """A private RabbitMQ node on 127.0.0.1 that ends when we do.

    ``data_dir`` holds the node's files and ``credentials.json`` (mode 0600: the random user; ``guest`` does not exist).
    As root it runs as the user ``rabbitmq``, else ``nobody``, where that user can reach ``data_dir``; else as root.

    Args:
        data_dir: Made if it is not there.
        amqp_port: For AMQP 0-9-1.
        dist_port: For Erlang's distribution, which command line tools use.
        epmd_port: For the node's own port mapper.
        home: A ``rabbitmq_server-*`` directory to use instead of what :func:`find_rabbitmq` finds.
        start_timeout_s: How long a start may take; about 5 s on an idle machine.
        stop_timeout_s: How long a stop may take before SIGKILL.
        log: Where the node's output goes, instead of ``data_dir``/``rabbitmq.log``.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        amqp_port: int,
        dist_port: int,
        epmd_port: int,
        home: Path | None = None,
        start_timeout_s: float = 120.0,
        stop_timeout_s: float = 7.0,
        log: Path | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.amqp_port = amqp_port
        self.dist_port = dist_port
        self.epmd_port = epmd_port
        self.log = self.data_dir / "rabbitmq.log" if log is None else log.absolute()
        self._home = home
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._process: LeashedProcess | None = None
        self._program: RabbitProgram | None = None
        self._user = ""
        self._password = ""

    @property
    def program(self) -> RabbitProgram:
        """What is run; known after the first start."""
        if self._program is None:
            raise StartFailed("RabbitMQ has not been started yet.")
        return self._program

    @property
    def pid(self) -> int:
        """Process id of the Erlang machine.

        Raises:
            StartFailed: It is not running.
        """
        if self._process is None or not self._process.running:
            raise StartFailed("RabbitMQ is not running.")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the node or its port mapper is there."""
        return self._process is not None and self._process.running

    @property
    def url(self) -> str:
        """``amqp://`` URL with user and password: a secret."""
        return f"amqp://{self._user}:{self._password}@127.0.0.1:{self.amqp_port}/"

    async def start(self) -> None:
        """Starts the node and returns once it speaks AMQP.

        Raises:
            ProgramMissing: No usable RabbitMQ is installed.
            StartFailed: It did not start; the message ends with the tail of its log.
        """
        if self.running:
            return
        program = find_rabbitmq(self._home)
        if program is None:
            raise ProgramMissing("RabbitMQ is not installed: install the Debian package rabbitmq-server.")
        self._program = program
        for port in (self.amqp_port, self.dist_port, self.epmd_port):
            if not port_is_free(port):
                raise AlreadyRunning(f"Port {port} on 127.0.0.1 is taken, so RabbitMQ cannot start there.")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        account = unprivileged_account("rabbitmq", "nobody")
        if not can_reach(self.data_dir, account):
            account = None
        node_dir = self._prepare(account)
        self._process = await LeashedProcess.start(
            "RabbitMQ",
            ["/bin/sh", "-c", _START_SCRIPT, "rabbitmq", str(program.home / "sbin" / "rabbitmq-server")],
            log=self.log,
            environ=self._environment(node_dir),
            account=account,
            cwd=node_dir if can_reach(node_dir, account) else Path("/"),
            grace_seconds=self._stop_timeout_s,
        )
        try:
            await self._wait_until_ready(self._process)
        except BaseException:
            await self._process.stop()
            raise

    async def stop(self) -> None:
        """Stops the node and waits until it and its port mapper have ended."""
        if self._process is not None:
            await self._process.stop()
            self._process = None

    def kill(self) -> None:
        """Sends SIGKILL to the node, for fault tests; ``wait`` returns once its port mapper has ended too."""
        if self._process is not None:
            self._process.kill()

    def ask_to_stop(self) -> None:
        """Starts the shutdown and returns at once."""
        if self._process is not None:
            self._process.ask_to_stop()

    async def wait(self) -> int:
        """Waits until the node and its port mapper have ended; returns the exit status."""
        return 0 if self._process is None else await self._process.wait()

    def _prepare(self, account: Account | None) -> Path:
        """Writes the node's configuration; returns its directory, which the account owns."""
        credentials = self.data_dir / "credentials.json"
        if not credentials.exists():
            made = {"user": f"uneventful-{secrets.token_hex(4)}", "password": secrets.token_urlsafe(24)}
            write_private(credentials, orjson.dumps(made).decode())
        known = orjson.loads(credentials.read_bytes())
        self._user, self._password = known["user"], known["password"]

        node_dir = self.data_dir / "node"
        for directory in (node_dir, node_dir / "mnesia", node_dir / "log", node_dir / "config"):
            directory.mkdir(mode=0o700, exist_ok=True)
        (node_dir / "enabled_plugins").write_text("[].\n", encoding="ascii")
        write_private(
            node_dir / "rabbitmq.conf",
            "\n".join(
                (
                    f"listeners.tcp.default = 127.0.0.1:{self.amqp_port}",
                    "num_acceptors.tcp = 4",
                    # With a default user of our own, guest is never made.
                    f"default_user = {self._user}",
                    f"default_pass = {self._password}",
                    "vm_memory_high_watermark.absolute = 512MB",
                    "disk_free_limit.absolute = 50MB",
                    "log.console = true",
                    "log.console.level = info",
                    "log.file = false",
                    "",
                )
            ),
        )
        if account is not None:  # also after a run as another user
            for path in (node_dir, *node_dir.rglob("*")):
                os.chown(path, account.uid, account.gid, follow_symlinks=False)
        return node_dir

    def _environment(self, node_dir: Path) -> dict[str, str]:
        inherited = plain_environment(os.environ)
        ours = {name: value for name, value in inherited.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return ours | {
            "HOME": str(node_dir),
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "uneventful@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.amqp_port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_MNESIA_BASE": str(node_dir / "mnesia"),
            "RABBITMQ_LOG_BASE": str(node_dir / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(node_dir / "pid"),
            "RABBITMQ_CONFIG_FILE": str(node_dir / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(node_dir / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(node_dir / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(node_dir / "enabled_plugins"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(node_dir / "plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(node_dir / "feature_flags"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(node_dir / "config"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
            # The start script then becomes the Erlang machine, which handles SIGTERM, instead of staying its parent.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    async def _wait_until_ready(self, process: LeashedProcess) -> None:
        ended = asyncio.ensure_future(process.wait())
        deadline = time.monotonic() + self._start_timeout_s
        try:
            while True:
                if ended.done():
                    raise StartFailed(
                        f"RabbitMQ {describe_exit(ended.result())} while starting. "
                        f"The end of {self.log}:\n{tail(self.log)}"
                    )
                try:
                    # A plain connection first: aio-pika logs each refused one as an error.
                    _, writer = await asyncio.open_connection("127.0.0.1", self.amqp_port)
                    writer.close()
                    await writer.wait_closed()
                    connection = await aio_pika.connect(self.url, timeout=10)
                except (OSError, TimeoutError, aiormq.exceptions.AMQPError) as error:
                    if time.monotonic() > deadline:
                        raise StartFailed(
                            f"RabbitMQ did not answer within {self._start_timeout_s:g} s ({error}). "
                            f"The end of {self.log}:\n{tail(self.log)}"
                        ) from error
                    await asyncio.wait([ended], timeout=_READY_POLL_SECONDS)
                else:
                    await connection.close()
                    return
        finally:
            ended.cancel()
