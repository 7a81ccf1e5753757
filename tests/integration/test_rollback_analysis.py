"""The analysis on a real Postgres: its verdicts and what follows from them, restarts, leadership, replay."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
import pytest

from services.event_log.assemble import Head, assemble
from services.event_log.leadership import QUERIES as LOG_QUERIES
from services.event_log.mover import Mover
from services.rollback_analysis import store
from services.rollback_analysis.follow import Analysis
from services.rollback_analysis.replay import compare
from services.update_check.store import GrantRequest, grant
from shared.clock import SystemClock
from shared.db import connect
from shared.domain.observation import Observation, ObservationKind, ObservationSource
from shared.domain.policy import Policy, freeze
from shared.errors import Conflict
from shared.events import new_event
from shared.events.types import LogTicked, RolloutCreated, RolloutParameters
from shared.fleet import record
from shared.ids import SystemIds
from shared.ledger import append, checkpoint, head, read, verify_chain
from shared.settings import Secret
from shared.testing.clock import ManualClock
from shared.testing.rollouts import World, make_world

IDS = SystemIds()
OLD = "3033.2.0"
Kind = ObservationKind


@dataclass
class Lab:
    """Nodes, a mover whose ledger time the test sets, and analyses that run beside."""

    pool: asyncpg.Pool[Any]
    connection: asyncpg.Connection[Any]
    url: str
    clock: ManualClock = field(default_factory=ManualClock)
    wakes: list[asyncio.Event] = field(default_factory=list)
    nodes: int = 0

    async def announce(self, world: World, *, fleet_size: int = 1000, **changes: object) -> None:
        """Append ``rollout.created`` for what `make_world` inserted."""
        frozen = freeze(Policy(), fleet_size=fleet_size, group_size=fleet_size)
        values = {name: getattr(frozen, name) for name in frozen.__struct_fields__} | changes
        data = RolloutCreated(
            rollout_id=str(world.rollout_id),
            group_id=str(world.group_id),
            group_name="everyone",
            changeset_id=str(world.changeset_id),
            version=world.version,
            arch="amd64",
            application_id=str(world.application_id),
            parameters=RolloutParameters(**values),
        )
        event = new_event(data, ids=IDS, clock=self.clock, source="control", subject=f"rollouts/{world.rollout_id}")
        await append(self.connection, [event])

    async def offer(self, world: World, count: int) -> list[tuple[uuid.UUID, str]]:
        """Enrol new nodes and ask for grants; returns (node id, machine id) of those that got one."""
        nodes = []
        for _ in range(count):
            self.nodes += 1
            machine_id = f"machine-{self.nodes:06d}"
            nodes.append((uuid.uuid5(world.application_id, machine_id), machine_id))
        await self.say(world, Kind.POLL, nodes)
        version = await self.pool.fetchval("SELECT policy_version FROM control.global_gate")
        results = await grant(
            self.connection,
            world.rollout_id,
            version,
            [
                GrantRequest(
                    node_id=node_id,
                    attempt_id=IDS.uuid7(),
                    token=IDS.token(),
                    event_id=IDS.uuid7(),
                    version=OLD,
                    boot_id=f"{machine_id}/1",
                    at=self.clock.now(),
                    traceparent=None,
                )
                for node_id, machine_id in nodes
            ],
        )
        return [node for node, result in zip(nodes, results, strict=True) if result.status == "granted"]

    async def say(
        self, world: World, kind: Kind, nodes: list[tuple[uuid.UUID, str]], *, version: str = OLD, boot: int = 1
    ) -> None:
        """One report of each node."""
        await record(
            self.connection,
            [
                Observation(
                    event_id=IDS.uuid7(),
                    kind=kind,
                    source=ObservationSource.OMAHA,
                    node_id=node_id,
                    application_id=world.application_id,
                    machine_id=machine_id,
                    version=version,
                    boot_id=f"{machine_id}/{boot}",
                    at=self.clock.now(),
                    group_id=world.group_id,
                    arch="amd64",
                )
                for node_id, machine_id in nodes
            ],
        )

    async def tick(
        self,
        seconds: float = 1.0,
        *,
        contacts: Mapping[str, int] | None = None,
        expected: Mapping[str, float] | None = None,
        lag_s: float = 0.0,
        times: int = 1,
    ) -> None:
        """Let ledger time go on and append ticks."""
        for _ in range(times):
            self.clock.advance(seconds)
            data = LogTicked(
                contacts=dict(contacts or {}),
                expected=dict(expected or {}),
                ingest_lag_s=lag_s,
                interval_s=seconds,
                inbox_depth=0,
            )
            event = new_event(data, ids=IDS, clock=self.clock, source="event_log", subject="log")
            await append(self.connection, [event])
            await self.move()

    async def move(self) -> int:
        """Bring the inbox to the ledger, at the lab's time."""
        async with self.connection.transaction():
            rows = sorted(
                await self.connection.fetch(LOG_QUERIES["take"], 100_000), key=lambda row: int(row["position"])
            )
            if rows:
                before = Head(*await head(self.connection))
                batch = assemble(before, rows, self.clock.now())
                assert batch.refused == []
                await Mover(self.connection, batch_size=1, idle_s=1, partitions_ahead=1)._write(before, batch)
        for wake in self.wakes:
            wake.set()
        return len(rows)

    async def settle(self) -> None:
        """Move and judge until nothing is left: verdicts are events too, so the last look is for what they appended."""
        deadline = time.monotonic() + 20
        while (await checkpoint(self.connection, store.FOLLOWER)) < (await head(self.connection))[
            0
        ] or await self.move():
            assert time.monotonic() < deadline, "the analysis did not catch up"
            await asyncio.sleep(0.005)

    @contextlib.asynccontextmanager
    async def judging(self, batch_events: int = 2000) -> AsyncIterator[asyncio.Task[None]]:
        """An analysis beside; what ends it ends the test."""
        wake = asyncio.Event()
        self.wakes.append(wake)
        analysis = Analysis(
            self.pool, Secret(self.url), ids=IDS, clock=SystemClock(), batch_events=batch_events, wake=wake
        )
        await analysis.ping()
        task = asyncio.create_task(analysis.run())
        try:
            yield task
        finally:
            if task.done():
                task.result()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.wakes.remove(wake)

    async def round(self, world: World, *, count: int = 30, bad_every: int = 0) -> int:
        """Nodes are offered, stage, reboot and report; every so manieth rolls back. Returns how many were granted."""
        granted = await self.offer(world, count)
        if granted:
            await self.say(world, Kind.STAGED, granted)
            bad = granted[::bad_every] if bad_every else []
            good = [node for node in granted if node not in bad]
            if good:
                await self.say(world, Kind.POLL, good, version=world.version, boot=2)
            if bad:
                await self.say(world, Kind.ROLLED_BACK, bad, boot=2)
        await self.settle()
        return len(granted)

    async def types(self, pattern: str) -> list[dict[str, Any]]:
        """Data of all ledger events whose type matches."""
        entries = await read(self.connection, after=0, limit=10_000, types=[pattern])
        return [orjson.loads(entry.raw)["data"] | {"type": entry.type} for entry in entries]

    async def gate(self, world: World) -> asyncpg.Record:
        row = await self.connection.fetchrow(
            "SELECT * FROM control.changeset_gates WHERE changeset_id = $1", world.changeset_id
        )
        assert row is not None
        return row


