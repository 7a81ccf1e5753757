"""The rule by which reports move attempts, in Python and next to the rows: one history, two witnesses."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from shared.domain.attempt import CLOSED, AttemptRow, AttemptState, NodeRow, Report, observe
from shared.domain.observation import Observation, ObservationKind, ObservationSource
from shared.fleet import FleetReporter, record
from shared.testing.rollouts import World, make_world

Kind, Source, State = ObservationKind, ObservationSource, AttemptState
FROM, TO, OTHER = "3033.2.0", "3033.2.1", "2905.2.6"
EPOCH = datetime(2020, 3, 1, tzinfo=UTC)
LONG_AGO = datetime(2021, 1, 1, tzinfo=UTC)
"""Reports are older than this; what Postgres's own clock stamped is newer."""
AWAITED_EVERY = timedelta(minutes=15)
NODE = uuid.UUID(int=7)
HISTORIES = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Say:
    """A report, or one that was sent before (``again`` counts back over the reports so far)."""

    kind: Kind
    version: str = FROM
    boot: str = "a"
    source: Source = Source.OMAHA
    seconds: int = 60
    again: int | None = None
    code: int | None = None


@dataclass(frozen=True)
class Grant:
    boot: str | None = None


@dataclass(frozen=True)
class Close:
    kind: str


@dataclass(frozen=True)
class Recall:
    pass


@dataclass(frozen=True)
class Lift:
    pass


Step = Say | Grant | Close | Recall | Lift

says = st.builds(
    Say,
    kind=st.sampled_from(Kind),
    version=st.sampled_from([FROM, FROM, TO, TO, OTHER]),
    boot=st.sampled_from(["a", "b", "b", "c", "d", "e", "f", f"unknown-{FROM}", f"unknown-{TO}"]),
    source=st.sampled_from([Source.OMAHA, Source.OMAHA, Source.NATIVE]),
    seconds=st.sampled_from([0, 1, 60, 899, 900, 5000, -1, -90, -6000]),
    again=st.none() | st.none() | st.none() | st.integers(0, 5),
    code=st.sampled_from([None, None, 9, 44]),
)
steps = st.one_of(
    says,
    says,
    says,
    st.builds(Grant, boot=st.sampled_from([None, None, None, "c"])),
    st.builds(Close, kind=st.sampled_from(["presumed_lost", "failed", "parked"])),
    st.just(Recall()),
    st.just(Lift()),
)
BEGUN = [Say(Kind.POLL), Grant()]
STAGED = [*BEGUN, Say(Kind.DOWNLOAD_STARTED), Say(Kind.STAGED)]
openings = st.sampled_from(
    [
        [],
        BEGUN,
        STAGED,
        [*STAGED, Say(Kind.POLL, TO, "b")],
        [*STAGED, Say(Kind.BOOTED, TO, "b", Source.NATIVE)],
        [*STAGED, Close("presumed_lost")],
        [*STAGED, Close("parked")],
        [*BEGUN, Recall()],
        [*BEGUN, Say(Kind.FAILED)],
    ]
)
histories = st.builds(lambda opening, rest: [*opening, *rest], openings, st.lists(steps, max_size=14))


