"""`uneventful up`: one command, everything runs; kill any of it and it comes back; stop it and nothing is left."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240, S310  # a test holds nobody up; the URLs are our own
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from services.standalone.processes import plain_environment
from services.standalone.settings import SERVICES

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]


class Up:
    """One running `uneventful up`."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.data = directory / "data"
        self.ready_file = directory / "ready.json"
        self.output = directory / "output"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "services.standalone"),
                    *("--data", self.data, "--base-port", "0", "--ready-file", self.ready_file),
                    *options,
                ],
                stdout=output,
                stderr=output,
                env=plain_environment(os.environ),
            )

    def said(self) -> str:
        return self.output.read_text()

    async def ready(self, *, seconds: float = 120) -> dict[str, Any]:
        await until(lambda: self.ready_file.exists() or self.process.poll() is not None, seconds=seconds)
        assert self.ready_file.exists(), self.said()
        return json.loads(self.ready_file.read_text())

    def family(self) -> list[psutil.Process]:
        owner = psutil.Process(self.process.pid)
        return [owner, *owner.children(recursive=True)]

    async def stop(self) -> float:
        """SIGTERM; returns the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        await until(lambda: self.process.poll() is not None, seconds=30)
        return time.monotonic() - began


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Any]:
    """Starts `up` below pytest's own directory, which is closed to the users that servers run under."""
    started: list[Up] = []

    def start(*options: str) -> Up:
        started.append(Up(tmp_path, *options))
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()


async def until(condition, *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        await asyncio.sleep(0.05)


def is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(family: list[psutil.Process]) -> bool:
    return not any(is_there(process) for process in family)


def get(url: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.status, answer.read()


def is_ready(status_url: str) -> bool:
    try:
        return get(f"{status_url}/readyz")[0] == 200
    except OSError:
        return False


def events_in_ledger(url: str) -> Any:
    async def ask() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval("SELECT count(*) FROM event_log.ledger")
        finally:
            await connection.close()

    return ask()


async def test_everything_runs_restarts_and_stops(starter) -> None:
    """All services serve; each killed process comes back; a second `up` is refused; SIGTERM ends all within 10 s."""
    up = starter("--bus", "none")
    ready = await up.ready()
    assert set(ready["services"]) == {service.name for service in SERVICES}
    assert ready["bus"] == "none"
    assert ready["pid"] == up.process.pid
    for service in ready["services"].values():
        await until(lambda service=service: is_ready(service["status_url"]))

    token_file = Path(ready["token_file"])
    token = token_file.read_text().strip()
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert up.said().count(token) == 1
    database_url = Path(ready["postgres"]["url_file"]).read_text().strip()
    assert database_url not in up.said()
    for process in up.family():  # secrets are in no command line, which everybody on the machine can read
        with contextlib.suppress(psutil.NoSuchProcess):  # workers of Postgres come and go
            assert database_url not in " ".join(process.cmdline())
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    assert connection.laddr.ip in {"127.0.0.1", "::1"}

    second = subprocess.run(
        [
            *(sys.executable, "-m", "services.standalone"),
            *("--data", up.data, "--base-port", "0", "--bus", "none", "--ready-file", up.ready_file),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=plain_environment(os.environ),
    )
    assert second.returncode == 1
    assert f"pid {up.process.pid}" in second.stderr
    assert "--data" in second.stderr
    assert up.ready_file.exists()

    for pid in (ready["services"]["telemetry"]["pid"], ready["postgres"]["pid"]):
        os.kill(pid, signal.SIGKILL)
    await until(lambda: "telemetry runs again" in up.said() and "PostgreSQL runs again" in up.said(), seconds=60)
    await until(lambda: json.loads(up.ready_file.read_text())["postgres"]["pid"] != ready["postgres"]["pid"])
    again = json.loads(up.ready_file.read_text())
    assert again["services"]["telemetry"]["url"] == ready["services"]["telemetry"]["url"]
    for service in again["services"].values():
        await until(lambda service=service: is_ready(service["status_url"]), seconds=60)

    before = await events_in_ledger(database_url)
    family = up.family()
    assert await up.stop() < 10
    assert up.process.returncode == 0
    assert gone(family)
    assert not up.ready_file.exists()

    up = starter("--bus", "none")
    ready = await up.ready()
    assert token_file.read_text().strip() == token
    assert up.said().count(token) == 1  # shown at the first start only
    assert await events_in_ledger(Path(ready["postgres"]["url_file"]).read_text().strip()) >= before
    await up.stop()


async def test_with_a_broker_and_killed_with_sigkill(starter) -> None:
    """The private node serves and comes back; kill -9 of `up` itself leaves no process, and the next start works."""
    up = starter("--bus", "rabbitmq")
    ready = await up.ready()
    assert ready["bus"] == "rabbitmq"
    os.kill(ready["rabbitmq"]["pid"], signal.SIGKILL)
    await until(lambda: "RabbitMQ runs again" in up.said(), seconds=90)
    for service in ready["services"].values():
        await until(lambda service=service: is_ready(service["status_url"]), seconds=60)

    family = up.family()
    up.process.kill()
    up.process.wait()
    up.ready_file.unlink()
    up = starter("--bus", "rabbitmq")  # at once: the old processes are still on their way out
    await until(lambda: gone(family))
    await up.ready()
    family = up.family()
    assert await up.stop() < 10
    assert gone(family)


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """Who chooses a base port learns which ports are in the way, and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        base = max(1, port - 2)
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "services.standalone"),
                *("--data", tmp_path / "data", "--base-port", str(base), "--bus", "none"),
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=plain_environment(os.environ),
        ) as process:
            _, said = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 1
    assert f"{port} (distribution)".encode() in said
    assert b"--base-port 0" in said


def test_wrong_options_are_refused_by_name(tmp_path: Path) -> None:
    """A misspelt variable or service does not pass silently."""
    for options, environ, expected in (
        (["--set", "telemetri.X=1"], {}, "telemetri"),
        ([], {"UNEVENTFUL_BASE_PROT": "1"}, "UNEVENTFUL_BASE_PORT"),
        (["--base-port", "70000"], {}, "UNEVENTFUL_BASE_PORT"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "services.standalone", "--data", tmp_path, *options],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=plain_environment(os.environ) | environ,
        )
        assert done.returncode == 2
        assert expected in done.stderr