@pytest.fixture
async def lab(pool, database_url) -> AsyncIterator[Lab]:
    connection = await connect(database_url, application_name="lab")
    now = await connection.fetchval("SELECT clock_timestamp()")
    try:
        yield Lab(pool, connection, database_url, clock=ManualClock(now))
    finally:
        await connection.close()


async def test_a_bad_release_is_halted_with_all_that_follows(lab):
    """Gate, rollout, recall, verdict row and events; nothing is granted afterwards; every event can be read again."""
    async with lab.judging():
        world = await make_world(lab.connection)
        await lab.announce(world)
        await lab.settle()
        waiting = await lab.offer(world, 2)
        rounds = 0
        while (await lab.gate(world))["state"] == "open":
            assert await lab.round(world, bad_every=2) > 0
            rounds += 1
            assert rounds < 20
        await lab.settle()

        gate = await lab.gate(world)
        halted = await lab.types("changeset.halted.v1")
        rollout = await lab.connection.fetchval(
            "SELECT state FROM control.rollouts WHERE rollout_id = $1", world.rollout_id
        )
        assert gate["state"] == "halted"
        assert gate["evidence"]["ln_e"] >= gate["evidence"]["threshold"]
        assert "rolled back" in gate["reason"]
        assert len(halted) == 1
        assert halted[0]["evidence"]["bad"] == gate["evidence"]["bad"]
        assert rollout == "halted"
        assert {event["node_id"] for event in await lab.types("update.recalled.v1")} == {str(n) for n, _ in waiting}
        assert await lab.offer(world, 5) == []
        assert await lab.connection.fetchval("SELECT count(*) FROM analysis.verdicts WHERE kind = 'halt'") == 1
        for entry in await read(lab.connection, after=0, limit=10_000):
            assert entry.data is not None
        assert (await verify_chain(lab.connection)).ok
        assert (await compare(lab.connection)).equal


