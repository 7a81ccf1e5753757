"""The load generator: a process of its own that reads a plan (JSON) from stdin and writes what it saw to stdout.

Each connection has one request under way. Without a rate the next one follows the answer (closed loop); with a rate
requests are due at even distances and latency counts from when they were due (open loop).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator

import machine
import sources
import uvloop


class Measuring:
    """What all connections share."""

    def __init__(self, plan: dict) -> None:
        self.plan = plan
        self.needle: bytes = plan.get("expect", "").encode()
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.without_needle = 0
        self.sent = 0
        self.under_way = 0
        self.counting = False
        self.stopped = False
        self.idle: deque[Connection] = deque()
        self.paced = plan.get("rate") is not None
        self.exhausted = asyncio.Event()
        self.lost = 0
        self.usual_length = -1
        self.usual_end = b""


class Connection(asyncio.Protocol):
    def __init__(self, measuring: Measuring, requests: Iterator[bytes]) -> None:
        self.m = measuring
        self.requests = requests
        self.partial = b""
        self.began = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, _error: Exception | None) -> None:
        self.m.lost += not self.m.stopped

    def send(self, due: float | None = None) -> None:
        request = next(self.requests, None)
        if request is None:
            self.m.exhausted.set()
            return
        self.m.sent += 1
        self.m.under_way += 1
        self.began = time.perf_counter() if due is None else due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        m = self.m
        # As long as the last whole answer, and with its end: whole itself. Nearly all are.
        if self.partial or len(data) != m.usual_length or not data.endswith(m.usual_end):
            if self.partial:
                data = self.partial + data
            head = data.find(b"\r\n\r\n")
            if head >= 0:
                at = data.find(b"Content-Length: ", 0, head + 2)
                length = int(data[at + 16 : data.find(b"\r", at)]) if at >= 0 else 0
            if head < 0 or len(data) < head + 4 + length:
                self.partial = data
                return
            self.partial = b""
            m.usual_length, m.usual_end = len(data), data[-32:]
        m.under_way -= 1
        if m.counting:
            m.latencies.append(time.perf_counter() - self.began)
            m.statuses[data[9:12]] += 1
            if m.needle not in data:
                m.without_needle += 1
        if m.stopped:
            return
        if m.paced:
            m.idle.append(self)
        else:
            self.send()


async def pace(m: Measuring, rate: float) -> None:
    """Send what is due on whatever connection is idle; what finds none idle waits, and its latency shows it."""
    started = time.perf_counter()
    for number in itertools.count():
        due = started + number / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        while not m.idle:  # noqa: ASYNC110  # an Event would cost every answer something
            await asyncio.sleep(0.0005)
        m.idle.popleft().send(due)


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


async def run(plan: dict) -> dict:
    m = Measuring(plan)
    source = sources.make(plan["source"])
    loop = asyncio.get_running_loop()
    ports = plan.get("ports") or [plan["port"]]
    connections = []
    for number in range(plan["connections"]):
        stream = source.stream(number)
        _, connection = await loop.create_connection(
            lambda s=stream: Connection(m, s), "127.0.0.1", ports[number % len(ports)]
        )
        connections.append(connection)
    gc.collect()
    gc.freeze()
    gc.disable()
    pacer = None
    if m.paced:
        m.idle.extend(connections)
        pacer = asyncio.create_task(pace(m, plan["rate"]))
    else:
        for connection in connections:
            connection.send()
    await asyncio.sleep(plan.get("warmup_s", 0.5))
    watch = {**plan.get("watch", {}), "client": os.getpid()}
    clocks = machine.read_clocks(watch)
    m.counting = True
    began = time.perf_counter()
    try:
        async with asyncio.timeout(plan["seconds"]):
            await m.exhausted.wait()
    except TimeoutError:
        pass
    m.counting = False
    seconds = time.perf_counter() - began
    spent = {name: clock - clocks[name] for name, clock in machine.read_clocks(watch).items()}
    m.stopped = True
    if pacer is not None:
        pacer.cancel()
    deadline = time.perf_counter() + 10
    while m.under_way and not m.lost and time.perf_counter() < deadline:  # noqa: ASYNC110  # likewise
        await asyncio.sleep(0.01)
    for connection in connections:
        connection.transport.close()
    answered = len(m.latencies)
    ordered = sorted(m.latencies)
    return {
        "answered": answered,
        "seconds": seconds,
        "per_s": answered / seconds,
        "us": {name: cpu / answered * 1e6 if answered else None for name, cpu in spent.items()},
        "cpu_s": spent,
        "p50_ms": percentile(ordered, 0.5) * 1e3,
        "p99_ms": percentile(ordered, 0.99) * 1e3,
        "max_ms": ordered[-1] * 1e3 if ordered else None,
        "statuses": {status.decode(): count for status, count in m.statuses.items()},
        "unexpected": m.without_needle,
        "sent": m.sent,
        "lost_connections": m.lost,
        "exhausted": m.exhausted.is_set(),
    }


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(json.dumps(runner.run(run(json.load(sys.stdin)))))
