"""Nothing is offered on stale knowledge, and nobody is told an error; a broker that hangs stops nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from running import OLD, QUICK_TICKS, Operator, Prober, Up, operating, running, settled

from services.simulator.fates import Fate, FleetPlan
from services.simulator.fleet import Fleet

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

NODES = 100
MAX_LAG_S = 5.0
FIRST, SECOND, THIRD, BAD = "3033.3.0", "3033.3.1", "3033.3.2", "3033.3.3"
NO, YES = (200, "ok", "noupdate"), (200, "ok", "ok")


@dataclass
class House:
    """What the tests of this file share, since starting everything takes longer than any of them."""

    up: Up
    operator: Operator
    fleet: Fleet
    prober: Prober

    async def answers(self, wanted: tuple[int, str, str], *, seconds: float) -> None:
        """Poll until the answer is ``wanted``; any answer that is neither yes nor no fails at once."""
        deadline = time.monotonic() + seconds
        while (said := await self.prober.poll()) != wanted:
            assert said in (YES, NO), said
            assert time.monotonic() < deadline, f"still {said} after {seconds:g} s\n{self.up.logs()}"
            await asyncio.sleep(0.1)

    async def all_run(self, version: str, *, seconds: float = 90.0) -> None:
        reached = await self.fleet.run_until(lambda statistics: statistics.running[version] == NODES, seconds)
        assert reached, f"{self.fleet.statistics.as_dict()}\n{self.up.logs()}"


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(
            running(
                tmp_path_factory.mktemp("fail_closed"),
                *("--bus", "rabbitmq", *QUICK_TICKS, "--set", f"update_check.ANALYSIS_MAX_LAG_S={MAX_LAG_S:g}"),
            )
        )
        operator = await stack.enter_async_context(operating(up))
        await operator.prepare()
        await operator.roll_out(OLD)
        plan = FleetPlan({BAD: {Fate.ROLLS_BACK: 0.5}})
        fleet = await stack.enter_async_context(operator.fleet(NODES, plan))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await operator.knows(NODES)
        yield House(up, operator, fleet, Prober(up, session, "f" * 32))


@pytest.mark.parametrize(("stopped", "version"), [("rollback_analysis", FIRST), ("event_log", SECOND)])
async def test_no_offers_while_nobody_judges(house: House, stopped: str, version: str) -> None:
    """A judge or a log that is alive but does nothing: after the lag allowed, every poll is a plain "no update"."""
    statistics = house.fleet.statistics
    await house.operator.roll_out(version)
    # It never takes the offer that it gets, so that it is offered it again each time: that must end as well.
    await house.answers(YES, seconds=30)
    await house.fleet.run_until(lambda _: statistics.running[version] >= 5, 60)

    failed = statistics.checks_failed
    with house.up.stopped(stopped):
        await house.answers(NO, seconds=MAX_LAG_S + 15)
        since = datetime.now(UTC)
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            assert await house.prober.poll() == NO
            await asyncio.sleep(0.05)
        assert statistics.granted_after(since, version) == []
        assert statistics.first_held_after(since) is not None
        assert statistics.running[version] < NODES
    await house.answers(YES, seconds=30)
    await house.all_run(version)
    assert statistics.checks_failed == failed, "a node was answered with an error"


async def test_a_broker_that_hangs_stops_nothing(house: House) -> None:
    """RabbitMQ neither answers nor closes: releases go out, a bad one is halted; the relay catches up afterwards."""
    statistics = house.fleet.statistics
    failed = statistics.checks_failed
    with house.up.stopped("rabbitmq"):
        await house.operator.roll_out(THIRD)
        await house.answers(YES, seconds=30)
        await house.all_run(THIRD)

        rollout_id = await house.operator.roll_out(BAD)
        halted = await house.operator.rollout_becomes(rollout_id, "halted", seconds=60)
        halted_at = datetime.fromisoformat(halted["changed_at"])
        # The word of the halt came by NOTIFY, or by the look of every second.
        reached = await house.fleet.run_until(
            lambda _: statistics.first_held_after(halted_at, running=THIRD) is not None, 30
        )
        assert reached
        assert statistics.granted_after(halted_at + timedelta(milliseconds=1), BAD) == []
        await house.answers(NO, seconds=5)
    assert statistics.checks_failed == failed

    connection = await house.up.database()
    try:
        await settled(connection)
        head = await connection.fetchval("SELECT seq FROM event_log.head")
        deadline = time.monotonic() + 60
        while (relayed := await connection.fetchval("SELECT seq FROM event_log.followers WHERE name = 'relay'")) < head:
            assert time.monotonic() < deadline, f"the relay is at {relayed} of {head}\n{house.up.logs()}"
            await asyncio.sleep(0.2)
    finally:
        await connection.close()