async def test_a_good_release_widens_its_pace(lab):
    """Good outcomes raise the pace of the changeset and of its group, each time with an event."""
    async with lab.judging():
        world = await make_world(lab.connection)
        await lab.announce(world)
        await lab.settle()
        granted = [await lab.round(world, count=120) for _ in range(5)]

        gate = await lab.gate(world)
        widened = await lab.types("rollout.widened.v1")
        rollout_pace = await lab.connection.fetchval("SELECT pace FROM control.rollouts")
        assert gate["state"] == "open"
        assert granted == sorted(granted)
        assert granted[-1] > granted[0] == 10
        assert gate["pace"] == widened[-1]["pace_after"] > 10
        assert widened[-1]["group_paces"] == {str(world.rollout_id): rollout_pace}
        assert (await compare(lab.connection)).equal


async def test_a_restart_in_the_middle_changes_no_verdict(lab):
    """However events fall into batches and lives, the verdicts are those of one uninterrupted reading."""
    world = await make_world(lab.connection)
    await lab.announce(world, p0=0.2)
    for batch_events in (1, 3, 2000, 7):
        async with lab.judging(batch_events):
            await lab.round(world, bad_every=9)
            await lab.tick(5.0, contacts={"": 10}, expected={"": 10.0}, times=3)
            await lab.settle()

        assert (await compare(lab.connection)).equal
    assert await lab.connection.fetchval("SELECT count(*) FROM analysis.verdicts") > 3


async def leaders(lab: Lab) -> list[int]:
    rows = await lab.connection.fetch(
        "SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
        "AND a.application_name = 'rollback_analysis leader' AND a.datname = current_database()"
    )
    return [row[0] for row in rows]


async def wait_for_leader(lab: Lab, other_than: list[int]) -> list[int]:
    deadline = time.monotonic() + 10
    while not (found := await leaders(lab)) or found == other_than:
        assert time.monotonic() < deadline, "nobody leads"
        await asyncio.sleep(0.02)
    return found


async def test_one_of_two_judges_and_the_other_takes_over(lab):
    """A leader whose connection dies loses the right to write at once; nothing is judged twice or not at all."""
    world = await make_world(lab.connection)
    await lab.announce(world, p0=0.2)
    async with lab.judging() as one, lab.judging() as two:
        first = await wait_for_leader(lab, [])
        await lab.round(world, bad_every=5)
        for _ in range(3):
            assert len(first) == 1
            await lab.connection.fetchval("SELECT pg_terminate_backend($1)", first[0])
            await lab.round(world, bad_every=5)
            first = await wait_for_leader(lab, first)
        await lab.settle()
        assert not one.done()
        assert not two.done()

    assert (await compare(lab.connection)).equal


async def test_who_lost_the_lead_can_write_no_more(lab):
    """The checkpoint is compared and set: a batch of a former leader changes nothing."""
    world = await make_world(lab.connection)
    await lab.announce(world)
    async with lab.judging():
        await lab.settle()
    fold = await store.load(lab.connection)
    stale = {"ids": IDS, "clock": SystemClock(), "changes": fold.snapshot(), "verdicts": [], "blind": False}

    with pytest.raises(Conflict):
        await store.commit(lab.connection, old=0, new=99, **stale)
    assert await checkpoint(lab.connection, store.FOLLOWER) < 99


async def braked(lab: Lab, world: World) -> str | None:
    await lab.settle()
    return (await lab.gate(world))["braked_reason"]


