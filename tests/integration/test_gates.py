"""The gates that every offer passes, on a real Postgres: check and act are one, each grant with its event."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from shared.db import connect
from shared.domain.observation import Observation, ObservationKind, ObservationSource
from shared.domain.rollout import RolloutState, event_of
from shared.fleet import record
from shared.testing.rollouts import World, make_world

OLD = "3033.2.0"
EXCLUDE_ALL = """
    INSERT INTO control.rollout_exclusions SELECT rollout_id, node_id, 'test', 'test' FROM control.rollouts, fleet.nodes
"""
NUMBERS = itertools.count(1)
DIED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


@pytest.fixture
async def world(pool) -> World:
    async with pool.acquire() as connection:
        return await make_world(connection)


async def enrol(place, world: World, count: int, *, boot: str = "a") -> list[uuid.UUID]:
    """New nodes that have polled once."""
    names = [f"m{next(NUMBERS)}" for _ in range(count)]
    nodes = [uuid.uuid5(world.application_id, name) for name in names]
    await say(place, world, ObservationKind.POLL, nodes, names=names, boot=boot)
    return nodes


async def say(place, world, kind, nodes, *, names=None, version=OLD, boot="a", at=None, facts=None) -> None:
    observations = [
        Observation(
            event_id=uuid.uuid4(),
            kind=kind,
            source=ObservationSource.NATIVE,
            node_id=node,
            application_id=world.application_id,
            machine_id=names[i] if names else str(node),
            version=version,
            boot_id=boot,
            at=at or datetime.now(UTC),
            group_id=world.group_id,
            facts=facts,
        )
        for i, node in enumerate(nodes)
    ]
    if isinstance(place, asyncpg.Pool):
        async with place.acquire() as connection:
            await record(connection, observations)
    else:
        await record(place, observations)


async def ask(
    place, rollout_id: uuid.UUID, nodes: list[uuid.UUID], *, policy_version: int | None = None, boot="a", version=OLD
):
    """Ask for offers, as update_check does; returns (status, attempt id, token) of each."""
    rows = await place.fetch(
        "SELECT status, attempt_id, token FROM fleet.grant_v2($1, coalesce($2, (SELECT policy_version FROM "
        "control.global_gate)), $3, $4, $5, $6, $7, $8, $9, $10) ORDER BY ordinal",
        rollout_id,
        policy_version,
        nodes,
        [uuid.uuid4() for _ in nodes],
        [uuid.uuid4().hex for _ in nodes],
        [uuid.uuid4() for _ in nodes],
        [version] * len(nodes),
        [boot] * len(nodes),
        [datetime.now(UTC)] * len(nodes),
        [None] * len(nodes),
    )
    return [tuple(row) for row in rows]


async def statuses(place, world: World, nodes: list[uuid.UUID], **more) -> list[str]:
    return [row[0] for row in await ask(place, world.rollout_id, nodes, **more)]


async def halt(place, changeset_id: uuid.UUID) -> bool:
    return await place.fetchval(
        "SELECT control.halt_changeset_v1($1, 'test', 'test', '{\"bad\": 3}', gen_random_uuid(), 'analysis')",
        changeset_id,
    )


async def resume(place, changeset_id: uuid.UUID) -> bool:
    return await place.fetchval(
        "SELECT control.resume_changeset_v1($1, 'looked', 'ana', gen_random_uuid())", changeset_id
    )


async def set_pace(place, world: World, pace: int, group_pace: int | None = None) -> None:
    await place.execute(
        "SELECT control.set_pace_v1($1, $2, $3, $4)",
        world.changeset_id,
        pace,
        [world.rollout_id],
        [pace if group_pace is None else group_pace],
    )


async def grants_and_events(pool) -> tuple[int, int]:
    """How many attempts have no event, and how many offers have no attempt."""
    row = await pool.fetchrow(
        "SELECT count(*) FILTER (WHERE i.event_id IS NULL), count(*) FILTER (WHERE a.attempt_id IS NULL) "
        "FROM fleet.attempts a FULL JOIN (SELECT * FROM event_log.inbox WHERE type = 'update.offered.v1') i "
        "ON i.data ->> 'attempt_id' = a.attempt_id::text"
    )
    return tuple(row)


async def types(pool, like: str = "%") -> Counter[str]:
    rows = await pool.fetch("SELECT type, count(*) FROM event_log.inbox WHERE type LIKE $1 GROUP BY 1", like)
    return Counter({row[0]: row[1] for row in rows})


# ---- invariant 1: no grant without its event, no event without its grant


async def test_a_transaction_that_dies_leaves_neither_grant_nor_event(pool, database_url, world):
    """Killed between the grant and the commit; and so for the reports of a batch."""
    nodes = await enrol(pool, world, 5)
    before = await types(pool)
    victim = await connect(database_url, application_name="victim")
    await victim.execute("BEGIN")
    assert await statuses(victim, world, nodes) == ["granted"] * 5
    await say(victim, world, ObservationKind.STAGED, nodes)
    await pool.fetchval("SELECT pg_terminate_backend($1)", victim.get_server_pid())
    with pytest.raises(DIED):
        await victim.execute("COMMIT")
    victim.terminate()

    assert await pool.fetchval("SELECT count(*) FROM fleet.attempts") == 0
    assert await types(pool) == before
    assert await statuses(pool, world, nodes) == ["granted"] * 5
    assert await grants_and_events(pool) == (0, 0)


async def test_connections_that_die_while_they_grant_leave_no_half(pool, database_url, world):
    """Backends are terminated at random moments; afterwards grants and events still agree one to one."""
    await set_pace(pool, world, 1000)
    nodes = await enrol(pool, world, 60)
    granted = asyncio.Event()

    async def grant_until_killed(some: list[uuid.UUID]) -> None:
        connection = await connect(database_url, application_name="granting")
        try:
            for node in some:
                await statuses(connection, world, [node])
                granted.set()
        except DIED:
            pass
        finally:
            connection.terminate()

    async def kill() -> None:
        for _ in range(4):
            for _ in range(3):
                await granted.wait()
                granted.clear()
            await pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'granting' "
                "AND datname = current_database() ORDER BY random() LIMIT 1"
            )

    async with asyncio.timeout(60):
        killer = asyncio.create_task(kill())
        await asyncio.gather(*(grant_until_killed(nodes[i::6]) for i in range(6)))
        killer.cancel()
        await asyncio.gather(killer, return_exceptions=True)

    assert await grants_and_events(pool) == (0, 0)
    assert await pool.fetchval("SELECT count(*) FROM fleet.attempts") > 0


# ---- invariant 2: a halt is the last word


async def test_a_halt_refuses_first_and_repeated_offers_until_it_is_resumed(pool, world):
    """Recalled is what no node has staged; what is staged stays, and counts."""
    asked, staged, fresh = [await enrol(pool, world, 1) for _ in range(3)]
    [(_, attempt, token)] = await ask(pool, world.rollout_id, asked)
    assert await ask(pool, world.rollout_id, asked) == [("repeated", attempt, token)]
    assert await statuses(pool, world, staged) == ["granted"]
    await say(pool, world, ObservationKind.STAGED, staged)

    assert await halt(pool, world.changeset_id)
    assert not await halt(pool, world.changeset_id)

    assert await statuses(pool, world, [*asked, *staged, *fresh]) == ["halted"] * 3
    rows = await pool.fetch("SELECT node_id, state FROM fleet.attempts")
    assert {row[0]: row[1] for row in rows} == {asked[0]: "recalled", staged[0]: "staged"}
    assert await types(pool, "%ed.v1") == Counter(
        {
            "node.enrolled.v1": 3,
            "update.offered.v1": 2,
            "update.staged.v1": 1,
            "changeset.halted.v1": 1,
            "rollout.halted.v1": 1,
            "update.recalled.v1": 1,
        }
    )
    gate = await pool.fetchrow("SELECT * FROM control.changeset_gates")
    assert gate["evidence"] == {"bad": 3}

    await set_pace(pool, world, 400)
    assert await resume(pool, world.changeset_id)
    assert not await resume(pool, world.changeset_id)
    gate = await pool.fetchrow("SELECT * FROM control.changeset_gates")
    assert (gate["state"], gate["evidence"], gate["resumes"], gate["pace"]) == ("open", None, 1, 10)
    assert await statuses(pool, world, fresh, policy_version=1) == ["policy_changed"]
    assert await statuses(pool, world, [*fresh, *asked]) == ["granted", "granted"]


async def test_a_halt_pauses_the_same_versions_other_arch(pool, world):
    """Until an operator looks; another version is left alone."""
    async with pool.acquire() as connection:
        other_arch = await make_world(connection, arch="arm64")
        other_version = await make_world(connection, version="3033.2.9", arch="x86")
    await halt(pool, world.changeset_id)

    rows = await pool.fetch("SELECT rollout_id, state, reason FROM control.rollouts")
    found = {row["rollout_id"]: row["state"] for row in rows}
    assert found == {world.rollout_id: "halted", other_arch.rollout_id: "paused", other_version.rollout_id: "running"}
    assert await statuses(pool, other_arch, await enrol(pool, world, 1)) == ["rollout_paused"]
    assert (
        await pool.fetchval(
            "SELECT state FROM control.changeset_gates WHERE changeset_id = $1", other_arch.changeset_id
        )
        == "open"
    )


@pytest.mark.parametrize(
    ("policy", "named", "told"),
    [
        (None, "", {"severity": "page"}),
        ({"severity": "ticket"}, "Platform", {"severity": "ticket", "owner": "Platform", "contact": "Platform"}),
    ],
)
async def test_a_halted_rollout_says_whom_to_tell_and_how_loudly(pool, policy, named, told):
    """By its own policy; no other move of a rollout does."""
    async with pool.acquire() as connection:
        world = await make_world(connection, policy=policy)
    await pool.execute("UPDATE control.groups SET owner = $1, contact = $1", named)
    name = await pool.fetchval("SELECT name FROM control.groups")
    await halt(pool, world.changeset_id)
    await resume(pool, world.changeset_id)

    rows = await pool.fetch("SELECT type, data FROM event_log.inbox WHERE type LIKE 'rollout.%' ORDER BY position")
    said = {
        row["type"]: {key: row["data"].get(key) for key in ("severity", "group_name", "owner", "contact")}
        for row in rows
    }
    nothing = dict.fromkeys(("severity", "group_name", "owner", "contact"))
    assert said == {
        "rollout.halted.v1": {**nothing, "group_name": name, **told},
        "rollout.resumed.v1": nothing,
    }


async def test_two_archs_that_halt_at_once_do_not_wait_for_each_other(pool, world):
    """Both halts commit, in whatever order."""
    async with pool.acquire() as connection:
        other = await make_world(connection, arch="arm64")

    results = await asyncio.gather(*(halt(pool, one.changeset_id) for one in (world, other) * 4))

    assert sorted(results) == [False] * 6 + [True] * 2
    assert (await types(pool, "rollout.%"))["rollout.halted.v1"] == 2


async def test_a_halt_among_grants_and_resumes_among_grants_deadlock_nobody(pool, world):
    """Every lock is taken in one order, so nobody has to be sacrificed."""
    await set_pace(pool, world, 10_000)
    nodes = await enrol(pool, world, 120)

    async def grant(some: list[uuid.UUID]) -> None:
        for node in some:
            await statuses(pool, world, [node])

    async def toggle() -> None:
        for _ in range(12):
            await halt(pool, world.changeset_id)
            await resume(pool, world.changeset_id)
            await set_pace(pool, world, 10_000)

    await asyncio.gather(toggle(), *(grant(nodes[i::8]) for i in range(8)))

    late = await pool.fetchval(
        "SELECT count(*) FROM (SELECT type, lag(type) OVER (ORDER BY position) AS before FROM event_log.inbox "
        "WHERE type IN ('update.offered.v1', 'changeset.halted.v1', 'changeset.resumed.v1')) AS t "
        "WHERE type = 'update.offered.v1' AND before = 'changeset.halted.v1'"
    )
    assert late == 0
    assert await grants_and_events(pool) == (0, 0)


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("UPDATE control.global_gate SET open = false", "halted_everywhere"),
        ("UPDATE control.changeset_gates SET state = 'suspended'", "suspended"),
        ("UPDATE control.changeset_gates SET state = 'withdrawn'", "withdrawn"),
        ("UPDATE control.changeset_gates SET braked_reason = 'blind'", "braked"),
        ("UPDATE control.groups SET updates_enabled = false", "updates_disabled"),
        ("UPDATE control.rollouts SET state = 'paused'", "rollout_paused"),
        ("UPDATE control.rollouts SET state = 'scheduled'", "rollout_scheduled"),
        ("UPDATE control.rollouts SET state = 'completed', purpose = 'drill'", "rollout_superseded"),
        ("UPDATE control.rollouts SET purpose = 'drill'", "no_rollout"),
        ("UPDATE control.rollouts SET only_machines = '{m0}'", "no_rollout"),
        ("UPDATE control.applications SET observe_only = true", "observe_only"),
        ("UPDATE fleet.nodes SET cloned = true", "cloned"),
        ("DELETE FROM fleet.nodes", "node_unknown"),
        ("UPDATE control.changeset_gates SET pace = 0", "pace"),
        ("UPDATE control.rollouts SET pace = 0", "pace"),
        ("UPDATE control.rollouts SET pace_cap = 0", "pace"),
        (
            EXCLUDE_ALL,
            "excluded",
        ),
    ],
)
async def test_every_refusal_has_its_word(pool, world, statement, status):
    """And leaves nothing behind."""
    nodes = await enrol(pool, world, 2)
    await pool.execute(statement)

    assert await statuses(pool, world, nodes) == [status] * 2
    assert await pool.fetchval("SELECT count(*) FROM fleet.attempts") == 0
    assert (await types(pool))["update.offered.v1"] == 0


async def test_an_unknown_rollout_is_refused(pool, world):
    """Also where its id never existed."""
    nodes = await enrol(pool, world, 1)
    assert [row[0] for row in await ask(pool, uuid.uuid4(), nodes)] == ["rollout_unknown"]


async def test_a_node_that_asks_twice_at_once_gets_one_offer(pool, world):
    """Within one batch and in several."""
    [node] = await enrol(pool, world, 1)
    assert sorted(await statuses(pool, world, [node, node, node])) == ["attempt_open", "attempt_open", "granted"]
    again = await asyncio.gather(*(statuses(pool, world, [node]) for _ in range(5)))
    assert again == [["repeated"]] * 5
    await say(pool, world, ObservationKind.STAGED, [node])
    assert await statuses(pool, world, [node]) == ["attempt_open"]


# ---- invariant 2 again: holds


async def hold(pool, changeset_id: uuid.UUID, segment: dict[str, str]) -> uuid.UUID:
    return await pool.fetchval(
        "SELECT control.hold_segment_v1(gen_random_uuid(), $1, $2, 'hang', 'ana', NULL, gen_random_uuid(), 'control')",
        changeset_id,
        segment,
    )


async def release(pool, hold_id: uuid.UUID) -> bool:
    return await pool.fetchval(
        "SELECT control.release_hold_v1($1, 'repaired', 'ana', gen_random_uuid(), 'control')", hold_id
    )


async def test_a_hold_is_for_who_belongs_to_the_segment_or_does_not_tell(pool, world):
    """What a node tells wins over what was imported; a release lets it go on."""
    fra, lab, silent, imported, moved = await enrol(pool, world, 5)
    await say(pool, world, ObservationKind.POLL, [fra, moved], facts={"site": "fra"})
    await say(pool, world, ObservationKind.POLL, [lab], facts={"site": "lab"})
    await pool.execute(
        """UPDATE fleet.nodes SET imported_facts = '{"site": "lab"}' WHERE node_id = ANY ($1)""", [imported, moved]
    )
    nodes = [fra, lab, silent, imported, moved]
    held = await hold(pool, world.changeset_id, {"site": "fra"})
    assert await hold(pool, world.changeset_id, {"site": "fra"}) == held

    assert await statuses(pool, world, nodes) == ["held", "granted", "held", "granted", "held"]
    assert await statuses(pool, world, nodes) == ["held", "repeated", "held", "repeated", "held"]
    assert await release(pool, held)
    assert not await release(pool, held)
    assert await statuses(pool, world, nodes) == ["granted", "repeated", "granted", "repeated", "granted"]


async def test_a_hold_on_versions_and_pairs_of_facts(pool, world):
    """The version is the one that the node polls with; a pair takes both."""
    fra, lab = await enrol(pool, world, 2)
    await say(pool, world, ObservationKind.POLL, [fra], facts={"site": "fra"})
    await say(pool, world, ObservationKind.POLL, [lab], facts={"site": "lab"})
    other = await hold(pool, world.changeset_id, {"version": "1.0.0", "site": "fra"})
    both = await hold(pool, world.changeset_id, {"version": OLD, "site": "fra"})
    assert await statuses(pool, world, [fra, lab]) == ["held", "granted"]
    assert await release(pool, both)
    assert await statuses(pool, world, [fra, lab]) == ["granted", "repeated"]
    assert await release(pool, other)


async def test_a_hold_recalls_what_its_nodes_have_not_staged(pool, world):
    """The others go on; what is staged boots, and is counted as what will boot a stopped release."""
    fra, staged, lab = await enrol(pool, world, 3)
    await say(pool, world, ObservationKind.POLL, [fra, staged], facts={"site": "fra"})
    await say(pool, world, ObservationKind.POLL, [lab], facts={"site": "lab"})
    assert await statuses(pool, world, [fra, staged, lab]) == ["granted"] * 3
    await say(pool, world, ObservationKind.STAGED, [staged], facts={"site": "fra"})
    stopped = "SELECT node_id, stopped_by, version FROM fleet.staged_but_halted"
    assert await pool.fetch(stopped) == []

    await hold(pool, world.changeset_id, {"site": "fra"})

    rows = await pool.fetch("SELECT node_id, state, reason FROM fleet.attempts")
    assert {row[0]: row[1] for row in rows} == {fra: "recalled", staged: "staged", lab: "offered"}
    assert [row[2] for row in rows if row[0] == fra] == ["segment held"]
    assert (await types(pool, "update.recalled.v1")).total() == 1
    assert [tuple(row) for row in await pool.fetch(stopped)] == [(staged, "held", world.version)]
    await halt(pool, world.changeset_id)
    assert [tuple(row) for row in await pool.fetch(stopped)] == [(staged, "halted", world.version)]
    await say(pool, world, ObservationKind.COMMITTED, [staged], version=world.version, boot="b")
    assert await pool.fetch(stopped) == []


async def test_a_hold_committed_while_200_nodes_ask_lets_none_through_after_it(pool, world):
    """However many ask at once: after the event of the hold there is no offer for what it covers."""
    await set_pace(pool, world, 1000)
    nodes = await enrol(pool, world, 200)
    await say(pool, world, ObservationKind.POLL, nodes, facts={"site": "fra"})
    asked = asyncio.Event()

    async def grant(some: list[uuid.UUID]) -> None:
        for node in some:
            await statuses(pool, world, [node])
            asked.set()

    async def hold_once_some_have_it() -> None:
        await asked.wait()
        await hold(pool, world.changeset_id, {"site": "fra"})

    await asyncio.gather(hold_once_some_have_it(), *(grant(nodes[i::10]) for i in range(10)))

    late = await pool.fetchval(
        "SELECT count(*) FROM event_log.inbox WHERE type = 'update.offered.v1' AND position > "
        "(SELECT position FROM event_log.inbox WHERE type = 'changeset.held.v1')"
    )
    granted = (await types(pool))["update.offered.v1"]
    assert late == 0
    assert 0 < granted < 200
    assert await pool.fetchval("SELECT count(*) FROM fleet.attempts WHERE closed_at IS NULL") == 0
    assert await grants_and_events(pool) == (0, 0)


async def test_a_withdrawal_recalls_too_and_counts_what_is_staged(pool, world):
    """Taken back for good."""
    asked, staged = await enrol(pool, world, 2)
    assert await statuses(pool, world, [asked, staged]) == ["granted"] * 2
    await say(pool, world, ObservationKind.STAGED, [staged])
    assert await pool.fetchval(
        "SELECT control.withdraw_changeset_v1($1, 'bad', 'ana', gen_random_uuid())", world.changeset_id
    )
    assert await statuses(pool, world, [asked, staged]) == ["withdrawn"] * 2
    rows = await pool.fetch("SELECT node_id, state FROM fleet.attempts")
    assert {row[0]: row[1] for row in rows} == {asked: "recalled", staged: "staged"}
    assert await pool.fetchval("SELECT stopped_by FROM fleet.staged_but_halted") == "withdrawn"


EVERYTHING = "SELECT fleet.recall_everything_v1('everything halted', 'control')"


async def halt_everything(place) -> int:
    """As control does it, in one transaction. Returns how many attempts were recalled."""
    async with place.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE control.global_gate SET open = false")
        return await connection.fetchval(EVERYTHING)


async def test_halting_everything_recalls_what_is_not_staged_of_all_changesets(pool, world):
    """It is no evidence and quarantines nobody; what is staged is counted; afterwards nodes are offered it anew."""
    async with pool.acquire() as connection:
        other = await make_world(connection, version="3033.2.9", arch="arm64")
    asked, loading, staged, elsewhere = await enrol(pool, world, 4)
    assert await statuses(pool, world, [asked, loading, staged]) == ["granted"] * 3
    assert await statuses(pool, other, [elsewhere]) == ["granted"]
    await say(pool, world, ObservationKind.DOWNLOAD_STARTED, [loading])
    await say(pool, world, ObservationKind.STAGED, [staged])

    assert await halt_everything(pool) == 3
    assert await pool.fetchval(EVERYTHING) == 0

    rows = await pool.fetch("SELECT node_id, state FROM fleet.attempts")
    found = {row["node_id"]: row["state"] for row in rows}
    assert found == {asked: "recalled", loading: "recalled", elsewhere: "recalled", staged: "staged"}
    told = await pool.fetch("SELECT data FROM event_log.inbox WHERE type = 'update.recalled.v1'")
    assert {(row["data"]["node_id"], row["data"]["reason"], row["data"]["applied"]) for row in told} == {
        (str(node), "everything halted", True) for node in (asked, loading, elsewhere)
    }
    stopped = await pool.fetch("SELECT node_id, stopped_by FROM fleet.staged_but_halted")
    assert [tuple(row) for row in stopped] == [(staged, "halted_everywhere")]
    assert await statuses(pool, world, [asked, staged]) == ["halted_everywhere"] * 2
    assert await pool.fetchval("SELECT count(*) FROM fleet.quarantine") == 0

    await pool.execute("UPDATE control.global_gate SET open = true")
    assert await statuses(pool, world, [asked, loading]) == ["granted"] * 2
    assert await statuses(pool, other, [elsewhere]) == ["granted"]
    assert await pool.fetch("SELECT * FROM fleet.staged_but_halted") == []


async def test_halting_everything_while_nodes_ask_and_report_lets_none_through_after_it(pool, world):
    """Locks are taken in one order, so that nobody has to be sacrificed; no attempt stays open unstaged."""
    await set_pace(pool, world, 1000)
    nodes = await enrol(pool, world, 200)
    asked = asyncio.Event()

    async def grant_and_report(some: list[uuid.UUID]) -> None:
        for node in some:
            await statuses(pool, world, [node])
            asked.set()
            await say(pool, world, ObservationKind.DOWNLOAD_STARTED, [node])

    async def halt_once_some_have_it() -> None:
        await asked.wait()
        await halt_everything(pool)

    await asyncio.gather(halt_once_some_have_it(), *(grant_and_report(nodes[i::10]) for i in range(10)))

    assert await pool.fetchval("SELECT count(*) FROM fleet.attempts WHERE closed_at IS NULL") == 0
    moved = await types(pool, "update.%")
    assert moved["update.recalled.v1"] == moved["update.offered.v1"] > 0
    assert await grants_and_events(pool) == (0, 0)


async def test_an_excluded_node_is_recalled_from_that_rollout_alone(pool, world):
    """And counted where it has staged already."""
    async with pool.acquire() as connection:
        other = await make_world(connection, version="3033.2.9", arch="arm64")
    here, elsewhere, staged = nodes = await enrol(pool, world, 3)
    assert await statuses(pool, world, [here, staged]) == ["granted"] * 2
    assert await statuses(pool, other, [elsewhere]) == ["granted"]
    await say(pool, world, ObservationKind.STAGED, [staged])
    await pool.execute(EXCLUDE_ALL + " WHERE rollout_id = $1", world.rollout_id)
    recall = "SELECT fleet.recall_offer_v1($1, u.id, 'excluded', 'control') FROM unnest($2::uuid[]) AS u(id)"
    assert [row[0] for row in await pool.fetch(recall, world.rollout_id, nodes)] == [True, False, False]
    states = {row[0]: row[1] for row in await pool.fetch("SELECT node_id, state FROM fleet.attempts")}
    assert states == {here: "recalled", elsewhere: "offered", staged: "staged"}
    stopped = await pool.fetch("SELECT node_id, stopped_by FROM fleet.staged_but_halted")
    assert [tuple(row) for row in stopped] == [(staged, "excluded")]


# ---- completed rollouts, drills, failure domains


async def test_a_completed_rollout_serves_until_a_newer_one_does(pool, world):
    """Latecomers are offered what their group has; of floors each its own."""
    await pool.execute("UPDATE control.rollouts SET state = 'completed'")
    first, second, third = await enrol(pool, world, 3)
    assert await statuses(pool, world, [first]) == ["granted"]
    async with pool.acquire() as connection:
        newer = await make_world(connection, version="3033.2.2", state="waiting_for_gate", supersede=False)
    assert await statuses(pool, world, [second]) == ["granted"]
    assert await statuses(pool, newer, [third]) == ["rollout_waiting_for_gate"]
    await move(pool, newer.rollout_id, "running")
    assert await statuses(pool, world, [third]) == ["rollout_superseded"]
    await pool.execute("UPDATE control.rollouts SET purpose = 'floor'")
    assert await statuses(pool, world, [third]) == ["granted"]


async def test_a_drill_is_for_its_machines(pool, world):
    """Nobody else is offered it."""
    one, two = await enrol(pool, world, 2)
    await pool.execute(
        "UPDATE control.rollouts SET purpose = 'drill', "
        "only_machines = ARRAY(SELECT machine_id FROM fleet.nodes WHERE node_id = $1)",
        one,
    )
    assert await statuses(pool, world, [one, two]) == ["granted", "no_rollout"]


async def test_a_downgrade_that_commits_is_a_success(pool, world):
    """The node goes back on purpose: no rollback, no quarantine, not then and not at later polls."""
    nodes = await enrol(pool, world, 1)
    assert await statuses(pool, world, nodes) == ["granted"]
    await say(pool, world, ObservationKind.STAGED, nodes)
    await say(pool, world, ObservationKind.COMMITTED, nodes, version=world.version, boot="b")
    async with pool.acquire() as connection:
        back = await make_world(
            connection, version=OLD, purpose="downgrade", leaves_version=world.version, supersede=False
        )
    [(status, _, _)] = await ask(pool, back.rollout_id, nodes, boot="b", version=world.version)
    assert status == "granted"
    await say(pool, world, ObservationKind.STAGED, nodes, version=world.version, boot="b")
    await say(pool, world, ObservationKind.COMMITTED, nodes, boot="c")
    for boot in ("c", "d", "d"):
        await say(pool, world, ObservationKind.POLL, nodes, boot=boot)

    rows = await pool.fetch("SELECT to_version, state FROM fleet.attempts ORDER BY granted_at")
    assert [tuple(row) for row in rows] == [(world.version, "committed"), (OLD, "committed")]
    assert await pool.fetchval("SELECT count(*) FROM fleet.quarantine") == 0
    assert (await types(pool, "update.%"))["update.rolled_back.v1"] == 0


async def test_a_failure_domain_has_one_node_in_flight(pool):
    """Also within one batch; nodes that do not tell theirs share one; parked and closed attempts make room."""
    async with pool.acquire() as connection:
        world = await make_world(connection, policy={"failure_domain": "rack"}, pace=100)
    a1, a2, b1, b2, none1, none2 = await enrol(pool, world, 6)
    await say(pool, world, ObservationKind.POLL, [a1, a2], facts={"rack": "a"})
    await pool.execute("""UPDATE fleet.nodes SET imported_facts = '{"rack": "b"}' WHERE node_id = ANY ($1)""", [b1, b2])
    nodes = [a1, a2, b1, b2, none1, none2]
    assert await statuses(pool, world, nodes) == ["granted", "failure_domain"] * 3
    assert await statuses(pool, world, nodes) == ["repeated", "failure_domain"] * 3
    await say(pool, world, ObservationKind.STAGED, [a1], facts={"rack": "a"})
    await pool.execute("UPDATE fleet.attempts SET parked = true WHERE node_id = $1", a1)
    await say(pool, world, ObservationKind.FAILED, [b1])
    assert await statuses(pool, world, nodes) == [
        *("attempt_open", "granted"),
        *("retry_later", "granted"),
        *("repeated", "failure_domain"),
    ]


async def test_200_concurrent_nodes_of_8_racks_get_8_grants(pool, database_url):
    """One per rack, however many ask in the same moment, one by one or in batches."""
    async with pool.acquire() as connection:
        world = await make_world(connection, policy={"failure_domain": "rack"}, pace=1000)
    nodes = await enrol(pool, world, 200)
    for rack in range(8):
        await say(pool, world, ObservationKind.POLL, nodes[rack::8], facts={"rack": str(rack)})
    connections = await asyncio.gather(*(connect(database_url, application_name="asks") for _ in range(20)))

    async def ask_for(connection: asyncpg.Connection[Any], some: list[uuid.UUID], size: int) -> list[str]:
        return [
            status
            for start in range(0, len(some), size)
            for status in await statuses(connection, world, some[start : start + size])
        ]

    answers = await asyncio.gather(*(ask_for(c, nodes[i::20], 1 + i % 4) for i, c in enumerate(connections)))
    await asyncio.gather(*(c.close() for c in connections))

    assert Counter(itertools.chain(*answers)) == {"granted": 8, "failure_domain": 192}
    racks = await pool.fetch("SELECT n.facts ->> 'rack' FROM fleet.attempts JOIN fleet.nodes n USING (node_id)")
    assert sorted(row[0] for row in racks) == [str(rack) for rack in range(8)]


# ---- invariant 3: the pace


async def in_flight(pool) -> int:
    return await pool.fetchval("SELECT count(*) FROM fleet.attempts WHERE closed_at IS NULL AND NOT parked")


async def test_200_concurrent_grants_on_connections_of_their_own_keep_the_pace(pool, database_url, world):
    """Ten, however many ask in the same moment."""
    nodes = await enrol(pool, world, 200)
    connections = await asyncio.gather(*(connect(database_url, application_name="asks") for _ in range(40)))

    async def ask_for(connection: asyncpg.Connection[Any], some: list[uuid.UUID]) -> list[str]:
        return [(await statuses(connection, world, [node]))[0] for node in some]

    answers = await asyncio.gather(*(ask_for(c, nodes[i::40]) for i, c in enumerate(connections)))
    await asyncio.gather(*(c.close() for c in connections))

    assert Counter(itertools.chain(*answers)) == {"granted": 10, "pace": 190}
    assert await in_flight(pool) == 10


async def test_a_pace_that_is_lowered_meanwhile_is_kept_from_its_commit_on(pool, world):
    """No offer commits above the pace then in force: seen by counting inside the lock that grants take."""
    await set_pace(pool, world, 100)
    nodes = await enrol(pool, world, 150)
    at_lowering = []

    async def lower() -> None:
        for pace in (60, 40, 20):
            async with pool.acquire() as connection, connection.transaction():
                await set_pace(connection, world, pace)
                at_lowering.append((pace, await in_flight(connection)))

    async def grant(some: list[uuid.UUID]) -> None:
        for node in some:
            await statuses(pool, world, [node])

    await asyncio.gather(*(grant(nodes[i::10]) for i in range(10)), lower())

    last_pace, then = at_lowering[-1]
    assert await in_flight(pool) <= max(last_pace, then)
    assert await statuses(pool, world, await enrol(pool, world, 1)) == ["pace"]


async def test_two_changesets_in_one_group_share_its_pace(pool, world):
    """The group is bound over all its rollouts, the changeset over all its groups."""
    async with pool.acquire() as connection:
        other = await make_world(connection, arch="arm64", pace=50, group_pace=7)
    await set_pace(pool, world, 50, 7)
    nodes = await enrol(pool, world, 60)

    await asyncio.gather(*(statuses(pool, (world, other)[i % 2], [node]) for i, node in enumerate(nodes)))

    rows = await pool.fetch("SELECT changeset_id, count(*) FROM fleet.attempts GROUP BY 1")
    assert sum(row[1] for row in rows) == 7


async def test_one_changeset_in_two_groups_keeps_its_pace(pool, world):
    """The changeset's pace is over all groups that take it."""
    group_id, rollout_id = uuid.uuid4(), uuid.uuid4()
    await pool.execute(
        "INSERT INTO control.groups (group_id, application_id, name, position, channel_name) "
        "VALUES ($1, $2, 'second', 2, 'stable')",
        group_id,
        world.application_id,
    )
    await pool.execute(
        "INSERT INTO control.rollouts (rollout_id, group_id, changeset_id, application_id, arch, state, pace, policy, "
        "parameters) SELECT $1, $2, changeset_id, application_id, arch, state, 100, policy, parameters "
        "FROM control.rollouts WHERE rollout_id = $3",
        rollout_id,
        group_id,
        world.rollout_id,
    )
    nodes = await enrol(pool, world, 40)

    both = (world.rollout_id, rollout_id)
    await asyncio.gather(*(ask(pool, both[i % 2], [node]) for i, node in enumerate(nodes)))

    assert await in_flight(pool) == 10