@dataclass
class Model:
    """What the pure rule makes of a history, with what surrounds it: duplicates, grants, verdicts."""

    node: NodeRow | None = None
    attempts: list[AttemptRow] = field(default_factory=list)
    quarantined: bool = False
    events: list[tuple[str, bool | None, str | None, str | None]] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    seen: set[object] = field(default_factory=set)

    @property
    def attempt(self) -> AttemptRow | None:
        return self.attempts[-1] if self.attempts else None

    def report(self, observation: Observation) -> None:
        if self.node is None:
            self.node = NodeRow(version=observation.version, boot_id=observation.boot_id, boot_seen_at=observation.at)
            self.events.append(("node.enrolled", None, None, None))
        if observation.event_id in self.seen:
            self.statuses.append("duplicate")
            return
        self.seen.add(observation.event_id)
        effect = observe(
            self.node,
            self.attempt,
            Report(
                kind=observation.kind,
                source=observation.source,
                version=observation.version,
                boot_id=observation.boot_id,
                at=observation.at,
            ),
            AWAITED_EVERY,
        )
        if effect.cloned_now:
            self.events.append(("node.cloned", None, None, None))
        if effect.node.cloned:
            self.node = effect.node
            self.statuses.append("cloned")
            return
        if observation.source is Source.OMAHA and observation.kind not in (Kind.POLL, Kind.PING):
            words = (len(self.attempts), observation.boot_id, observation.kind, observation.error_code)
            if words in self.seen:
                self.statuses.append("duplicate")
                return
            self.seen.add(words)
        self.node = effect.node
        if effect.attempt is not None:
            self.attempts[-1] = effect.attempt
        for number, verb in enumerate(effect.moves, start=1):
            last = number == len(effect.moves)
            state = effect.attempt.state.value if last and effect.attempt is not None else None
            self.events.append((f"update.{verb}", effect.applied, effect.reason, state))
        if effect.quarantined:
            self.quarantined = True
            self.events.append(("node.quarantined", None, effect.reason, None))
        self.statuses.append("recorded" if effect.applied else "ignored")

    def grant(self, boot: str | None) -> str:
        attempt = self.attempt
        if self.node is None:
            return "node_unknown"
        if self.node.cloned:
            return "cloned"
        if self.quarantined:
            return "quarantined"
        if attempt is not None and not attempt.state.closed:
            return "repeated" if attempt.state in (State.OFFERED, State.DOWNLOADING) else "attempt_open"
        self.attempts.append(
            AttemptRow(
                state=State.OFFERED,
                from_version=self.node.version,
                to_version=TO,
                boot_id=boot or self.node.boot_id,
            )
        )
        self.events.append(("update.offered", True, None, "offered"))
        return "granted"

    def close(self, kind: str) -> None:
        if self.attempt is not None and not self.attempt.state.closed:
            if kind == "parked":
                self.events.append(("update.parked", True, "judged", self.attempt.state.value))
                return
            self.attempts[-1] = replace(self.attempt, state=State(kind))
            self.events.append((f"update.{kind}", True, "judged", kind))

    def recall(self) -> None:
        if self.attempt is not None and self.attempt.state in (State.OFFERED, State.DOWNLOADING):
            self.attempts[-1] = replace(self.attempt, state=State.RECALLED)
            self.events.append(("update.recalled", True, "test", "recalled"))


@dataclass
class Database:
    """The same history next to the rows."""

    connection: asyncpg.Connection[Any]
    world: World
    at: datetime = EPOCH
    said: list[Observation] = field(default_factory=list)

    def observation(self, say: Say) -> Observation:
        if say.again is not None and say.again < len(self.said):
            return self.said[-1 - say.again]
        self.at += timedelta(seconds=say.seconds)
        observation = Observation(
            event_id=uuid.uuid5(NODE, str(len(self.said))),
            kind=say.kind,
            source=say.source,
            node_id=NODE,
            application_id=self.world.application_id,
            machine_id="m",
            version=say.version,
            boot_id=say.boot,
            at=self.at,
            error_code=say.code,
        )
        self.said.append(observation)
        return observation

    async def grant(self, node: NodeRow | None, boot: str | None) -> str:
        rows = await self.connection.fetch(
            "SELECT status FROM fleet.grant_v2($1, (SELECT policy_version FROM control.global_gate), $2, $3, $4, $5, "
            "$6, $7, $8, ARRAY[NULL]::text[])",
            self.world.rollout_id,
            [NODE],
            [uuid.uuid4()],
            [uuid.uuid4().hex],
            [uuid.uuid4()],
            [node.version if node else FROM],
            [boot or (node.boot_id if node else "a")],
            [self.at],
        )
        return rows[0][0]

    async def close(self, kind: str) -> None:
        await self.connection.execute(
            "SELECT fleet.close_v1(array_agg(attempt_id), ARRAY[$1], ARRAY['judged'], ARRAY[gen_random_uuid()], "
            "'analysis') FROM fleet.attempts WHERE closed_at IS NULL AND NOT (parked AND $1 = 'parked') "
            "HAVING count(*) = 1",
            kind,
        )

    async def recall(self) -> None:
        await self.connection.execute("SELECT fleet.recall_v1($1, 'test', 'control')", self.world.changeset_id)

    async def lift(self) -> None:
        await self.connection.execute("DELETE FROM fleet.quarantine")

    async def picture(self) -> dict[str, Any]:
        """Everything that must not depend on how a history was cut into calls."""
        fetch = self.connection.fetch
        return {
            "nodes": await fetch(
                "SELECT version, boot_id, boot_seen_at, former_boot_ids, cloned, last_contact_at FROM fleet.nodes"
            ),
            "attempts": await fetch(
                "SELECT state, parked, boot_id, from_version, reason, error_code, awaited_at, closed_at IS NULL AS "
                "open, CASE WHEN changed_at < $1 THEN changed_at END AS moved_at FROM fleet.attempts "
                "ORDER BY 1, 2, 3, 4, 5, 7",
                LONG_AGO,
            ),
            "quarantine": await fetch("SELECT node_id, changeset_id, reason FROM fleet.quarantine"),
            "events": await fetch(
                "SELECT type, source, subject, CASE WHEN occurred_at < $1 THEN occurred_at END AS occurred_at, "
                "data - 'attempt_id' AS data FROM event_log.inbox WHERE type NOT LIKE 'rollout.%' ORDER BY position",
                LONG_AGO,
            ),
        }


