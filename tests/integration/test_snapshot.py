"""The snapshot that decisions read, from real rows: what serves, for whom, and what changes it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest

from services.event_log.mover import Mover
from services.update_check.configuration import ArchRollouts, RolloutView
from services.update_check.keeper import SnapshotKeeper
from services.update_check.store import read_configuration
from shared.clock import SystemClock
from shared.db import connect
from shared.domain.identity import node_id_for
from shared.domain.observation import Observation, ObservationKind, ObservationSource
from shared.domain.policy import Policy
from shared.domain.rollout import Purpose
from shared.domain.windows import WeeklyWindow
from shared.fleet import record
from shared.testing.rollouts import World, make_world

NIGHTS = {"weekly": [{"days": ["mon"], "start": "22:00", "length_s": 3600}]}
POLICY = {
    "windows": NIGHTS,
    "order": {"fact": "site", "values": ["lab", "fra"]},
    "failure_domain": "rack",
    "download_rate": 1_000_000,
    "ondemand_jumps_waves": True,
    "probation_s": 60,
    "silence_deadline_s": 12_000,
    "retry_after_s": 5,
    "max_attempts": 3,
}


async def rollouts_of(pool, former=None) -> ArchRollouts:
    async with pool.acquire() as connection:
        configuration = await read_configuration(connection, "http://x", former)
    [application] = configuration.applications.values()
    return application.groups[0].rollouts["amd64"]


async def enrol(pool, world: World, machine_id: str) -> uuid.UUID:
    node_id = node_id_for(world.application_id, machine_id)
    async with pool.acquire() as connection:
        await record(
            connection,
            [
                Observation(
                    event_id=uuid.uuid4(),
                    kind=ObservationKind.POLL,
                    source=ObservationSource.OMAHA,
                    node_id=node_id,
                    application_id=world.application_id,
                    machine_id=machine_id,
                    version="3033.2.0",
                    boot_id="a",
                    at=datetime.now(UTC),
                )
            ],
        )
    return node_id


async def test_what_a_rollout_froze_and_what_it_has_come_to(pool):
    """Its policy, wave, stage, cap, holds and exclusions; an expedited one may ignore its windows."""
    async with pool.acquire() as connection:
        world = await make_world(connection, policy=POLICY, pace=40)
    node_id = await enrol(pool, world, "m1")
    await pool.execute("UPDATE control.changesets SET minimum_version = '3000.0.0'")
    await pool.execute("UPDATE control.rollouts SET fraction = 0.25, order_stage = 1, pace_cap = 1")
    await pool.execute(
        "INSERT INTO control.rollout_exclusions VALUES ($1, $2, 'broken fan', 'ana')", world.rollout_id, node_id
    )
    await pool.execute(
        "SELECT control.hold_segment_v1(gen_random_uuid(), $1, $2, 'x', 'ana', NULL, gen_random_uuid(), 'control')",
        world.changeset_id,
        {"site": "fra", "oem": "ami"},
    )

    view = (await rollouts_of(pool)).update

    assert isinstance(view, RolloutView)
    assert view.windows is not None
    assert view.windows.weekly == (WeeklyWindow(days=("mon",), start="22:00", length_s=3600.0),)
    assert view.order is not None
    assert (view.order.fact, view.order.stages) == ("site", {"lab": 0, "fra": 1})
    assert (view.fraction, view.order_stage, view.pace_cap, view.group_pace, view.changeset_pace) == (0.25, 1, 1, 1, 40)
    assert view.holds == ((("oem", "ami"), ("site", "fra")),)
    assert view.excluded == {"m1"}
    assert (view.failure_domain, view.download_rate, view.ondemand_jumps_waves) == ("rack", 1_000_000, True)
    assert view.expected_s == msgspec.convert(POLICY, Policy).expected_s
    assert (view.probation_s, view.silence_s, view.retry_after_s) == (60.0, 12_000.0, 5.0)
    assert (view.minimum_version, view.purpose, view.only_machines) == ("3000.0.0", Purpose.UPDATE, None)
    await pool.execute("UPDATE control.rollouts SET expedited_at = now()")
    expedited = (await rollouts_of(pool)).update
    assert expedited is not None
    assert expedited.windows is None


async def test_what_serves_beside_the_update(pool):
    """Floors, downgrades, drills and the newest completed update; closed ones and former completed ones are gone."""
    async with pool.acquire() as connection:

        async def roll(version: str, state: str, purpose: str = "update", leaves: str | None = None) -> World:
            world = await make_world(connection, version=version, state=state, supersede=False, purpose=purpose)
            await connection.execute(
                "UPDATE control.rollouts SET created_at = clock_timestamp(), leaves_version = $2 WHERE rollout_id = $1",
                world.rollout_id,
                leaves,
            )
            return world

        await roll("3.0.0", "completed")
        await roll("3.1.0", "completed")
        await roll("4.0.0", "waiting_for_gate")
        await roll("3.9.0", "completed", "floor")
        await roll("3.5.0", "running", "floor")
        await roll("3.6.0", "aborted", "floor")
        await roll("2.0.0", "completed", "downgrade", "2.5.0")
        await roll("2.1.0", "running", "downgrade", "2.5.0")
        drill = await roll("3.2.0", "running", "drill")
        await roll("3.3.0", "completed", "drill")
        await connection.execute(
            "UPDATE control.rollouts SET only_machines = '{m1}' WHERE rollout_id = $1", drill.rollout_id
        )
        await connection.execute("UPDATE control.changesets SET dead_end = true WHERE version = '3.0.0'")

    found = await rollouts_of(pool)

    assert found.update is not None
    assert (found.update.version, found.update.state) == ("4.0.0", "waiting_for_gate")
    assert found.former is not None
    assert found.former.version == "3.1.0"
    assert [floor.version for floor in found.floors] == ["3.5.0", "3.9.0"]
    assert {version: view.version for version, view in found.downgrades.items()} == {"2.5.0": "2.1.0"}
    assert [(view.version, view.only_machines) for view in found.drills] == [("3.2.0", {"m1"})]
    assert found.dead_ends == {"3.0.0"}


async def test_what_changes_with_the_policy_version_only_is_read_with_it(pool):
    """Named nodes, dead ends and path secrets are as long as operators like: they are not read every second."""
    async with pool.acquire() as connection:
        world = await make_world(connection)
        first = await read_configuration(connection, "http://x")
        await connection.execute(
            "INSERT INTO control.group_nodes VALUES ($1, 'm1', $2)", world.application_id, world.group_id
        )
        same = await read_configuration(connection, "http://x", first)
        await connection.execute("SELECT control.raise_policy_version_v1()")
        later = await read_configuration(connection, "http://x", same)
    assert same.named is first.named
    [application] = later.applications.values()
    assert application.named == {"m1": application.groups[0]}
    assert application.group_of({}.get, "m1") is application.groups[0]


@pytest.fixture
async def keeper(pool) -> AsyncIterator[SnapshotKeeper]:
    keeper = SnapshotKeeper(pool, SystemClock(), distribution_url="http://x", max_age_s=5.0, analysis_max_lag_s=20.0)
    await keeper.load()
    running = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def mover(database_url) -> AsyncIterator[Mover]:
    connection = await connect(database_url, application_name="mover")
    yield Mover(connection, batch_size=100, idle_s=0.01, partitions_ahead=1)
    await connection.close()


async def test_imported_facts_are_followed(pool, keeper, mover):
    """What operators import of a node is known as soon as the ledger tells of it; an alias is a fact too."""
    async with pool.acquire() as connection:
        world = await make_world(connection)
    node_id = await enrol(pool, world, "m1")
    other_id = await enrol(pool, world, "m2")
    key = (world.application_id, "m1")
    assert keeper.standings.imported_of(*key) is None

    async def change(column: str, value: object) -> None:
        await pool.execute(f"UPDATE fleet.nodes SET {column} = $2 WHERE node_id = $1", node_id, value)  # noqa: S608
        await pool.execute(
            "INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data) "
            "SELECT gen_random_uuid(), 'node.changed.v1', 'control', 'nodes/' || node_id, node_id::text, now(), "
            "jsonb_build_object('node_id', node_id, 'machine_id', machine_id, 'application_id', application_id, "
            "'by', 'ana') FROM fleet.nodes WHERE node_id = ANY ($1)",
            [node_id, other_id],
        )
        while await mover.step():
            pass

    async def until(facts: dict[str, str] | None) -> None:
        deadline = time.monotonic() + 10
        while keeper.standings.imported_of(*key) != facts:
            assert time.monotonic() < deadline, keeper.standings.imported
            await asyncio.sleep(0.02)

    await change("imported_facts", {"site": "fra"})
    await until({"site": "fra"})
    await change("alias", "web-1")
    await until({"site": "fra", "alias": "web-1"})
    assert keeper.standings.imported.keys() == {key}
    fresh = SnapshotKeeper(pool, SystemClock(), distribution_url="http://x", max_age_s=5.0, analysis_max_lag_s=20.0)
    await fresh.load()
    assert fresh.standings.imported == keeper.standings.imported
    await change("alias", None)
    await change("imported_facts", {})
    await until(None)