async def test_parked_attempts_leave_the_pace_and_come_back_with_their_boot(pool, world):
    """Parking makes room; a parked one that boots is in flight again until it is closed."""
    nodes = await enrol(pool, world, 12)
    rows = await ask(pool, world.rollout_id, nodes)
    granted = [node for node, row in zip(nodes, rows, strict=True) if row[0] == "granted"]
    first = rows[nodes.index(granted[0])][1]
    await say(pool, world, ObservationKind.STAGED, granted[:1])

    for _ in range(2):
        await close(pool, [first], "parked")
    assert (await types(pool))["update.parked.v1"] == 1
    assert await in_flight(pool) == 9
    assert sorted(await statuses(pool, world, nodes[10:])) == ["granted", "pace"]
    await say(pool, world, ObservationKind.BOOTED, granted[:1], version=world.version, boot="b")
    assert await in_flight(pool) == 11


async def close(pool, attempts: list[uuid.UUID], kind: str) -> int:
    return await pool.fetchval(
        "SELECT fleet.close_v1($1, $2, $3, $4, 'analysis')",
        attempts,
        [kind] * len(attempts),
        ["judged"] * len(attempts),
        [uuid.uuid4() for _ in attempts],
    )


async def test_a_verdict_on_an_attempt_that_has_closed_meanwhile_changes_nothing(pool, world):
    """Verdicts come from the ledger and are late by nature."""
    nodes = await enrol(pool, world, 3)
    attempts = [row[1] for row in await ask(pool, world.rollout_id, nodes)]
    await say(pool, world, ObservationKind.COMMITTED, nodes[:1], version=world.version, boot="b")

    assert await close(pool, attempts, "presumed_lost") == 2
    assert await close(pool, attempts, "failed") == 0

    rows = await pool.fetch("SELECT attempt_id, state FROM fleet.attempts")
    found = {row[0]: row[1] for row in rows}
    assert [found[attempt] for attempt in attempts] == ["committed", "presumed_lost", "presumed_lost"]
    assert (await types(pool, "update.%"))["update.presumed_lost.v1"] == 2


