"""Stopping and starting again: all of it ends in time whatever hangs, and nothing that was kept is lost."""

# ruff: noqa: ASYNC240  # a test holds nobody up
from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import aiohttp
import pytest
from running import NEW, NEWER, OLD, PAYLOAD_BYTES, QUICK_TICKS, Up, is_there, operating, running, until

from services.cli.client import Client
from services.cli.target import Target

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

NODES = 40


async def test_a_rollout_goes_on_after_a_restart(tmp_path: Path) -> None:
    """SIGTERM in the middle of a rollout while one service hangs; the next start on the data goes on where it was."""
    async with running(tmp_path, "--bus", "none", *QUICK_TICKS) as up:
        token = Path(up.ready.token_file).read_text().strip()
        async with operating(up) as operator:
            await operator.prepare()
            await operator.roll_out(OLD)
            async with operator.fleet(NODES, first_ever=False) as fleet:
                await operator.knows(NODES)
                changeset_id = await operator.publish(NEW)
                rollout_id = await operator.promote(NEW)
                assert await fleet.run_until(lambda statistics: statistics.running[NEW] >= 5, 60), up.logs()
            payload = (await operator.client.get(f"/changesets/{changeset_id}"))["payloads"][0]
            committed = (await operator.rollout(rollout_id))["attempts"].get("committed", 0)
            known = {node["machine_id"] for node in await operator.client.items("/nodes")}
            head = await operator.client.get("/ledger")
            last = await operator.client.get(f"/events/{head['seq']}")

        family = up.family()
        os.kill(up.pid("telemetry"), signal.SIGSTOP)  # will not hear SIGTERM
        assert await up.stop() < 10
        assert up.process.returncode == 0, up.logs()
        assert [str(process) for process in family if is_there(process)] == []

    async with (
        running(tmp_path, "--bus", "none", *QUICK_TICKS) as up,
        Client(Target(url=up.ready.services["control"].url, token=token, distribution_url=None)) as client,
        operating(up) as operator,
    ):
        # The same token opens the door, and the ledger goes on behind its old end.
        assert {node["machine_id"] for node in await client.items("/nodes")} == known
        assert (await client.get(f"/events/{head['seq']}")) == last
        assert (await client.get("/ledger"))["seq"] >= head["seq"]
        verified = await client.get("/ledger/verify")
        assert verified["ok"], verified
        url = f"{up.ready.services['distribution'].url}/payloads/{payload['sha256']}/{payload['name']}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            content = await answer.read()
        assert answer.status == 200, content[:500]
        assert (len(content), hashlib.sha256(content).hexdigest()) == (PAYLOAD_BYTES, payload["sha256"])

        # Other machines than before the restart, under the same group and the same rollout.
        async with operator.fleet(NODES, seed=2) as fleet:
            counts = fleet.statistics.by_version[NEW]
            assert await fleet.run_until(lambda _: counts.reported_committed == NODES, 90), up.logs()
        assert (await operator.rollout(rollout_id))["attempts"]["committed"] >= NODES + committed
        await operator.publish(NEWER)


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
