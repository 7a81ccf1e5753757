"""The servers that standalone starts: they serve, keep their data, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import aiormq.exceptions
import asyncpg
import psutil
import pytest

from services.standalone import postgres
from services.standalone.errors import AlreadyRunning, ProgramMissing, StartFailed
from services.standalone.postgres import PostgresServer, find_postgres
from services.standalone.processes import LeashedProcess, can_reach, free_ports, unprivileged_account
from services.standalone.rabbitmq import RabbitNode, find_rabbitmq

pytestmark = pytest.mark.processes


@pytest.fixture
def state() -> Iterator[Path]:
    """A directory that other users may pass through."""
    directory = Path(tempfile.mkdtemp(prefix="uneventful-test-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def processes_of(*needles: str) -> list[str]:
    """Command lines of live processes that name one of the needles."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(needle in line for needle in needles):
            found.append(f"{process.info['pid']} {line}")
    return found


def descendants(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


async def until(condition, *, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        await asyncio.sleep(0.02)


def is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(is_there(process) for process in processes)


def listening_addresses(pid: int) -> set[str]:
    found = set()
    for process in descendants(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # workers of Postgres come and go
            connections = process.net_connections(kind="inet")
            found |= {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    return found


async def test_postgres_serves_and_keeps_its_data_over_a_restart(state: Path) -> None:
    """What was committed is there after stop and start, under the same password."""
    server = PostgresServer(state / "pg", port=free_ports(1)[0])
    await server.start()
    first_url = server.url("fleet")
    assert await server.create_database("fleet") is True
    assert await server.create_database("fleet") is False
    connection = await asyncpg.connect(first_url)
    await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert await connection.fetchval("SHOW fsync") == "on"
    await connection.close()
    family = descendants(server.pid)
    await server.stop()
    assert all_gone(family)

    await server.start()
    try:
        assert server.url("fleet") == first_url
        connection = await asyncpg.connect(first_url)
        assert await connection.fetchval("SELECT answer FROM kept") == 42
        await connection.close()
    finally:
        await server.stop()
    assert not processes_of(str(state))


async def test_postgres_listens_on_loopback_only_and_asks_for_the_password(state: Path) -> None:
    """No trust: a wrong password is refused, and the file that holds the right one is private."""
    server = PostgresServer(state / "pg", port=free_ports(1)[0], durable=False)
    await server.start()
    try:
        assert listening_addresses(server.pid) == {"127.0.0.1"}
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(f"postgresql://uneventful:wrong@127.0.0.1:{server.port}/postgres")
        assert stat.S_IMODE((state / "pg" / "password").stat().st_mode) == 0o600
        assert (state / "pg" / "password").read_text().strip() not in " ".join(processes_of(str(state)))
    finally:
        await server.stop()


async def test_postgres_starts_again_after_kill_9(state: Path) -> None:
    """The postmaster is killed; its children end, the stale pid file is no obstacle, commits are there."""
    server = PostgresServer(state / "pg", port=free_ports(1)[0])
    await server.start()
    connection = await asyncpg.connect(server.url("postgres"))
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    family = descendants(server.pid)
    server.kill()
    assert await server.wait() == 128 + signal.SIGKILL
    assert all_gone(family)
    connection.terminate()
    # The number in the pid file may by now be another process, even one of the server's own user: here, it is us.
    pid_file = state / "pg" / "pgdata" / "postmaster.pid"
    pid_file.write_text("\n".join([str(os.getpid()), *pid_file.read_text().splitlines()[1:]]) + "\n")

    await server.start()
    try:
        connection = await asyncpg.connect(server.url("postgres"))
        assert await connection.fetchval("SELECT one FROM kept") == 1
        await connection.close()
    finally:
        await server.stop()


async def test_two_servers_on_one_cluster_are_refused(state: Path) -> None:
    """A live postmaster's pid file is left alone."""
    server = PostgresServer(state / "pg", port=free_ports(1)[0], durable=False)
    await server.start()
    try:
        with pytest.raises(AlreadyRunning, match=str(server.pid)):
            await PostgresServer(state / "pg", port=free_ports(1)[0], durable=False).start()
    finally:
        await server.stop()


async def test_a_failed_start_shows_the_end_of_the_log(state: Path) -> None:
    """The message has Postgres's own words, and nothing keeps running."""
    server = PostgresServer(state / "pg", port=free_ports(1)[0], durable=False)
    await server.start()
    await server.stop()
    configuration = state / "pg" / "pgdata" / "postgresql.conf"
    configuration.write_text(configuration.read_text() + "\nno_such_setting = 1\n")
    with pytest.raises(StartFailed, match="no_such_setting"):
        await server.start()
    assert not processes_of(str(state))


async def test_a_taken_port_is_named(state: Path) -> None:
    """Who starts on a taken port learns which."""
    server = PostgresServer(state / "one", port=free_ports(1)[0], durable=False)
    await server.start()
    try:
        with pytest.raises(StartFailed, match=f"Port {server.port} "):
            await PostgresServer(state / "two", port=server.port, durable=False).start()
    finally:
        await server.stop()


@pytest.mark.parametrize("closed_programs", [False, True])
async def test_postgres_runs_where_its_user_may_not_pass(
    state: Path, monkeypatch: pytest.MonkeyPatch, closed_programs: bool
) -> None:
    """Data below a 0700 directory work, and so do programs below one; no directory's permissions are widened."""
    closed = state / "closed"
    closed.mkdir(mode=0o700)
    binaries = None
    if closed_programs:
        package = find_postgres().directory.parents[1]
        for directory in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(directory, closed / directory.name, symlinks=True)
        binaries = closed / package.name / "pginstall" / "bin"
        monkeypatch.setattr(postgres, "_SHARED_PROGRAMS", state / "programs")
    server = PostgresServer(closed / "pg", port=free_ports(1)[0], durable=False, binaries=binaries)
    await server.start()
    try:
        connection = await asyncpg.connect(server.url("postgres"))
        assert await connection.fetchval("SELECT 1") == 1
        await connection.execute("CHECKPOINT")
        await connection.close()
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        if os.geteuid() == 0:
            assert psutil.Process(server.pid).uids().real != 0
    finally:
        await server.stop()
    await server.start()  # an existing cluster goes the same way
    await server.stop()


def test_missing_programs_are_named(state: Path) -> None:
    """The message says what to install."""
    with pytest.raises(ProgramMissing, match="Debian package postgresql"):
        find_postgres(state)
    with pytest.raises(ProgramMissing, match="postgresql-9"):
        find_postgres(major=9)
    with pytest.raises(ProgramMissing, match="sbin/rabbitmq-server"):
        find_rabbitmq(state)


def test_an_old_broker_is_refused_loudly(state: Path) -> None:
    """Below 3.10 dead-lettering may lose messages."""
    program = state / "rabbitmq_server-3.9.27" / "sbin" / "rabbitmq-server"
    program.parent.mkdir(parents=True)
    program.touch()
    with pytest.raises(ProgramMissing, match=r"3\.9\.27 .* too old"):
        find_rabbitmq(state)


def test_reach_is_judged_by_the_directories_above(state: Path) -> None:
    """A directory without x for the account closes everything below it."""
    account = unprivileged_account("nobody")
    (state / "shut" / "inner").mkdir(parents=True)
    (state / "shut").chmod(0o700)
    assert can_reach(state, account)
    assert can_reach(state / "shut" / "inner", account) is (account is None)
    if account is not None:
        with pytest.raises(StartFailed, match="no-such-user"):
            unprivileged_account("no-such-user")


async def test_a_program_that_cannot_be_executed_is_an_error(state: Path) -> None:
    """The reason is the operating system's."""
    with pytest.raises(StartFailed, match="No such file"):
        await LeashedProcess.start("ghost", [str(state / "ghost")], log=state / "log", environ=os.environ)


async def test_a_program_that_will_not_stop_is_killed_after_the_grace_time(state: Path) -> None:
    """SIGTERM ignored, by the program and by what it left in the background: both end."""
    script = "trap '' TERM; (trap '' TERM; exec sleep 98) & echo started; while :; do sleep 0.1; done"
    stubborn = await LeashedProcess.start(
        "stubborn", ["/bin/sh", "-c", script], log=state / "log", environ=os.environ, grace_seconds=0.3
    )
    await until(lambda: "started" in (state / "log").read_text())
    family = descendants(stubborn.pid)
    assert len(family) >= 2
    assert await stubborn.stop() == 128 + signal.SIGKILL
    assert all_gone(family)


async def test_orphans_that_end_leave_no_zombies(state: Path) -> None:
    """What the program started and forgot is reaped while it still runs."""
    script = "(sh -c 'echo $$ > orphan' &); exec sleep 96"
    program = await LeashedProcess.start(
        "parent", ["/bin/sh", "-c", script], log=state / "log", environ=os.environ, cwd=state
    )
    await until(lambda: (state / "orphan").exists() and (state / "orphan").read_text().strip() != "")
    orphan = int((state / "orphan").read_text())
    await until(lambda: not psutil.pid_exists(orphan))
    assert program.running
    await program.stop()


async def test_a_daemon_ends_with_the_program_that_started_it(state: Path) -> None:
    """Double fork and a session of its own do not help it away from the leash."""
    script = "setsid sh -c 'sleep 97 & sleep 97' & sleep 0.2; exit 3"
    program = await LeashedProcess.start("parent", ["/bin/sh", "-c", script], log=state / "log", environ=os.environ)
    await until(lambda: any(p.cmdline() == ["sleep", "97"] for p in descendants(program.pid)))
    family = descendants(program.pid)
    assert await program.wait() == 3
    assert all_gone(family)


async def first_message(url: str, queue_name: str) -> bytes:
    """Consumes one message; a quorum queue elects its leader first, which takes a moment after a start."""
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        await message.ack()
        if not arrived.done():
            arrived.set_result(message.body)

    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(queue_name)
        await queue.consume(take)
        return await asyncio.wait_for(arrived, 30)


async def test_rabbitmq_serves_keeps_messages_and_leaves_nothing(state: Path) -> None:
    """A confirmed persistent message in a quorum queue is there after kill -9; guest is refused; loopback only."""
    amqp, dist, epmd = free_ports(3)
    node = RabbitNode(state / "mq", amqp_port=amqp, dist_port=dist, epmd_port=epmd)
    await node.start()
    family = descendants(node.pid)
    assert any("epmd" in process.name() for process in family)
    assert listening_addresses(node.pid) <= {"127.0.0.1", "::1"}
    assert stat.S_IMODE((state / "mq" / "credentials.json").stat().st_mode) == 0o600
    with pytest.raises(aiormq.exceptions.AMQPError):
        await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{amqp}/")
    async with await aio_pika.connect(node.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(b"news", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, routing_key="kept")
    # RabbitMQ saves its registry of quorum queues about once a second; a queue declared just before kill -9 is lost.
    registry = next((state / "mq" / "node" / "mnesia").glob("*/quorum/*/names.dets"))
    await until(lambda: b"kept" in registry.read_bytes())
    node.kill()
    assert await node.wait() == 128 + signal.SIGKILL
    await until(lambda: all_gone(family))

    await node.start()
    family = descendants(node.pid)
    assert await first_message(node.url, "kept") == b"news"
    await node.stop()
    assert all_gone(family)
    assert not processes_of(str(state), f"-port {epmd}")


async def test_killing_the_owner_with_sigkill_leaves_no_process(state: Path) -> None:
    """The owner gets no chance to clean up; everything it started ends all the same."""
    ports = free_ports(4)
    ready = state / "ready"
    script = f"""
import asyncio
from pathlib import Path
from services.standalone.postgres import PostgresServer
from services.standalone.rabbitmq import RabbitNode

async def main():
    state = Path({str(state)!r})
    server = PostgresServer(state / "pg", port={ports[0]}, durable=False)
    node = RabbitNode(state / "mq", amqp_port={ports[1]}, dist_port={ports[2]}, epmd_port={ports[3]})
    await asyncio.gather(server.start(), node.start())
    (state / "ready.new").write_text(f"{{server.pid}} {{node.pid}}")
    (state / "ready.new").rename(state / "ready")
    await asyncio.sleep(600)

asyncio.run(main())
"""
    owner = subprocess.Popen([sys.executable, "-c", script])  # noqa: ASYNC220  # a test has nobody to hold up
    try:
        await until(lambda: ready.exists() or owner.poll() is not None, seconds=90)
        family = descendants(owner.pid)
        assert {int(pid) for pid in ready.read_text().split()} <= {process.pid for process in family}
    finally:
        owner.kill()
        owner.wait()
    await until(lambda: all_gone(family))
    assert not processes_of(str(state), f"-port {ports[3]}")