# ---- invariant 8, and retries


async def test_what_rolled_back_is_not_offered_again_until_it_is_lifted(pool, world):
    """Also not after a resume of the changeset."""
    nodes = await enrol(pool, world, 1)
    await statuses(pool, world, nodes)
    await say(pool, world, ObservationKind.STAGED, nodes)
    await say(pool, world, ObservationKind.ROLLED_BACK, nodes, boot="b")

    assert await statuses(pool, world, nodes, boot="b") == ["quarantined"]
    await halt(pool, world.changeset_id)
    await resume(pool, world.changeset_id)
    assert await statuses(pool, world, nodes, boot="b") == ["quarantined"]
    lift = "SELECT fleet.lift_quarantine_v1($1, $2, 'repaired', 'ana', gen_random_uuid(), 'control')"
    assert await pool.fetchval(lift, nodes[0], world.changeset_id)
    assert not await pool.fetchval(lift, nodes[0], world.changeset_id)
    assert await statuses(pool, world, nodes, boot="b") == ["granted"]


async def test_pauses_after_failures_double_and_end(pool):
    """The first pause is the policy's, each further one twice as long; after max_attempts there is no other."""
    async with pool.acquire() as connection:
        world = await make_world(connection, policy={"retry_after_s": 100, "max_attempts": 3})
    nodes = await enrol(pool, world, 1)
    for pause in (100, 200):
        assert await statuses(pool, world, nodes) == ["granted"]
        await say(pool, world, ObservationKind.FAILED, nodes)
        assert await statuses(pool, world, nodes) == ["retry_later"]
        await age(pool, pause - 5)
        assert await statuses(pool, world, nodes) == ["retry_later"]
        await age(pool, 6)
    assert await statuses(pool, world, nodes) == ["granted"]
    await say(pool, world, ObservationKind.FAILED, nodes)
    await age(pool, 10_000_000)
    assert await statuses(pool, world, nodes) == ["attempts_spent"]


