"""Child processes that cannot outlive us, free ports, and the account that servers run under."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pwd
import random
import signal
import socket
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.standalone.errors import StartFailed

_TAIL_LINES = 25
_TAIL_BYTES = 16_384
_PORTS = range(10_240, 49_152)
"""Where ports are chosen from: above those that well-known services use."""


@dataclass(frozen=True, slots=True)
class Account:
    """A system user for a server that should not, or must not, run as root."""

    name: str
    uid: int
    gid: int


def unprivileged_account(*names: str) -> Account | None:
    """The first of the named users that exists; ``None`` when we are not root and so cannot change user.

    Raises:
        StartFailed: None of the users exists.
    """
    if os.geteuid() != 0:
        return None
    for name in names:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise StartFailed(f"None of the users {', '.join(names)} exists; add one with `adduser --system {names[0]}`.")


def can_reach(path: Path, account: Account | None) -> bool:
    """Whether the account may pass through every directory above ``path`` (and enter it, if it is one)."""
    if account is None:
        return True
    resolved = path.resolve()
    directories = [*resolved.parents, resolved] if resolved.is_dir() else list(resolved.parents)
    for directory in directories:
        status = directory.stat()
        if status.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif status.st_gid == account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """That many different TCP ports which were free on 127.0.0.1 a moment ago.

    None of them is one that the system gives to outgoing connections: those come and go by the hundred while a service
    starts, and one of them would take a port away between its choice and its use.
    """
    first, last = _given_to_connections()
    lasting = [port for port in _PORTS if not first <= port <= last]
    candidates = lasting if len(lasting) >= count else list(_PORTS)
    random.SystemRandom().shuffle(candidates)
    ports = list(itertools.islice(filter(port_is_free, candidates), count))
    if len(ports) < count:
        raise StartFailed(
            f"fewer than {count} TCP ports are free on 127.0.0.1 from {_PORTS.start} to {_PORTS.stop - 1}"
        )
    return ports


def _given_to_connections() -> tuple[int, int]:
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 32_768, 65_535
    return int(first), int(last)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:``port`` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, for people; empty when there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def write_private(path: Path, text: str, account: Account | None = None) -> None:
    """Writes a file that only its owner (us, or the account) can read, atomically."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def describe_exit(code: int) -> str:
    """An exit status as people say it."""
    if code > 128:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(code - 128).name}"
    return f"ended with status {code}"


class LeashedProcess:
    """A running program that ends when we do, however we end (see ``services.standalone.leash``).

    Attributes:
        pid: The program's own process id (not the leash's).
    """

    def __init__(self, name: str, leash: asyncio.subprocess.Process, pid: int) -> None:
        self.name = name
        self.pid = pid
        self._leash = leash

    @classmethod
    async def start(
        cls,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str],
        account: Account | None = None,
        cwd: Path | None = None,
        directory: Path | None = None,
        stop_signal: str = "TERM",
        grace_seconds: float = 8.0,
    ) -> Self:
        """Starts ``argv`` with its output appended to ``log``.

        Args:
            name: What people call the program; used in messages.
            argv: The program and its arguments; ``leash.DIRECTORY_MARK`` in them stands for ``directory``.
            log: File to which standard output and standard error go.
            environ: The program's whole environment.
            account: User to run it as; only root can ask for one.
            cwd: Directory to run it in; default ours.
            directory: Opened before the change of user, so that the program can use a directory whose parents it may
                not pass through.
            stop_signal: Signal that asks the program to end, without ``SIG``.
            grace_seconds: How long it may take before it gets SIGKILL.

        Raises:
            StartFailed: The program cannot be executed.
        """
        options = ["--stop-signal", stop_signal, "--grace", str(grace_seconds), "--log", str(log)]
        if account is not None:
            options += ["--uid", str(account.uid), "--gid", str(account.gid)]
        if cwd is not None:
            options += ["--cwd", str(cwd)]
        if directory is not None:
            options += ["--directory", str(directory)]
        leash = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.standalone.leash",
            *options,
            "--",
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(environ),
            start_new_session=True,
        )
        if leash.stdin is None or leash.stdout is None:
            raise AssertionError
        try:
            said = (await leash.stdout.readline()).decode().strip()
        except BaseException:
            leash.stdin.close()
            await leash.wait()
            raise
        word, _, rest = said.partition(" ")
        if word != "pid":
            await leash.wait()
            raise StartFailed(f"{name} cannot be started: {rest or tail(log) or 'no reason given'}")
        return cls(name, leash, int(rest))

    @property
    def running(self) -> bool:
        """Whether the program or anything that it started is still there."""
        return self._leash.returncode is None

    async def wait(self) -> int:
        """Waits until the program and all it started have ended; 128 + signal when a signal ended it."""
        code = await self._leash.wait()
        # The transport is closed by now; what remains is to let its callbacks run, so that nothing is left open.
        await asyncio.sleep(0)
        return code

    def ask_to_stop(self) -> None:
        """Sends the stop signal and starts the grace time; returns at once."""
        if self._leash.stdin is not None and not self._leash.stdin.is_closing():
            self._leash.stdin.close()

    async def stop(self) -> int:
        """Asks the program to stop and waits until it, and all it started, has ended."""
        self.ask_to_stop()
        return await self.wait()

    def kill(self) -> None:
        """Sends SIGKILL to the program (not to what it started; that is ended right after)."""
        if self.running and self._leash.stdin is not None and not self._leash.stdin.is_closing():
            self._leash.stdin.write(b"K")


def plain_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without our settings: what a child may inherit before it gets its own."""
    return {name: value for name, value in environ.items() if not name.startswith("UNEVENTFUL_")}
