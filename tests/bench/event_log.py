"""How much event_log costs: the mover per event, and the relay per message beside aio-pika's own publisher.

``python tests/bench/event_log.py [events]`` starts its own Postgres (durable) and RabbitMQ and prints one JSON line.
CPU of this process is Python's own; CPU of Postgres and the broker is read from /proc, where their cores are shared
with everything else that runs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[2]))

import aio_pika
import orjson

from services.event_log.mover import Mover
from services.standalone.postgres import PostgresServer
from services.standalone.processes import free_ports
from services.standalone.rabbitmq import RabbitNode
from shared.bus import Topology
from shared.bus.rabbitmq import open_connection, relay_publisher
from shared.db import connect, create_pool, migrate
from shared.events import CONTENT_TYPE, NewEvent
from shared.events.types import ReportSource, UpdateEvent
from shared.ids import SystemIds
from shared.ledger import LedgerEntry, append, read, verify_chain

IDS = SystemIds()


def event(number: int) -> NewEvent:
    node = f"{number % 5000:08d}-0000-5000-8000-000000000000"
    attempt = f"{number:08d}-0000-7000-8000-000000000000"
    data = UpdateEvent(
        node_id=node,
        machine_id=f"{number % 5000:032x}",
        application_id="e96281a6-d1af-4bde-9a0a-97b76e56dc57",
        attempt_id=attempt,
        changeset_id="01938f00-1a2b-7000-8000-000000000010",
        applied=True,
        version="3033.2.0",
        to_version="3033.2.1",
        boot_id="2b1d7f9e-0c3a-4c57-8f62-a1b2c3d4e5f6",
        state_before="offered",
        state_after="downloading",
        source=ReportSource.OMAHA,
    )
    return NewEvent(
        type="update.download_started.v1",
        subject=f"nodes/{node}",
        partition_key=node,
        data=data,
        event_id=IDS.uuid7(),
        time=datetime.now(UTC),
        source="/uneventful/update_check",
        correlation_id=attempt,
    )


def group_seconds(pid: int) -> float:
    """CPU seconds of a process and all below it, ended ones included."""
    children: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        number = int(stat.parent.name)
        children.setdefault(int(fields[1]), []).append(number)
        seconds[number] = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    total, waiting = 0.0, [pid]
    while waiting:
        number = waiting.pop()
        total += seconds.get(number, 0.0)
        waiting += children.get(number, [])
    return total


class Cost:
    """Measures a stretch: wall, our CPU, a server's CPU, per item."""

    def __init__(self, count: int, pid: int) -> None:
        self.count, self.pid, self.result = count, pid, dict[str, float]()

    def __enter__(self) -> Self:
        self.began = (time.perf_counter(), time.process_time(), group_seconds(self.pid))
        return self

    def __exit__(self, *_: object) -> None:
        ended = (time.perf_counter(), time.process_time(), group_seconds(self.pid))
        wall, ours, theirs = (after - before for after, before in zip(ended, self.began, strict=True))
        self.result = {
            "per_second": round(self.count / wall),
            "python_us": round(ours / self.count * 1e6, 1),
            "server_us": round(theirs / self.count * 1e6, 1),
        }


async def measure_mover(server: PostgresServer, count: int) -> tuple[dict[str, Any], list[LedgerEntry]]:
    await server.create_database("bench")
    url = server.url("bench")
    await migrate(url)
    pool = await create_pool(url, application_name="bench")
    for start in range(0, count, 1000):
        async with pool.acquire() as connection, connection.transaction():
            await append(connection, [event(number) for number in range(start, start + 1000)])
    results: dict[str, Any] = {}
    mover = Mover(await connect(url, application_name="mover"), batch_size=2000, idle_s=0.025, partitions_ahead=2)
    with Cost(count, server.pid) as cost:
        while await mover.step():
            pass
    results["move"] = cost.result
    entries: list[LedgerEntry] = []
    with Cost(count, server.pid) as cost:
        while len(entries) < count:
            entries += await read(pool, after=len(entries), limit=1000)
    results["read"] = cost.result
    async with pool.acquire() as connection:
        with Cost(count, server.pid) as cost:
            assert (await verify_chain(connection)).ok
    results["verify"] = cost.result
    await pool.close()
    return results, entries


async def measure_relay(node: RabbitNode, entries: list[LedgerEntry], queues: int) -> dict[str, Any]:
    topology = Topology(f"bench{queues}")
    results: dict[str, Any] = {}
    connection = await open_connection(node.url, "bench")
    channel = await connection.channel()
    names = [await topology.declare_work(channel, f"q{number}", ["#"], 5) for number in range(queues)]
    async with relay_publisher(node.url, topology) as publisher:
        with Cost(len(entries), node.pid) as cost:
            for start in range(0, len(entries), 1000):
                await publisher.publish(entries[start : start + 1000])
    results["pipelined"] = cost.result
    exchange = await topology.declare_events(channel)
    few = entries[: min(len(entries), 5000)]
    with Cost(len(few), node.pid) as cost:
        for start in range(0, len(few), 1000):
            await asyncio.gather(
                *(
                    exchange.publish(
                        aio_pika.Message(
                            entry.raw,
                            content_type=CONTENT_TYPE,
                            delivery_mode=2,
                            message_id=str(entry.event_id),
                            type=entry.type,
                            headers={
                                "cloudEvents_id": str(entry.event_id),
                                "cloudEvents_type": entry.type,
                                "cloudEvents_subject": entry.subject,
                                "cloudEvents_partitionkey": entry.partition_key,
                            },
                        ),
                        entry.type,
                        mandatory=False,
                    )
                    for entry in few[start : start + 1000]
                )
            )
    results["aio_pika_gather"] = cost.result
    for queue in names:
        await queue.delete(if_unused=False, if_empty=False)
    await connection.close()
    return results


async def main(count: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="uneventful-bench-"))
    directory.chmod(0o711)  # noqa: ASYNC240 - before anything runs
    postgres, amqp, dist, epmd = free_ports(4)
    server = PostgresServer(directory / "postgres", port=postgres)
    node = RabbitNode(directory / "rabbitmq", amqp_port=amqp, dist_port=dist, epmd_port=epmd)
    try:
        await server.start()
        results, entries = await measure_mover(server, count)
        await node.start()
        results["event_bytes"] = round(sum(len(entry.raw) for entry in entries) / len(entries))
        for queues in (0, 1):
            results[f"relay_{queues}_queues"] = await measure_relay(node, entries, queues)
        results["load"] = os.getloadavg()[0]
        sys.stdout.write(orjson.dumps(results, option=orjson.OPT_INDENT_2).decode() + "\n")
    finally:
        await node.stop()
        await server.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40_000))