async def age(pool, seconds: float) -> None:
    await pool.execute("UPDATE fleet.attempts SET closed_at = closed_at - $1::interval", timedelta(seconds=seconds))


async def test_a_hundred_failures_overflow_no_clock(pool):
    """The longest pause is bounded: 2 to the power of 99 hours is no interval."""
    async with pool.acquire() as connection:
        world = await make_world(connection, policy={"max_attempts": 100})
    nodes = await enrol(pool, world, 1)
    await statuses(pool, world, nodes)
    await say(pool, world, ObservationKind.FAILED, nodes)
    await pool.execute(
        "INSERT INTO fleet.attempts SELECT gen_random_uuid(), gen_random_uuid()::text, node_id, application_id, "
        "changeset_id, rollout_id, group_id, arch, from_version, to_version, state, parked, boot_id, reason, "
        "error_code, granted_at, changed_at, awaited_at, closed_at FROM fleet.attempts, generate_series(1, 98)"
    )
    assert await statuses(pool, world, nodes) == ["retry_later"]


# ---- rollouts


async def move(pool, rollout_id: uuid.UUID, to: str) -> str | None:
    return await pool.fetchval(
        "SELECT control.transition_rollout_v1($1, $2, 'why', 'ana', gen_random_uuid(), 'control')", rollout_id, to
    )