async def test_blindness_brakes_and_sight_releases(lab):
    """Contacts that fall away brake what is rolled out, with an event; when they are back it goes on."""
    seen, unseen = {"contacts": {"": 60}, "expected": {"": 60.0}}, {"contacts": {"": 1}, "expected": {"": 60.0}}
    async with lab.judging():
        world = await make_world(lab.connection)
        await lab.announce(world)
        await lab.tick()
        await lab.tick(10.0, **seen)
        assert await braked(lab, world) is None
        await lab.tick(10.0, **unseen)
        assert "contacts_missing" in (await braked(lab, world) or "")
        assert await lab.offer(world, 3) == []
        await lab.tick(10.0, **seen)
        assert await braked(lab, world) is None
        assert len(await lab.offer(world, 3)) == 3
        await lab.settle()

    events = await lab.types("changeset.braked.v1")
    assert [event.get("braked", True) for event in events] == [True, False]
    assert (await compare(lab.connection)).equal


async def test_one_sites_sight_does_not_release_while_another_is_blind(lab):
    """The brake belongs to all causes together."""
    async with lab.judging():
        world = await make_world(lab.connection)
        await lab.announce(world)
        expected = {"east": 45.0, "west": 60.0}
        await lab.tick()
        await lab.tick(10.0, contacts={"east": 0, "west": 0}, expected=expected)
        assert await braked(lab, world) is not None
        await lab.tick(10.0, contacts={"east": 60, "west": 0}, expected=expected)
        assert await braked(lab, world) is not None
        await lab.tick(10.0, contacts={"east": 60, "west": 60}, expected=expected)
        assert await braked(lab, world) is None


async def test_a_lagging_log_blinds_too(lab):
    """Reports that are not in the ledger yet are no silence of nodes."""
    async with lab.judging():
        world = await make_world(lab.connection)
        await lab.announce(world, silence_s=90.0)
        await lab.tick(lag_s=31.0)
        assert "ingest_lag" in (await braked(lab, world) or "")
        await lab.tick()
        assert await braked(lab, world) is None


async def test_what_was_halted_while_blind_comes_back_without_the_brake(lab):
    """An operator halts while we are blind and resumes when we see again: nothing stays braked."""
    async with lab.judging():
        world = await make_world(lab.connection)
        await lab.announce(world)
        await lab.tick()
        await lab.tick(10.0, contacts={"": 0}, expected={"": 60.0})
        assert await braked(lab, world) is not None
        await lab.connection.fetchval(
            "SELECT control.halt_changeset_v1($1, 'look', 'ana', NULL, gen_random_uuid(), 'control')",
            world.changeset_id,
        )
        await lab.tick(10.0, contacts={"": 60}, expected={"": 60.0})
        await lab.settle()
        await lab.connection.fetchval(
            "SELECT control.resume_changeset_v1($1, 'fine', 'ana', gen_random_uuid())", world.changeset_id
        )
        assert await braked(lab, world) is None
        assert len(await lab.offer(world, 4)) == 4


async def states(lab: Lab) -> dict[str, int]:
    await lab.settle()
    rows = await lab.connection.fetch("SELECT state, count(*) FROM fleet.attempts GROUP BY state")
    return {row[0]: row[1] for row in rows}


async def test_silence_is_judged_by_observed_time_only(lab):
    """Hours in which the log stood still, or we were blind, make nobody's deadline pass; observed time does."""
    async with lab.judging():
        world = await make_world(lab.connection)
        await lab.announce(world, overdue_s=20.0, silence_s=40.0, offer_deadline_s=10_000.0)
        await lab.tick()
        silent = await lab.offer(world, 3)
        await lab.say(world, Kind.STAGED, silent)
        await lab.tick(10.0, times=2)
        # Ten seconds are the most that a gap counts; an outage gives 2.4 times the silence as grace from its end.
        await lab.tick(7200.0)
        await lab.tick(1.0, times=3)
        assert await states(lab) == {"staged": 3}
        for _ in range(50):
            await lab.tick(100.0, contacts={"": 0}, expected={"": 60.0})
        assert await states(lab) == {"staged": 3}
        await lab.tick(1.0, contacts={"": 60}, expected={"": 60.0})
        await lab.tick(9.0, times=10)
        assert await states(lab) == {"staged": 3}
        await lab.tick(9.0, times=12)

        assert await states(lab) == {"presumed_lost": 3}
        assert {event["reason"] for event in await lab.types("update.presumed_lost.v1")} == {"silent"}
        assert (await compare(lab.connection)).equal


