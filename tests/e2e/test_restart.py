"""Stopping and starting again: all of it ends in time whatever hangs, and nothing that was kept is lost."""

# a test holds nobody up
from __future__ import annotations

import hashlib
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from running import (
    NEW,
    OLD,
    PAYLOAD_BYTES,
    QUICK_TICKS,
    Up,
    check_acknowledged,
    check_counted_once,
    check_order,
    free_base_port,
    is_there,
    ledger_of,
    operating,
    running,
    settled,
    until,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

NODES = 60


async def test_a_rollout_goes_on_after_a_restart(tmp_path: Path) -> None:
    """SIGTERM in the middle of a rollout while one service hangs; the next start on the data goes on where it was."""
    # The same addresses both times, as in life: the nodes go on polling while nobody is there.
    options = ("--bus", "none", *QUICK_TICKS, "--base-port", str(free_base_port()))
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(running(tmp_path, *options))
        operator = await stack.enter_async_context(operating(up))
        client = operator.client
        await operator.prepare()
        await operator.roll_out(OLD)
        fleet = await stack.enter_async_context(operator.fleet(NODES))
        await operator.knows(NODES)
        changeset_id = await operator.publish(NEW)
        rollout_id = await operator.promote(NEW)
        assert await fleet.run_until(lambda statistics: statistics.running[NEW] >= 5, 60), up.logs()
        payload = (await client.get(f"/changesets/{changeset_id}"))["payloads"][0]
        known = {node["node_id"] for node in await client.items("/nodes")}
        head = await client.get("/ledger")
        last = await client.get(f"/events/{head['seq']}")

        family = up.family()
        os.kill(up.pid("telemetry"), signal.SIGSTOP)  # will not hear SIGTERM
        assert await up.stop() < 10
        assert up.process.returncode == 0, up.logs()
        assert [str(process) for process in family if is_there(process)] == []
        assert fleet.statistics.running[NEW] < NODES

        again = await stack.enter_async_context(running(tmp_path, *options))
        # The same token opens the door, and the ledger goes on behind its old end.
        assert {node["node_id"] for node in await client.items("/nodes")} == known
        assert await client.get(f"/events/{head['seq']}") == last
        url = f"{again.ready.services['distribution'].url}/payloads/{payload['sha256']}/{payload['name']}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            content = await answer.read()
        assert answer.status == 200, content[:500]
        assert (len(content), hashlib.sha256(content).hexdigest()) == (PAYLOAD_BYTES, payload["sha256"])

        done = await operator.rollout_becomes(rollout_id, "completed", seconds=90)
        assert done["attempts"]["committed"] == fleet.statistics.running[NEW] == NODES, done
        verified = await client.get("/ledger/verify")
        assert verified["ok"], verified
        connection = await again.database()
        try:
            await settled(connection)
            entries = await ledger_of(connection)
            check_order(entries)
            check_counted_once(entries)
            assert await check_acknowledged(connection, entries, list(fleet.statistics.acknowledged)) > 2 * NODES
        finally:
            await connection.close()


async def test_a_stop_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM before anything serves ends what was started so far; the data can be used afterwards."""
    up = Up(tmp_path, "--bus", "none")
    try:
        await until(
            lambda: "Starting control" in up.said(), "the services are being started", seconds=60, explain=up.logs
        )
        family = up.family()
        assert len(family) > 3
        assert await up.stop() < 10
        assert [str(process) for process in family if is_there(process)] == []
        assert not up.ready_file.exists()
    finally:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()
    async with running(tmp_path, "--bus", "none") as again:
        assert again.ready.pid == again.process.pid