@pytest.fixture
async def rules(pool) -> AsyncIterator[tuple[asyncpg.Connection[Any], World]]:
    async with pool.acquire() as connection:
        world = await make_world(connection, version=TO, pace=5, policy={"retry_after_s": 0, "max_attempts": 100})
        yield connection, world


@contextlib.asynccontextmanager
async def undone(connection: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def run_both(database: Database, history: Sequence[Step]) -> Model:
    """Run a history on both; what each call answers must agree."""
    model = Model()
    parked = False
    for step in history:
        match step:
            case Say():
                observation = database.observation(step)
                model.report(observation)
                [outcome] = await record(database.connection, [observation], awaited_every=AWAITED_EVERY)
                attempt = model.attempt
                assert outcome.status.value == model.statuses[-1], (step, outcome)
                assert outcome.state == (attempt.state.value if attempt else None), (step, outcome)
                assert outcome.cloned == (model.node is not None and model.node.cloned)
            case Grant():
                node = model.node
                assert await database.grant(node, step.boot) == model.grant(step.boot)
            case Close():
                # What is parked is not parked again; moving on from waiting ends it.
                parked = bool(await database.connection.fetchval("SELECT bool_or(parked) FROM fleet.attempts"))
                if not (step.kind == "parked" and parked):
                    model.close(step.kind)
                await database.close(step.kind)
            case Recall():
                model.recall()
                await database.recall()
            case Lift():
                model.quarantined = False
                await database.lift()
    return model


async def assert_agreement(database: Database, model: Model) -> None:
    connection = database.connection
    node = await connection.fetchrow("SELECT * FROM fleet.nodes")
    if model.node is None:
        assert node is None
    else:
        assert node is not None
        assert (
            NodeRow(
                version=node["version"],
                boot_id=node["boot_id"],
                boot_seen_at=node["boot_seen_at"],
                former_boot_ids=tuple(node["former_boot_ids"]),
                cloned=node["cloned"],
            )
            == model.node
        )
    rows = await connection.fetch("SELECT * FROM fleet.attempts")
    found = [
        AttemptRow(
            state=State(row["state"]),
            from_version=row["from_version"],
            to_version=row["to_version"],
            boot_id=row["boot_id"],
            awaited_at=row["awaited_at"],
        )
        for row in rows
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, model.attempts))
    assert all((row["closed_at"] is not None) == (State(row["state"]) in CLOSED) for row in rows)
    assert not any(row["parked"] for row in rows if State(row["state"]) in CLOSED)
    assert bool(await connection.fetchval("SELECT count(*) FROM fleet.quarantine")) == model.quarantined
    events = await connection.fetch(
        "SELECT type, data FROM event_log.inbox WHERE type NOT LIKE 'rollout.%' ORDER BY position"
    )
    last = [i for i, e in enumerate(events) if i + 1 == len(events) or e["type"] != "update.booted.v1"]
    assert [
        (
            e["type"].removesuffix(".v1"),
            e["data"].get("applied"),
            e["data"].get("reason"),
            e["data"].get("state_after") if i in last else None,
        )
        for i, e in enumerate(events)
    ] == [(kind, a, r, s if i in last else None) for i, (kind, a, r, s) in enumerate(model.events)]


