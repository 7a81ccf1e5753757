"""Runs one program and lets neither it nor anything it started outlive whoever holds the other end of stdin.

``python -m services.standalone.leash [options] -- program argument...``

A process that is killed with SIGKILL cannot clean up. The kernel closes its pipes, though, so the holder keeps the
write end of this process's stdin: when that closes, for whatever reason, the program gets its stop signal, then the
grace time, then SIGKILL. This process is a child subreaper (prctl(2)), so that daemons which the program left behind
are its children too, and it ends only when none is left. If this process is itself killed, PR_SET_PDEATHSIG takes the
program along; it is set after the change of user, which would clear it.

On stdin: end of file or ``S`` asks to stop, ``K`` kills at once. On stdout: ``pid <number>`` or ``error <why>``, once.
The exit status is the program's, or 128 + the signal that ended it. Only the standard library is imported, because
one of these starts for every program.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SECONDS_FOR_ORPHANS = 3.0

DIRECTORY_MARK = "@DIRECTORY@"
"""In the program's arguments: stands for the directory that ``--directory`` opened."""


def _death_signal_setter() -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def set_death_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)

    return set_death_signal


def _children() -> list[int]:
    """Our direct children, adopted ones included."""
    me = os.getpid()
    try:
        return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text(encoding="ascii").split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it ended while we looked
            if parent == me:
                found.append(int(stat.parent.name))
        return found


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap_adopted(program: int) -> None:
    """Takes the status of ended processes that the program left to us; the program's own is Popen's to take."""
    for child in _children():
        if child != program:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def _end_orphans() -> None:
    """Ends every process that the program left to us and waits until none is left."""
    hard_at = time.monotonic() + _SECONDS_FOR_ORPHANS
    asked: set[int] = set()
    while True:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                break
            asked.discard(pid)
        hard = time.monotonic() >= hard_at
        for child in _children():
            if hard:
                _signal(child, signal.SIGKILL)
            elif child not in asked:
                asked.add(child)
                _signal(child, signal.SIGTERM)
        time.sleep(0.01)


def _supervise(program: subprocess.Popen[bytes], wake: int, stop_signal: signal.Signals, grace_seconds: float) -> int:
    """Waits for the program's end; passes on what stdin and our own SIGTERM ask for. Returns Popen's return code."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(wake, select.POLLIN)
    deadline: float | None = None
    holder_present = True

    while True:
        code = program.poll()
        if code is not None:
            return code
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        stop = False
        for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000):
            data = os.read(descriptor, 64)
            if descriptor == 0:
                stop = stop or not data or b"S" in data
                if b"K" in data:
                    program.kill()
                if not data and holder_present:
                    holder_present = False
                    poll.unregister(0)
            else:
                stop = stop or signal.SIGTERM in data
                _reap_adopted(program.pid)
        if stop and deadline is None:
            program.send_signal(stop_signal)
            deadline = time.monotonic() + grace_seconds
        elif deadline is not None and time.monotonic() >= deadline:
            _kill_group(program)
            deadline = time.monotonic() + 1.0


def _kill_group(program: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(program.pid, signal.SIGKILL)
    except ProcessLookupError:
        program.kill()


def _say(text: str) -> None:
    try:
        os.write(1, text.encode() + b"\n")
    except OSError as error:
        if error.errno != errno.EPIPE:  # the holder is gone: stdin says so too, and that ends us
            raise


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="leash", allow_abbrev=False)
    parser.add_argument("--stop-signal", default="TERM")
    parser.add_argument("--grace", type=float, default=8.0, help="seconds between the stop signal and SIGKILL")
    parser.add_argument("--log", default=os.devnull, help="file to which the program's output is appended")
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--cwd")
    parser.add_argument("--directory", help=f"a directory to open for the program as {DIRECTORY_MARK}")
    parser.add_argument("program", nargs="+")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Runs the program to its end; returns the exit status described above."""
    options = _arguments(argv)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)

    def noted(_number: int, _frame: FrameType | None) -> None:
        """The wake-up pipe has the number already. Unlike SIG_IGN, a handler does not pass on to the program."""

    # A terminal sends SIGINT and SIGHUP to everybody at once; the holder decides the order in which programs stop.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, noted)

    program_argv: list[str] = options.program
    passed: list[int] = []
    if options.directory is not None:
        descriptor = os.open(options.directory, os.O_RDONLY | os.O_DIRECTORY)
        passed.append(descriptor)
        program_argv = [part.replace(DIRECTORY_MARK, f"/proc/self/fd/{descriptor}") for part in program_argv]

    log = os.open(options.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        program = subprocess.Popen(
            program_argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=options.cwd,
            user=options.uid,
            group=options.gid,
            extra_groups=None if options.uid is None else [],
            pass_fds=passed,
            start_new_session=True,
            preexec_fn=_death_signal_setter(),  # noqa: PLW1509  # no threads here
        )
    except OSError as error:
        _say(f"error {program_argv[0]}: {error.strerror or error}")
        return 127
    _say(f"pid {program.pid}")

    code = _supervise(program, wake_read, signal.Signals[f"SIG{options.stop_signal}"], options.grace)
    _end_orphans()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
