"""Whatever is killed during a rollout: what was acknowledged is not lost, what is sent twice counts once."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from running import (
    NEW,
    NEWER,
    OLD,
    QUICK_TICKS,
    NativeAgent,
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
    until,
)

from services.simulator.fates import Fate, FleetPlan

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

NODES = 500
KILLED = (
    "rabbitmq",  # takes the longest to come back; the others die meanwhile
    "update_check",
    "telemetry",
    "distribution",
    "event_log",
    "postgres",
    "rollback_analysis",
    "control",
)
ROLLING_BACK = {Fate.ROLLS_BACK: 0.04, Fate.LOSES_ROLLBACK_REPORT: 0.02}
PLAN = FleetPlan(
    {
        NEW: {**ROLLING_BACK, Fate.LIES: 0.10, Fate.LOSES_REPORT: 0.04},
        NEWER: {Fate.ROLLS_BACK: 0.5, Fate.LIES: 0.10},
    }
)


def holds_reports(spool: Path) -> bool:
    return spool.exists() and spool.stat().st_size > 0


async def test_a_rollout_survives_the_death_of_every_process(tmp_path: Path) -> None:
    """SIGKILL for each service, for Postgres and for RabbitMQ, one after the other, while 500 nodes update."""
    async with running(tmp_path, "--bus", "rabbitmq", *QUICK_TICKS) as up, operating(up) as operator:
        # Some nodes of the first release roll back, which its policy allows, so that such reports are at stake too.
        await operator.prepare(allowed_bad_rate=0.4, concurrency=20, hold_budget=20)
        await operator.publish(OLD)
        await operator.promote(OLD)
        agent = NativeAgent(up.ready.services["telemetry"].url)
        async with operator.fleet(NODES, PLAN) as fleet, agent.at_work():
            statistics = fleet.statistics
            await operator.knows(NODES)
            changeset_id = await operator.publish(NEW)
            rollout_id = await operator.promote(NEW)

            def progress() -> str:
                return f"{statistics.as_dict()}\n{up.logs()}"

            killed: dict[str, int] = {}
            spool = up.data / "spool" / "update_check" / "reports.ndjson"
            for place, name in enumerate(KILLED):
                # Tied to progress and not to time: each death meets a rollout that is under way.
                goal = 15 + place * 40
                await until(
                    lambda goal=goal: statistics.running[NEW] >= goal,
                    f"{goal} nodes run {NEW}, before {name} is killed",
                    seconds=60,
                    explain=progress,
                )
                assert statistics.running[NEW] < 0.8 * NODES, (
                    f"the rollout was as good as over before {name} was killed"
                )
                killed[name] = up.kill(name)
                if name == "postgres":
                    # Reports wait on disk now; whoever wrote them down dies as well.
                    await until(lambda: holds_reports(spool), "a report is spooled", seconds=20, explain=progress)
                    former = up.kill("update_check")
                    await up.is_back("update_check", instead_of=former)
                if name != "rabbitmq":
                    await up.is_back(name, instead_of=killed[name])
            await up.is_back("rabbitmq", instead_of=killed["rabbitmq"])
            done = await operator.rollout_becomes(rollout_id, "completed", seconds=90)

            # A release that is worse than allowed is still halted, by an analysis that dies on the way.
            await operator.change_policy(allowed_bad_rate=0.01)
            bad_id = await operator.publish(NEWER)
            bad_rollout_id = await operator.promote(NEWER)
            await until(
                lambda: statistics.by_version[NEWER].rolled_back >= 1,
                "a node rolled back",
                seconds=60,
                explain=progress,
            )
            for name in ("rollback_analysis", "event_log", "update_check"):
                former = up.kill(name)
                await up.is_back(name, instead_of=former)
            await operator.rollout_becomes(bad_rollout_id, "halted", seconds=60)

        assert up.process.poll() is None
        connection = await up.database()
        try:
            await settled(connection)
            entries = await ledger_of(connection)
            check_order(entries)
            check_counted_once(entries)
            await check_attempts(connection, entries)
            looked_for = await check_acknowledged(connection, entries, statistics.acknowledged)
            good = await check_evidence(connection, entries, changeset_id)
            bad = await check_evidence(connection, entries, bad_id)
            halted_at = next(entry.seq for entry in entries if entry.type == "changeset.halted.v1")
            assert not [
                entry
                for entry in entries
                if entry.seq > halted_at and entry.type == "update.offered.v1" and entry.data["changeset_id"] == bad_id
            ]
            recorded = {entry.event_id for entry in entries}
            # Where both the staging and the return of a node went unheard, since update_check was dead each time,
            # nobody can tell that it booted the release: the attempt failed, and the node was offered it once more.
            unheard = await connection.fetchval(
                "SELECT count(*) FROM fleet.attempts WHERE changeset_id = $1 AND reason = 'rebooted_before_staged'",
                uuid.UUID(changeset_id),
            )
        finally:
            await connection.close()

        # The good release reached everybody; it is known of each node how that ended.
        counts = statistics.by_version[NEW]
        assert done["attempts"]["committed"] + done["attempts"]["rolled_back"] == NODES
        assert (counts.committed, counts.rolled_back) == (
            done["attempts"]["committed"],
            done["attempts"]["rolled_back"] + unheard,
        )
        assert (good["started"], good["bad"]) == (NODES, done["attempts"]["rolled_back"])
        assert bad["halted"]

        assert not holds_reports(spool)
        # 13, 14 and 3/1 of each node at least, most of which were answered, whatever died.
        assert looked_for > 2 * NODES
        assert len(agent.acknowledged) > 300
        assert agent.refused, "the agent never noticed that telemetry and Postgres were killed"
        lost = [event_id for event_id in agent.acknowledged if event_id not in recorded]
        assert not lost, f"{len(lost)} of {len(agent.acknowledged)} native reports are lost"

        verified = await operator.client.get("/ledger/verify")
        assert verified["ok"], verified
        replayed = replay(up)
        assert replayed["equal"], replayed
        assert replayed["verdicts"] > 0