@HISTORIES
@given(history=histories)
@example(history=[*STAGED, Say(Kind.ROLLED_BACK, boot="b")])
@example(history=[*STAGED, Say(Kind.ROLLED_BACK)])
@example(history=[*STAGED, Say(Kind.POLL, TO, "b"), Say(Kind.POLL, FROM, "c")])
@example(history=[*STAGED, Close("presumed_lost"), Say(Kind.POLL, FROM, "b")])
@example(history=[*STAGED, Close("presumed_lost"), Say(Kind.POLL, TO, "b")])
@example(history=[*STAGED, Say(Kind.POLL), Say(Kind.POLL, seconds=899), Say(Kind.POLL, seconds=1)])
@example(history=[*STAGED, Close("parked"), Say(Kind.POLL), Say(Kind.POLL, TO, "b")])
@example(history=[Say(Kind.POLL, boot="a"), Say(Kind.POLL, boot="b"), Say(Kind.POLL, boot="a"), Grant()])
async def test_the_rule_and_the_rows_agree(rules, history):
    """State, events with their reasons, quarantine, cloned and the node's row, after whatever history."""
    connection, world = rules
    async with undone(connection):
        database = Database(connection, world)
        model = await run_both(database, history)
        for attempt in model.attempts:
            event(attempt.state.value)
        await assert_agreement(database, model)


@settings(HISTORIES, max_examples=100)
@given(history=histories, cuts=st.randoms(use_true_random=False), copies=st.lists(st.integers(0, 30), max_size=6))
async def test_batches_and_copies_change_nothing(rules, history, cuts, copies):
    """The same reports one by one, and in batches with copies of earlier ones among them, give equal rows."""
    connection, world = rules
    # Not the reports' own repetitions: these are what the copies are.
    history = [replace(step, again=None) if isinstance(step, Say) else step for step in history]
    async with undone(connection):
        one_by_one = Database(connection, world)
        model = await run_both(one_by_one, history)
        expected = await one_by_one.picture()
    async with undone(connection):
        batched = Database(connection, world)
        waiting: list[Observation] = []
        replayed = Model()

        async def send() -> None:
            batch = list(waiting)
            for number, place in enumerate(copies):
                if batched.said and number % 2 == place % 2:
                    earlier = [o for o in batched.said if o not in waiting]
                    if earlier:
                        batch.insert(place % (len(batch) + 1), earlier[place % len(earlier)])
                    if waiting:
                        batch.append(waiting[place % len(waiting)])
            if batch:
                outcomes = await record(connection, batch, awaited_every=AWAITED_EVERY)
                assert len(outcomes) == len(batch)
            waiting.clear()

        for step in history:
            if isinstance(step, Say):
                observation = batched.observation(step)
                waiting.append(observation)
                replayed.report(observation)
                if cuts.random() < 0.2:
                    await send()
                continue
            await send()
            match step:
                case Grant():
                    node = replayed.node
                    assert await batched.grant(node, step.boot) == replayed.grant(step.boot)
                case Close():
                    replayed.close(step.kind)
                    await batched.close(step.kind)
                case Recall():
                    replayed.recall()
                    await batched.recall()
                case Lift():
                    replayed.quarantined = False
                    await batched.lift()
        await send()
        assert await batched.picture() == expected
    assert len(model.attempts) == len(replayed.attempts)


async def test_a_grant_that_crosses_with_a_report_takes_the_row_as_it_is(rules):
    """The offer's boot is the one that the decision saw; a node that has rebooted meanwhile has not staged anything."""
    connection, world = rules
    async with undone(connection):
        database = Database(connection, world)
        model = await run_both(
            database, [Say(Kind.POLL), Say(Kind.POLL, boot="b"), Grant(boot="a"), Say(Kind.POLL, boot="b")]
        )
        await assert_agreement(database, model)
    assert model.attempts[0].state is State.FAILED
    assert model.events[-1][2] == "rebooted_before_staged"