async def test_an_offer_without_progress_is_taken_back_and_a_long_wait_parked(lab):
    """Both leave the pace; the parked one commits when it boots after all."""
    async with lab.judging():
        world = await make_world(lab.connection)
        await lab.announce(world, overdue_s=900.0, silence_s=1800.0, offer_deadline_s=30.0, park_after_s=60.0)
        await lab.tick()
        idle, waiting = (await lab.offer(world, 1)), (await lab.offer(world, 1))
        assert (idle, waiting) != ([], [])
        await lab.say(world, Kind.STAGED, waiting)
        await lab.tick(10.0, times=8)
        await lab.settle()

        rows = await lab.connection.fetch("SELECT node_id, state, parked, reason FROM fleet.attempts")
        found = {row["node_id"]: (row["state"], row["parked"]) for row in rows}
        assert found == {idle[0][0]: ("failed", False), waiting[0][0]: ("staged", True)}
        await lab.say(world, Kind.POLL, waiting, version=world.version, boot=2)
        await lab.settle()
        assert (await states(lab)) == {"failed": 1, "committed": 1}


async def replay_command(url: str) -> tuple[int | None, dict[str, Any]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("UNEVENTFUL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.rollback_analysis",
        "replay",
        env=environ | {"UNEVENTFUL_DATABASE_URL": url, "UNEVENTFUL_PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert out, error.decode()
    return process.returncode, orjson.loads(out.splitlines()[-1])


async def test_the_replay_command_says_whether_verdicts_are_equal(lab):
    """0 and equal; 1 with the first difference where a verdict was changed, or one is missing."""
    world = await make_world(lab.connection)
    await lab.announce(world)
    async with lab.judging():
        await lab.round(world)
        await lab.round(world)
    seqs = [row[0] for row in await lab.connection.fetch("SELECT seq FROM analysis.verdicts ORDER BY seq, ordinal")]

    right = await replay_command(lab.url)
    await lab.connection.execute("UPDATE analysis.verdicts SET verdict = verdict || ' ' WHERE seq = $1", seqs[0])
    changed = await replay_command(lab.url)
    await lab.connection.execute("DELETE FROM analysis.verdicts WHERE seq = $1", seqs[0])
    await lab.connection.execute("DELETE FROM analysis.verdicts WHERE seq = $1", seqs[-1])
    missing = await compare(lab.connection)
    await lab.connection.execute("DELETE FROM analysis.verdicts")
    none = await compare(lab.connection)

    assert right[0] == 0
    assert right[1]["equal"]
    assert right[1]["verdicts"] == len(seqs)
    assert changed == (1, right[1] | {"equal": False, "first_difference": seqs[0]})
    assert (missing.equal, missing.first_difference) == (False, seqs[0])
    assert none.first_difference == seqs[0]


async def test_a_missing_last_verdict_is_a_difference(lab):
    """Also when all that is stored is equal."""
    world = await make_world(lab.connection)
    await lab.announce(world)
    async with lab.judging():
        await lab.round(world)
        await lab.round(world)
    last = await lab.connection.fetchval("SELECT max(seq) FROM analysis.verdicts")
    await lab.connection.execute("DELETE FROM analysis.verdicts WHERE seq = $1", last)

    assert (await compare(lab.connection)).first_difference == last


async def test_the_application_judges(database_url, lab):
    """As a service: it becomes ready, follows, and stops when told."""
    from aiohttp.test_utils import TestServer

    from services.rollback_analysis.app import ANALYSIS, make_app
    from services.rollback_analysis.settings import Settings

    world = await make_world(lab.connection)
    await lab.announce(world)
    server = TestServer(make_app(Settings(database_url=Secret(database_url))))
    await server.start_server()
    try:
        await server.app[ANALYSIS].ping()
        await lab.settle()
        assert await lab.connection.fetchval("SELECT count(*) FROM analysis.verdicts WHERE kind = 'pace'") == 1
    finally:
        await server.close()
