"""event_log as processes: one leads, a kill hands over, and what the broker confirmed is what the ledger holds."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from datetime import UTC, datetime

import orjson
import pytest

from services.event_log.relay import FOLLOWER
from shared.bus import RabbitBus
from shared.events import NewEvent
from shared.ids import SystemIds
from shared.ledger import append, checkpoint, head, read, verify_chain

IDS = SystemIds()
pytestmark = pytest.mark.processes


def event(number: int) -> NewEvent:
    return NewEvent(
        type="policy.changed.v1",
        subject="policy",
        partition_key="policy",
        data={"policy_version": number, "subject": "s", "what": "x", "by": "ana"},
        event_id=IDS.uuid7(),
        time=datetime.now(UTC),
        source="/uneventful/test",
    )


class Processes:
    def __init__(self, environ, directory) -> None:
        self.environ = environ
        self.directory = directory
        self.all: list[asyncio.subprocess.Process] = []

    async def start(self, *arguments: str, **settings: str):
        ready = self.directory / f"ready-{len(self.all)}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.event_log",
            *arguments,
            env={**self.environ, "UNEVENTFUL_READY_FILE": str(ready), **settings},
            stdout=asyncio.subprocess.PIPE if arguments else asyncio.subprocess.DEVNULL,
        )
        self.all.append(process)
        if not arguments:
            await until(lambda: ready.exists() or process.returncode is not None)
            assert process.returncode is None
        return process


@pytest.fixture
async def processes(database_url, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNEVENTFUL_")}
    processes = Processes({**kept, "UNEVENTFUL_DATABASE_URL": database_url, "UNEVENTFUL_TICK_SECONDS": "0.5"}, tmp_path)
    yield processes
    for process in processes.all:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(condition, seconds: float = 45.0):
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if await result if asyncio.iscoroutine(result) else result:
            return
        assert time.monotonic() < deadline, "it did not come to pass in time"
        await asyncio.sleep(0.02)


async def leader_pid(pool) -> int | None:
    """Postgres's process for the connection that holds the mover's lock."""
    return await pool.fetchval(
        "SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' "
        "AND l.granted AND a.application_name = 'event_log mover' AND a.datname = current_database()"
    )


async def test_a_killed_leader_is_replaced_and_nothing_is_lost(pool, processes):
    """Two movers run, one writes; after kill -9 the other one goes on; the chain is whole and every event is in it."""
    first = await processes.start()
    await until(lambda: leader_pid(pool))
    leader = await leader_pid(pool)
    await processes.start()
    written: list[str] = []
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            events = [event(number) for number in range(20)]
            async with pool.acquire() as connection, connection.transaction():
                await append(connection, events)
            written.extend(str(each.event_id) for each in events)
            await asyncio.sleep(0.005)

    async def reached(seq: int) -> bool:
        return (await head(pool))[0] >= seq

    writing = asyncio.create_task(write())
    await until(lambda: reached(300))
    assert await leader_pid(pool) == leader
    first.send_signal(signal.SIGKILL)
    await first.wait()
    killed_at = (await head(pool))[0]
    began = time.monotonic()
    await until(lambda: reached(killed_at + 300))
    assert time.monotonic() - began < 20
    stop.set()
    await writing

    async def empty() -> bool:
        return await pool.fetchval("SELECT NOT EXISTS (SELECT FROM event_log.inbox)")

    await until(empty)
    entries = await read(pool, after=0, limit=10_000, types=["policy.#"])
    assert [str(entry.event_id) for entry in entries] == written
    assert await read(pool, after=0, limit=10, types=["log.#"])
    async with pool.acquire() as connection:
        result = await verify_chain(connection)
    assert result.ok

    verifying = await processes.start("verify")
    out, _ = await verifying.communicate()
    line = orjson.loads(out)
    assert verifying.returncode == 0
    assert line["ok"]
    assert line["checked"] >= len(written)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role TO replica")
        await connection.execute("UPDATE event_log.ledger SET event = event || ' '::bytea WHERE seq = 5")
    verifying = await processes.start("verify")
    out, _ = await verifying.communicate()
    assert verifying.returncode == 1
    assert orjson.loads(out)["broken_at"] == 5
    assert (await (await processes.start("verify", "x")).wait()) == 2


async def test_the_relay_publishes_the_ledger_in_order(pool, processes, amqp_url):
    """Every event reaches a work queue through mover and relay, in order, and the checkpoint follows the confirms."""
    bus = RabbitBus(amqp_url)
    got: list[str] = []

    async def handler(delivery) -> None:
        got.append(delivery.event_id)

    jobs = bus.consume("relay_test", ["policy.#"], handler, prefetch=500)
    await asyncio.wait_for(jobs.active(), 30)
    process = await processes.start(UNEVENTFUL_AMQP_URL=amqp_url)
    events = [event(number) for number in range(500)]
    await append(pool, events)
    await until(lambda: len(got) >= 500)
    assert got == [str(each.event_id) for each in events]

    async def confirmed() -> bool:
        return await checkpoint(pool, FOLLOWER) >= 500

    await until(confirmed)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 15) == 0
    _, channel = await bus.open_channel()
    await jobs.close()
    await channel.queue_delete("uneventful.work.relay_test")
    await bus.close()