async def test_a_rollout_moves_as_the_table_says(pool, world):
    """Every pair of states: what is allowed makes its event, what is not changes nothing."""
    for before, after, has_run in itertools.product(RolloutState, RolloutState, (False, True)):
        await pool.execute(
            "UPDATE control.rollouts SET state = $1, running_since = CASE WHEN $2 THEN now() END", before.value, has_run
        )
        await pool.execute("DELETE FROM event_log.inbox")

        answer = await move(pool, world.rollout_id, after.value)

        state = await pool.fetchval("SELECT state FROM control.rollouts")
        rows = await pool.fetch("SELECT type, data FROM event_log.inbox")
        expected = event_of(before, after, has_run=has_run)
        assert (before, after, answer) == (before, after, before.value if expected else None)
        assert state == (after if expected else before).value
        assert [row["type"] for row in rows] == ([expected] if expected else [])
        if rows:
            data = rows[0]["data"]
            assert (data["state_before"], data["state_after"]) == (before.value, after.value)
    assert await move(pool, uuid.uuid4(), "paused") is None
    assert await move(pool, world.rollout_id, "nonsense") is None


async def test_an_aborted_rollout_takes_its_offers_back(pool, world):
    """Only its own: the other group's go on."""
    nodes = await enrol(pool, world, 2)
    await statuses(pool, world, nodes)
    await pool.execute("UPDATE fleet.attempts SET rollout_id = gen_random_uuid() WHERE node_id = $1", nodes[1])

    assert await move(pool, world.rollout_id, "aborted") == "running"

    rows = await pool.fetch("SELECT node_id, state FROM fleet.attempts")
    assert {row[0]: row[1] for row in rows} == {nodes[0]: "recalled", nodes[1]: "offered"}