async def test_concurrent_batches_on_the_same_nodes_lose_nothing(pool):
    """Overlapping batches in several connections, beside grants and recalls: none fails, each report counts once."""
    async with pool.acquire() as connection:
        world = await make_world(connection, version=TO, pace=1000)
    chance = random.Random(5)
    nodes = [(uuid.uuid5(world.application_id, str(n)), f"m{n}") for n in range(40)]

    def observation(node_id: uuid.UUID, machine_id: str, kind: Kind, number: int) -> Observation:
        return Observation(
            event_id=uuid.uuid5(node_id, f"{kind}{number}"),
            kind=kind,
            source=Source.NATIVE,
            node_id=node_id,
            application_id=world.application_id,
            machine_id=machine_id,
            version=FROM,
            boot_id="a",
            at=EPOCH + timedelta(seconds=number),
        )

    polls = [observation(*node, Kind.POLL, 0) for node in nodes]
    reporters = [FleetReporter(pool, max_batch=20) for _ in range(4)]
    await reporters[0].submit_many(polls[:20])
    await reporters[0].submit_many(polls[20:])

    async def report(reporter: FleetReporter) -> int:
        fresh = 0
        for number in range(1, 9):
            some = chance.sample(nodes, 12)
            outcomes = await reporter.submit_many([observation(*node, Kind.DOWNLOAD_STARTED, number) for node in some])
            fresh += sum(outcome.status.value != "duplicate" for outcome in outcomes)
        return fresh

    async def grant() -> None:
        async with pool.acquire() as connection:
            for _ in range(6):
                some = chance.sample(nodes, 12)
                await connection.fetch(
                    "SELECT * FROM fleet.grant_v2($1, (SELECT policy_version FROM control.global_gate), $2, $3, $4, "
                    "$5, $6, $7, $8, $9)",
                    world.rollout_id,
                    [node_id for node_id, _ in some],
                    [uuid.uuid4() for _ in some],
                    [uuid.uuid4().hex for _ in some],
                    [uuid.uuid4() for _ in some],
                    [FROM for _ in some],
                    ["a" for _ in some],
                    [EPOCH for _ in some],
                    [None for _ in some],
                )

    async def recall() -> None:
        for _ in range(6):
            await pool.execute("SELECT fleet.recall_v1($1, 'test', 'control')", world.changeset_id)

    results = await asyncio.gather(*(report(reporter) for reporter in reporters), grant(), recall(), grant())
    for reporter in reporters:
        await reporter.close()

    fresh = sum(result for result in results if isinstance(result, int))
    seen = await pool.fetchval("SELECT count(*) FROM event_log.seen") - len(nodes)
    recorded = await pool.fetchval("SELECT count(*) FROM event_log.inbox WHERE type = 'update.download_started.v1'")
    open_twice = await pool.fetch(
        "SELECT node_id FROM fleet.attempts WHERE closed_at IS NULL GROUP BY 1 HAVING count(*) > 1"
    )
    assert fresh == seen == recorded
    assert open_twice == []


async def test_a_report_that_cannot_be_stored_fails_alone(pool):
    """A name that no row takes, a text that Postgres cannot hold: their neighbours are recorded all the same."""

    def named(machine_id: str, number: int) -> Observation:
        return Observation(
            event_id=uuid.uuid4(),
            kind=Kind.POLL,
            source=Source.NATIVE,
            node_id=uuid.UUID(int=number),
            application_id=NODE,
            machine_id=machine_id,
            version=FROM,
            boot_id="a",
            at=EPOCH,
        )

    reporter = FleetReporter(pool)
    outcomes = await reporter.submit_many([named("a", 1), named("x" * 129, 2), named("b", 3), named("n\0", 4)])
    alone = await reporter.submit(named("c", 5))
    await reporter.close()

    assert [outcome.status.value for outcome in outcomes] == ["recorded", "refused", "recorded", "refused"]
    assert alone.status.value == "recorded"
    rows = await pool.fetch("SELECT machine_id FROM fleet.nodes ORDER BY 1")
    assert [row[0] for row in rows] == ["a", "b", "c"]
