"""Without a broker everything works as with one: services follow the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import (
    NEW,
    NEWER,
    OLD,
    QUICK_TICKS,
    check_acknowledged,
    check_attempts,
    check_counted_once,
    check_evidence,
    check_order,
    ledger_of,
    operating,
    replay,
    running,
    settled,
)

from services.simulator.fates import Fate, FleetPlan
from services.standalone.settings import Bus

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

NODES = 80


async def test_a_good_release_goes_through_and_a_bad_one_is_halted(tmp_path: Path) -> None:
    """Two whole rollouts; then the books are checked."""
    plan = FleetPlan({NEW: {Fate.LIES: 0.2}, NEWER: {Fate.ROLLS_BACK: 0.5}})
    async with running(tmp_path, "--bus", "none", *QUICK_TICKS) as up, operating(up) as operator:
        assert (up.ready.bus, up.ready.rabbitmq) == (Bus.NONE, None)
        await operator.prepare()
        await operator.roll_out(OLD)
        async with operator.fleet(NODES, plan) as fleet:
            await operator.knows(NODES)
            good_id = await operator.publish(NEW)
            rollout_id = await operator.promote(NEW)
            done = await operator.rollout_becomes(rollout_id, "completed", seconds=90)
            assert done["attempts"] == {"committed": NODES}
            assert fleet.statistics.running[NEW] == NODES

            bad_id = await operator.publish(NEWER)
            bad_rollout_id = await operator.promote(NEWER)
            halted = await operator.rollout_becomes(bad_rollout_id, "halted", seconds=60)
            assert halted["halt_verdict"] is not None
        assert fleet.statistics.checks_failed == fleet.statistics.unanswered == 0

        connection = await up.database()
        try:
            await settled(connection)
            assert await connection.fetchval("SELECT count(*) FROM event_log.followers WHERE name = 'relay'") == 0
            entries = await ledger_of(connection)
            check_order(entries)
            check_counted_once(entries)
            await check_attempts(connection, entries)
            await check_acknowledged(connection, entries, fleet.statistics.acknowledged)
            good = await check_evidence(connection, entries, good_id)
            bad = await check_evidence(connection, entries, bad_id)
        finally:
            await connection.close()
        assert (good["started"], good["good"], good["bad"]) == (NODES, NODES, 0)
        assert bad["halted"]
        assert (await operator.client.get("/ledger/verify"))["ok"]
        assert replay(up)["equal"]