# ---- contacts


async def contact(pool, nodes, *, boots=None, versions=None, at=None, answers=None) -> dict[uuid.UUID, bool]:
    rows = await pool.fetch(
        "SELECT node_id, known FROM fleet.contact_v2($1, $2, $3, $4, $5, $6, '15 min')",
        nodes,
        [None] * len(nodes),
        versions or [OLD] * len(nodes),
        boots or ["a"] * len(nodes),
        [at or datetime.now(UTC)] * len(nodes),
        answers or [None] * len(nodes),
    )
    return {row[0]: row[1] for row in rows}


async def test_contacts_hand_back_what_disagrees(pool, world):
    """Unknown, rebooted, another version, an attempt that learns from it: these are reports. The rest is an update."""
    now = datetime.now(UTC)
    plain, rebooted, changed, waiting, unstaged = await enrol(pool, world, 5)
    await statuses(pool, world, [waiting, unstaged])
    await say(pool, world, ObservationKind.STAGED, [waiting])
    unknown = uuid.uuid4()
    nodes = [plain, rebooted, changed, waiting, unstaged, unknown]
    later = now + timedelta(hours=1)

    disagreeing = await contact(
        pool, nodes, boots=["a", "b", "a", "a", "a", "a"], versions=[OLD, OLD, "9.9.9", OLD, OLD, OLD], at=later
    )

    assert disagreeing == {rebooted: True, changed: True, waiting: True, unknown: False}
    assert await pool.fetchval("SELECT count(*) FROM fleet.nodes WHERE last_contact_at = $1", later) == 5


async def test_what_a_poll_was_answered_is_kept_with_the_node(pool, world):
    """The last answer, by the time of the poll; a mere ping changes none; a grant writes its own."""
    one, two, three = await enrol(pool, world, 3)
    now = datetime.now(UTC)
    await contact(pool, [one, two], at=now, answers=["wave", "up_to_date"])
    await contact(pool, [one], at=now - timedelta(minutes=1), answers=["group_pace"])
    await contact(pool, [two], at=now + timedelta(minutes=1))
    assert await statuses(pool, world, [three]) == ["granted"]

    rows = await pool.fetch("SELECT node_id, last_answer, last_answer_at FROM fleet.nodes")
    assert {row[0]: row[1] for row in rows} == {one: "wave", two: "up_to_date", three: "granted"}
    assert {row[2] for row in rows if row[0] in (one, two)} == {now}
    await contact(pool, [one], boots=["b"], at=now + timedelta(minutes=2), answers=["window_closed"])
    assert await pool.fetchval("SELECT last_answer FROM fleet.nodes WHERE node_id = $1", one) == "window_closed"


async def test_expected_contacts_follow_the_groups_poll_interval(pool):
    """Per site, of nodes heard within a day that are not updating; counted anew after half a minute."""
    async with pool.acquire() as connection:
        world = await make_world(connection, policy={"poll_interval_s": 100})
    east = await enrol(pool, world, 4)
    await enrol(pool, world, 2)
    await say(pool, world, ObservationKind.POLL, east, facts={"site": "east"})
    await statuses(pool, world, east[:1])
    await pool.execute("UPDATE fleet.nodes SET last_contact_at = now() - interval '2 days' WHERE node_id = $1", east[1])

    async def expected() -> dict[str, float]:
        return {row[0]: row[1] for row in await pool.fetch("SELECT * FROM fleet.expected_contacts_v1(50)")}

    assert await expected() == pytest.approx({"east": 2 / 100 * 50, "": 2 / 100 * 50})
    await enrol(pool, world, 10)
    assert await expected() == pytest.approx({"east": 1.0, "": 1.0})
    await pool.execute("UPDATE fleet.idle_estimates SET estimated_at = now() - interval '1 min'")
    assert await expected() == pytest.approx({"east": 1.0, "": 6.0})
