"""Rollouts that move by themselves: gates, waves, windows, floors, downgrades, drills; what operators do to them."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from services.control.conduct import BeginWave, Move
from services.control.store import Store
from shared.domain.rollout import RolloutState
from shared.domain.waves import position_of
from shared.ids import SystemIds
from shared.testing.clock import ManualClock

HOUR = 3600
SOAK = {"groups": ["canary"], "soak_s": 24 * HOUR, "nodes": 3, "mode": "time"}
PROOF = {"groups": ["canary"], "soak_s": HOUR}


@pytest.fixture
def clock() -> ManualClock:
    """Begins now, since Postgres dates what nodes do."""
    return ManualClock(datetime.now(UTC))


@pytest.fixture
def story(pool, clock, operator, fleet):
    return Story(Store(pool, ids=SystemIds(), clock=clock), pool, clock, operator, fleet)


class Story:
    """A fleet whose time a test moves."""

    def __init__(self, store, pool, clock, operator, fleet) -> None:
        self.store = store
        self.pool = pool
        self.clock = clock
        self.operator = operator
        self.fleet = fleet
        self.nodes: dict[str, list[uuid.UUID]] = {}

    async def group(self, name: str, channel: str, *, nodes: int = 0, version: str = "3033.2.0", **more) -> str:
        """A group with nodes ``<name>-<number>``."""
        group_id = await self.operator.group(name, channel=channel, **more)
        self.nodes[name] = [await self.fleet.node(f"{name}-{number}", group_id, version) for number in range(nodes)]
        return group_id

    async def pass_time(self, **time: float) -> list[object]:
        """Time passes, nodes are heard, and the conductor looks; returns the steps."""
        self.clock.advance(timedelta(**time).total_seconds())
        await self.pool.execute("UPDATE fleet.nodes SET last_contact_at = $1", self.clock.now())
        return await self.conduct()

    async def conduct(self) -> list[object]:
        return [step for _, step in await self.store.rollouts.conduct_all()]

    async def end(self, rollout_id: str, nodes: list[uuid.UUID], state: str = "committed") -> None:
        """Nodes take a rollout, with this outcome, at the test's time."""
        version = (await self.show(rollout_id))["version"]
        for node_id in nodes:
            attempt_id = await self.fleet.attempt(node_id, str(rollout_id), state)
            await self.pool.execute(
                "UPDATE fleet.attempts SET granted_at = $2::timestamptz, "
                "closed_at = CASE WHEN closed_at IS NULL THEN NULL ELSE $2::timestamptz END WHERE attempt_id = $1",
                attempt_id,
                self.clock.now(),
            )
            if state == "committed":
                await self.fleet.runs(node_id, version)

    async def show(self, rollout_id: str) -> dict:
        """As the API shows it, by the test's clock."""
        return await self.store.rollouts.get(uuid.UUID(str(rollout_id)))

    async def states(self, group_id: str) -> list[tuple[str, str, str]]:
        """Version, purpose and state of a group's rollouts, the oldest first."""
        rows = await self.pool.fetch(
            "SELECT c.version, r.purpose, r.state FROM control.rollouts r "
            "JOIN control.changesets c USING (changeset_id) WHERE r.group_id = $1 ORDER BY r.rollout_id",
            uuid.UUID(group_id),
        )
        return [tuple(row) for row in rows]

    async def rollout(self, group_id: str, version: str, purpose: str = "update") -> str:
        return str(
            await self.pool.fetchval(
                "SELECT r.rollout_id FROM control.rollouts r JOIN control.changesets c USING (changeset_id) "
                "WHERE r.group_id = $1 AND c.version = $2 AND r.purpose = $3 ORDER BY r.rollout_id DESC LIMIT 1",
                uuid.UUID(group_id),
                version,
                purpose,
            )
        )


def begun(steps) -> bool:
    return any(isinstance(step, Move) and step.to is RolloutState.RUNNING for step in steps)


async def test_the_story_of_3066(story, operator, events):
    """Alpha is noted, beta soaks on canaries, a fix restarts the soak, stable waits for it and then rolls by itself."""
    channels = {name: await operator.channel(name) for name in ("alpha", "beta", "stable")}
    canary = await story.group("canary", "beta", nodes=4)
    prod = await story.group("prod", "stable", nodes=20, policy={"gates": [SOAK]})

    alpha = await operator.changeset("3066.0.0")
    assert await operator.promote(channels["alpha"], alpha) == []

    beta = await operator.changeset("3066.1.0")
    (on_canaries,) = await operator.promote(channels["beta"], beta)
    assert (await story.show(on_canaries))["state"] == "running"
    await story.end(on_canaries, story.nodes["canary"])
    assert await story.pass_time(hours=10) == [Move(RolloutState.COMPLETED)]

    fix = await operator.changeset("3066.1.1")
    (fixed,) = await operator.promote(channels["beta"], fix)
    assert await story.states(canary) == [
        ("3066.1.0", "update", "superseded"),
        ("3066.1.1", "update", "running"),
    ]
    await story.end(fixed, story.nodes["canary"])

    stable = await operator.changeset("3066.2.0")
    (production,) = await operator.promote(channels["stable"], stable)
    # A day after 3066.1.0 came it is not the fix's day yet.
    await story.pass_time(hours=20)
    waiting = await story.show(production)
    assert (waiting["state"], waiting["standstill"]) == ("waiting_for_gate", "rollout_waiting_for_gate")
    (gate,) = waiting["gates"]
    assert (gate["subject"], gate["committed"], gate["open"]) == ("3066.1.1", 4, False)
    assert waiting["until"] == story.clock.now() + timedelta(hours=4)
    assert "the soak of 3066.1.1 on canary" in waiting["explanation"]

    assert await story.pass_time(hours=3, minutes=59) == []
    steps = await story.pass_time(minutes=1)
    assert begun(steps)
    rolling = await story.show(production)
    assert rolling["state"] == "running"
    assert "4 good nodes exclude only bad rates above 53%" in rolling["reason"]
    # Such a gate says little: one node at a time, until its own evidence widens the pace.
    assert rolling["pace"] == 1
    kinds = await events("rollout.")
    assert kinds.count("rollout.gate_judged.v1") == 2
    assert kinds[-1] == "rollout.started.v1"
    assert await story.states(prod) == [("3066.2.0", "update", "running")]


async def test_a_bad_beta_halts_on_the_canaries_and_production_is_never_touched(story, operator):
    """And its fix supersedes it without an operator; the soak begins anew."""
    channels = {name: await operator.channel(name) for name in ("beta", "stable")}
    canary = await story.group("canary", "beta", nodes=4)
    prod = await story.group("prod", "stable", nodes=20, policy={"gates": [SOAK]})
    bad = await operator.changeset("3066.1.0")
    (on_canaries,) = await operator.promote(channels["beta"], bad)
    await story.end(on_canaries, story.nodes["canary"][:3])
    stable = await operator.changeset("3066.2.0")
    (production,) = await operator.promote(channels["stable"], stable)
    await operator.post(f"/changesets/{bad}/halt", {"reason": "nodes roll back"})
    for _ in range(3):
        await story.pass_time(days=30)
        waiting = await story.show(production)
        assert waiting["state"] == "waiting_for_gate"
        assert "3066.1.0, which is halted" in waiting["explanation"]
    assert await story.states(canary) == [("3066.1.0", "update", "halted")]

    fix = await operator.changeset("3066.1.1")
    (fixed,) = await operator.promote(channels["beta"], fix)
    assert await story.states(canary) == [("3066.1.0", "update", "superseded"), ("3066.1.1", "update", "running")]
    await story.end(fixed, story.nodes["canary"])
    assert not begun(await story.pass_time(hours=23))
    assert begun(await story.pass_time(hours=1))
    exposed = await story.pool.fetchval(
        "SELECT count(*) FROM fleet.attempts WHERE group_id = $1 AND changeset_id = $2", uuid.UUID(prod), uuid.UUID(bad)
    )
    assert exposed == 0


@pytest.mark.parametrize("against", ["held", "braked", "withdrawn"])
async def test_whatever_stands_against_the_changeset_keeps_the_gate_shut(story, operator, against):
    """Held for one segment, braked, withdrawn: production waits, however long the rest soaks."""
    channels = {name: await operator.channel(name) for name in ("beta", "stable")}
    await story.group("canary", "beta", nodes=40)
    await story.group("prod", "stable", nodes=20, policy={"gates": [PROOF]})
    beta = await operator.changeset("3066.1.0")
    (on_canaries,) = await operator.promote(channels["beta"], beta)
    await story.end(on_canaries, story.nodes["canary"])
    stable = await operator.changeset("3066.2.0")
    (production,) = await operator.promote(channels["stable"], stable)
    sql = {
        "held": "SELECT control.hold_segment_v1(gen_random_uuid(), $1, '{\"oem\": \"azure\"}', 'bad', 'ana', NULL, "
        "gen_random_uuid(), 'control')::text",
        "braked": "UPDATE control.changeset_gates SET braked_reason = 'x' WHERE changeset_id = $1 RETURNING pace::text",
        "withdrawn": "SELECT control.withdraw_changeset_v1($1, 'bad', 'ana', gen_random_uuid())::text",
    }[against]
    assert await story.pool.fetchval(sql, uuid.UUID(beta)) is not None
    for _ in range(3):
        assert not begun(await story.pass_time(days=9))
    assert (await story.show(production))["state"] == "waiting_for_gate"
    if against == "held":
        hold_id = await story.pool.fetchval("SELECT hold_id FROM control.holds")
        await story.pool.fetchval(
            "SELECT control.release_hold_v1($1, 'fixed', 'ana', gen_random_uuid(), 'control')", hold_id
        )
        assert begun(await story.conduct())


async def test_a_later_patch_soaks_itself_on_stable_canaries(story, operator):
    """3066.2.1 has no predecessor: the canaries of its own channel speak for it."""
    stable = await operator.channel("stable")
    await story.group("canary", "stable", nodes=35)
    await story.group("prod", "stable", nodes=9, policy={"gates": [PROOF]})
    first, second = await operator.promote(stable, await operator.changeset("3066.2.1"))
    shown = {rollout["group_name"]: rollout for rollout in (await story.show(first), await story.show(second))}
    assert {name: rollout["state"] for name, rollout in shown.items()} == {
        "canary": "running",
        "prod": "waiting_for_gate",
    }
    on_canaries = shown["canary"]["rollout_id"]
    await story.end(on_canaries, story.nodes["canary"][:32])
    assert not begun(await story.pass_time(hours=2))
    assert (
        "1 more good node to exclude a bad rate of 10%"
        in (await story.show(shown["prod"]["rollout_id"]))["explanation"]
    )
    await story.end(on_canaries, story.nodes["canary"][32:34])
    assert begun(await story.conduct())


async def test_evidence_is_by_the_first_attempt_that_started(story, operator):
    """A node that rolled back and took it later is a bad one; one that is silent after its reboot is pending."""
    stable = await operator.channel("stable")
    await story.group("canary", "stable", nodes=5)
    prod = await story.group("prod", "stable", nodes=1, policy={"gates": [SOAK]})
    await operator.promote(stable, await operator.changeset("2.0.0"))
    on_canaries = (await operator.get("/rollouts", active="true"))["items"]
    rollout_id = next(item["rollout_id"] for item in on_canaries if item["group_name"] == "canary")
    nodes = story.nodes["canary"]
    await story.end(rollout_id, [nodes[0]], "rolled_back")
    story.clock.advance(60)
    await story.end(rollout_id, [nodes[0]])
    await story.end(rollout_id, [nodes[1]], "failed")
    await story.end(rollout_id, [nodes[2]], "rebooting")
    await story.end(rollout_id, [nodes[3]], "staged")
    await story.end(rollout_id, [nodes[4]])
    await story.pool.execute(
        "UPDATE fleet.nodes SET last_contact_at = $2 WHERE node_id = $1",
        nodes[3],
        story.clock.now() - timedelta(hours=2),
    )
    (gate,) = (await story.show(await story.rollout(prod, "2.0.0")))["gates"]
    assert (gate["committed"], gate["bad"], gate["pending"]) == (1, 1, 2)
    assert "another changeset: 1 node of canary ended badly with 2.0.0" in gate["waits_for"]


async def test_waves_begin_after_their_soak_when_half_of_the_wave_has_it(story, operator, events):
    """Each lets its share in and no more; the last is followed by completion; it says what it waits for and when."""
    stable = await operator.channel()
    waves = [{"fraction": 0.2, "soak_s": HOUR}, {"fraction": 0.6, "soak_s": HOUR}, {"fraction": 1}]
    group_id = await story.group("all", "stable", nodes=40, version="1.0.0", policy={"waves": waves})
    changeset = await operator.changeset("2.0.0")
    (rollout_id,) = await operator.promote(stable, changeset)
    places = {
        node: position_of(f"all-{number}", uuid.UUID(changeset)) for number, node in enumerate(story.nodes["all"])
    }
    taken: set[uuid.UUID] = set()

    async def take(upto: float) -> None:
        chosen = [node for node, place in places.items() if place < upto and node not in taken]
        taken.update(chosen)
        await story.end(rollout_id, chosen)

    shown = await story.show(rollout_id)
    assert (shown["fraction"], shown["wave"]) == (0.2, 0)
    assert not await story.pass_time(hours=2)
    await take(0.2)
    assert (await story.show(rollout_id))["standstill"] == "wave_done"
    # The soak counts from the wave's beginning, and that is over.
    (step,) = await story.conduct()
    assert (step.wave, step.fraction) == (1, 0.6)
    shown = await story.show(rollout_id)
    assert shown["until"] == story.clock.now() + timedelta(hours=1)
    assert any("the soak of wave 2" in reason for reason in shown["waits_for"])
    await take(0.6)
    assert await story.pass_time(minutes=59) == []
    (step,) = await story.pass_time(minutes=1)
    assert isinstance(step, BeginWave)
    assert step.fraction == 1
    await take(1)
    assert await story.conduct() == [Move(RolloutState.COMPLETED)]
    assert (await events("rollout.wave")) == ["rollout.wave_begun.v1"] * 2
    assert await story.states(group_id) == [("2.0.0", "update", "completed")]


@pytest.mark.parametrize(
    "leaves",
    [
        "UPDATE fleet.nodes SET cloned = true WHERE node_id = $1",
        "UPDATE fleet.nodes SET version = '3.0.0' WHERE node_id = $1",
    ],
)
async def test_a_wave_that_its_last_node_leaves_does_not_soak(story, operator, fleet, leaves):
    """While it soaks nothing begins; once nobody is left in it that the rollout is for, the next one does at once."""
    stable = await operator.channel()
    waves = [{"fraction": 0.5, "soak_s": HOUR}, {"fraction": 1}]
    group_id = await story.group("all", "stable", policy={"waves": waves})
    changeset = await operator.changeset("2.0.0")
    inside, outside = (
        next(name for name in map(str, range(1_000)) if (position_of(name, uuid.UUID(changeset)) < 0.5) is is_inside)
        for is_inside in (True, False)
    )
    node_id = await fleet.node(inside, group_id, "1.0.0")
    await fleet.node(outside, group_id, "1.0.0")
    await operator.promote(stable, changeset)
    assert await story.pass_time(minutes=1) == []
    await story.pool.execute(leaves, node_id)
    assert [type(step) for step in await story.pass_time(minutes=1)] == [BeginWave]


async def test_no_wave_begins_while_a_segment_is_held(story, operator):
    """It goes on when the hold is released."""
    stable = await operator.channel()
    await story.group(
        "all", "stable", nodes=10, version="1.0.0", policy={"waves": [{"fraction": 0.9}, {"fraction": 1}]}
    )
    changeset = await operator.changeset("2.0.0")
    (rollout_id,) = await operator.promote(stable, changeset)
    hold_id = await story.pool.fetchval(
        "SELECT control.hold_segment_v1(gen_random_uuid(), $1, '{\"oem\": \"azure\"}', 'bad', 'ana', NULL, "
        "gen_random_uuid(), 'control')",
        uuid.UUID(changeset),
    )
    await story.end(rollout_id, story.nodes["all"][:9])
    assert await story.pass_time(minutes=1) == []
    assert (await story.show(rollout_id))["shown"] == "held"
    await story.pool.fetchval("SELECT control.release_hold_v1($1, 'ok', 'ana', gen_random_uuid(), 'control')", hold_id)
    assert [type(step) for step in await story.conduct()] == [BeginWave]


async def test_sites_follow_each_other_in_their_order(story, operator, fleet):
    """The second site begins when nobody of the first is left; then all others."""
    stable = await operator.channel()
    policy = {"order": {"fact": "site", "values": ["fra", "ber"]}}
    group_id = await story.group("all", "stable", policy=policy)
    fra = await fleet.node("fra", group_id, "1.0.0", facts={"site": "fra"})
    ber = await fleet.node("ber", group_id, "1.0.0", facts={"site": "ber"})
    rest = await fleet.node("rest", group_id, "1.0.0")
    (rollout_id,) = await operator.promote(stable, await operator.changeset("2.0.0"))
    stages = []
    for node in (fra, ber, rest):
        assert await story.conduct() == []
        stages.append((await story.show(rollout_id))["order_stage"])
        await story.end(rollout_id, [node])
        steps = await story.conduct()
    assert stages == [0, 1, 2]
    assert steps == [Move(RolloutState.COMPLETED)]


async def test_positions_are_the_same_in_postgres_and_python(pool):
    """To the last bit, whatever a machine calls itself."""
    changeset = uuid.uuid4()
    for machine in ("", "m1", "0123456789abcdef0123456789abcdef", "größe/42", "x" * 128):
        there = await pool.fetchval("SELECT fleet.position_v1($1, $2)", machine, changeset)
        assert there == position_of(machine, changeset)


async def test_a_rollout_waits_for_its_window_and_says_when_it_comes(story, operator, clock):
    """Then it begins by itself."""
    stable = await operator.channel()
    opens = clock.now().replace(minute=0, second=0, microsecond=0) + timedelta(hours=3)
    window = {"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "start": f"{opens:%H:%M}", "length_s": HOUR}
    await story.group("all", "stable", nodes=1, version="1.0.0", policy={"windows": {"weekly": [window]}})
    (rollout_id,) = await operator.promote(stable, await operator.changeset("2.0.0"))
    shown = await story.show(rollout_id)
    assert (shown["state"], shown["starts_at"], shown["until"]) == ("scheduled", opens, opens)
    assert await story.conduct() == []
    assert begun(await story.pass_time(hours=3))
    await story.pass_time(hours=2)
    assert (await story.show(rollout_id))["standstill"] == "window_shut"


async def test_an_approver_lets_a_rollout_go_on(story, operator, events):
    """Once; and not one that needs no approval."""
    stable = await operator.channel()
    group_id = await story.group("all", "stable", nodes=1, version="1.0.0", policy={"approval": True})
    (rollout_id,) = await operator.promote(stable, await operator.changeset("2.0.0"))
    assert (await story.show(rollout_id))["standstill"] == "rollout_waiting_for_approval"
    assert await story.conduct() == []
    for _ in range(2):
        approved = await operator.post(f"/rollouts/{rollout_id}/approve", {"reason": "looks good"})
        assert (approved["state"], approved["approved_by"]) == ("running", "operator")
    assert (await events("rollout.")).count("rollout.approved.v1") == 1
    await operator.ask("PATCH", f"/groups/{group_id}", {"policy": {"approval": None}})
    (other,) = await operator.promote(stable, await operator.changeset("3.0.0"))
    answer = await operator.ask("POST", f"/rollouts/{other}/approve", {"reason": "again"})
    assert "asks for no approval" in answer.refused(409, "conflict")


async def test_a_paused_rollout_that_had_not_begun_waits_again(story, operator):
    """Resuming it opens no gate."""
    stable = await operator.channel()
    await story.group("canary", "stable", nodes=40)
    prod = await story.group("prod", "stable", nodes=1, policy={"gates": [PROOF]})
    await operator.promote(stable, await operator.changeset("2.0.0"))
    rollout_id = await story.rollout(prod, "2.0.0")
    await operator.post(f"/rollouts/{rollout_id}/pause", {"reason": "wait"})
    assert await story.conduct() == []
    resumed = await operator.post(f"/rollouts/{rollout_id}/resume", {"reason": "on"})
    assert resumed["state"] == "waiting_for_gate"


async def test_expediting_relaxes_soak_waves_and_windows_within_bounds(story, operator, events):
    """A tenth of the soak, a quarter of the group, no windows; the nodes that gates ask for stay asked for."""
    stable = await operator.channel()
    await story.group("canary", "stable", nodes=40, version="1.0.0")
    policy = {
        "gates": [{**PROOF, "soak_s": 100 * HOUR}],
        "waves": [{"fraction": 0.01, "soak_s": HOUR}, {"fraction": 1}],
        "windows": {"cron": [{"cron": "0 0 29 2 *", "length_s": HOUR}]},
    }
    # So many that the first wave lets in at least one of them, whatever the changeset is called.
    prod = await story.group("prod", "stable", nodes=80, version="1.0.0", policy=policy)
    await operator.promote(stable, await operator.changeset("2.0.0"))
    rollout_id = await story.rollout(prod, "2.0.0")
    on_canaries = next(
        item["rollout_id"] for item in (await operator.get("/rollouts"))["items"] if item["group_name"] == "canary"
    )
    await story.end(on_canaries, story.nodes["canary"][:20])
    await story.pass_time(hours=11)
    for _ in range(2):
        hasty = await operator.post(f"/rollouts/{rollout_id}/expedite", {"reason": "CVE-2021-44228"})
        assert (hasty["fraction"], hasty["expedited_by"], hasty["state"]) == (0.25, "operator", "waiting_for_gate")
    assert not begun(await story.conduct())
    await story.end(on_canaries, story.nodes["canary"][20:])
    assert begun(await story.conduct())
    # The first wave soaks from the beginning of the rollout, not from when it was hurried.
    shown = await story.show(rollout_id)
    assert shown["wave_since"] == shown["running_since"]
    assert (await events("rollout.")).count("rollout.expedited.v1") == 1


async def test_widening_by_hand_begins_the_next_wave_and_never_shrinks(story, operator):
    """Or lets a given share in; not past a brake, not backwards, not beyond everybody."""
    stable = await operator.channel()
    waves = [{"fraction": 0.1, "soak_s": HOUR}, {"fraction": 0.5, "soak_s": HOUR}, {"fraction": 1}]
    await story.group("all", "stable", nodes=99, version="1.0.0", policy={"waves": waves})
    (rollout_id,) = await operator.promote(stable, await operator.changeset("2.0.0"))
    path = f"/rollouts/{rollout_id}"
    wider = await operator.post(f"{path}/widen", {"reason": "looks fine"})
    assert (wider["fraction"], wider["wave"]) == (0.5, 1)
    answer = await operator.ask("POST", f"{path}/widen", {"reason": "less", "fraction": 0.4})
    assert "let in already" in answer.refused(400, "invalid_input")
    wider = await operator.post(f"{path}/widen", {"reason": "more", "fraction": 0.8})
    assert (wider["fraction"], wider["wave"]) == (0.8, 1)
    await operator.post(f"{path}/pause", {"reason": "look"})
    answer = await operator.ask("POST", f"{path}/widen", {"reason": "more"})
    assert "the rollout is paused" in answer.refused(409, "conflict")
    await operator.post(f"{path}/resume", {"reason": "fine"})
    assert (await operator.post(f"{path}/widen", {"reason": "all"}))["fraction"] == 1
    answer = await operator.ask("POST", f"{path}/widen", {"reason": "more"})
    assert "whole group" in answer.refused(409, "conflict")


async def test_caps_and_exclusions_are_kept_told_and_taken_back(story, operator, events):
    """Each once; of what is over there is nothing to cap."""
    stable = await operator.channel()
    await story.group("all", "stable", nodes=3, version="1.0.0")
    (rollout_id,) = await operator.promote(stable, await operator.changeset("2.0.0"))
    path = f"/rollouts/{rollout_id}"
    for pace in (0, 0, None):
        capped = await operator.post(f"{path}/cap", {"pace": pace, "reason": "slowly"})
        assert capped["pace_cap"] == pace
        assert capped["standstill"] == ("pace_of_group" if pace == 0 else None)
    for verb, count in (("exclude", 1), ("exclude", 1), ("include", 0), ("include", 0)):
        found = await operator.post(f"{path}/{verb}", {"node": "all-1", "reason": "in repair"})
        assert (len(found["excluded"]), found["nodes"]["left"]) == (count, 3 - count)
    answer = await operator.ask("POST", f"{path}/exclude", {"node": "nobody", "reason": "r"})
    answer.refused(404, "not_found")
    await operator.post(f"{path}/abort", {"reason": "enough"})
    (await operator.ask("POST", f"{path}/cap", {"pace": 1, "reason": "r"})).refused(409, "conflict")
    told = [kind for kind in await events("rollout.") if kind in ("rollout.capped.v1", "rollout.node_excluded.v1")]
    assert told == ["rollout.capped.v1"] * 2 + ["rollout.node_excluded.v1"] * 2
    missing = uuid.uuid4()
    for verb in ("approve", "expedite", "widen", "abort"):
        (await operator.ask("POST", f"/rollouts/{missing}/{verb}", {"reason": "r"})).refused(404, "not_found")


async def floor(pool, changeset_id: str) -> None:
    await pool.execute("UPDATE control.changesets SET floor = true WHERE changeset_id = $1", uuid.UUID(changeset_id))


async def test_floors_are_rolled_out_beside_an_update_that_serves(story, operator, pool):
    """Those between the oldest node and the update; for latecomers too; none while the update waits."""
    stable = await operator.channel()
    group_id = await story.group("all", "stable", nodes=1, version="2.0.0", policy={"approval": True})
    for version in ("1.5.0", "2.5.0", "4.0.0"):
        await floor(pool, await operator.changeset(version))
    (rollout_id,) = await operator.promote(stable, await operator.changeset("3.0.0"))
    assert await story.conduct() == []
    await operator.post(f"/rollouts/{rollout_id}/approve", {"reason": "go"})
    await story.conduct()
    assert await story.states(group_id) == [("3.0.0", "update", "running"), ("2.5.0", "floor", "running")]
    await story.end(await story.rollout(group_id, "2.5.0", "floor"), story.nodes["all"])
    assert await story.conduct() == [Move(RolloutState.COMPLETED)]
    await story.end(rollout_id, story.nodes["all"])
    assert await story.conduct() == [Move(RolloutState.COMPLETED)]
    await story.fleet.node("late", group_id, "1.0.0")
    await story.conduct()
    assert await story.states(group_id) == [
        ("3.0.0", "update", "completed"),
        ("2.5.0", "floor", "completed"),
        ("1.5.0", "floor", "running"),
    ]
    # An older update leaves floors that are not on its way.
    (older,) = await operator.promote(stable, await operator.changeset("2.2.0"))
    await operator.post(f"/rollouts/{older}/approve", {"reason": "go"})
    assert {version: state for version, _, state in await story.states(group_id)} == {
        "3.0.0": "superseded",
        "2.5.0": "superseded",
        "1.5.0": "running",
        "2.2.0": "running",
    }


@pytest.mark.parametrize("allowed", [True, False])
async def test_nodes_on_a_withdrawn_changeset_go_back_where_the_policy_says_so(story, operator, pool, allowed):
    """To what the channel had before, as a rollout of its own; off by default."""
    stable = await operator.channel()
    group_id = await story.group("all", "stable", nodes=3, version="2.0.0", policy={"downgrade": allowed})
    await operator.promote(stable, await operator.changeset("2.0.0"))
    await story.conduct()
    bad = await operator.changeset("3.0.0")
    (rollout_id,) = await operator.promote(stable, bad)
    await story.end(rollout_id, story.nodes["all"][:2])
    await pool.fetchval("SELECT control.withdraw_changeset_v1($1, 'bad', 'ana', gen_random_uuid())", uuid.UUID(bad))
    for _ in range(2):
        await story.conduct()
    back = [("2.0.0", "downgrade", "running")] if allowed else []
    assert await story.states(group_id) == [
        ("2.0.0", "update", "superseded"),
        ("3.0.0", "update", "aborted"),
        *back,
    ]
    if allowed:
        down = await story.rollout(group_id, "2.0.0", "downgrade")
        shown = await story.show(down)
        assert (shown["leaves_version"], shown["nodes"]["left"]) == ("3.0.0", 2)
        await story.end(down, story.nodes["all"][:2])
        assert await story.conduct() == [Move(RolloutState.COMPLETED)]


async def test_an_abort_keeps_or_reverts(story, operator):
    """Reverting has to be asked for, allowed, and possible."""
    stable = await operator.channel()
    group_id = await story.group("all", "stable", nodes=3, version="2.0.0")
    (first,) = await operator.promote(stable, await operator.changeset("2.0.0"))
    revert = {"reason": "no", "nodes": "revert"}
    answer = await operator.ask("POST", f"/rollouts/{first}/abort", revert)
    assert "set `downgrade` to true" in answer.refused(409, "conflict")
    assert (await story.show(first))["state"] == "completed"
    await operator.ask("PATCH", f"/groups/{group_id}", {"policy": {"downgrade": True}})
    answer = await operator.ask("POST", f"/rollouts/{first}/abort", revert)
    assert "nothing to go back to" in answer.refused(409, "conflict")
    (second,) = await operator.promote(stable, await operator.changeset("3.0.0"))
    await story.end(second, story.nodes["all"][:1])
    await operator.post(f"/rollouts/{second}/abort", revert)
    assert (await story.states(group_id))[1:] == [("3.0.0", "update", "aborted"), ("2.0.0", "downgrade", "running")]
    (third,) = await operator.promote(stable, await operator.changeset("4.0.0"))
    await operator.post(f"/rollouts/{third}/abort", {"reason": "no"})
    assert (await story.states(group_id))[-1] == ("4.0.0", "update", "aborted")


async def test_a_drill_goes_there_and_back(story, operator):
    """A node on what its group is served goes to the changeset before it and comes back."""
    stable = await operator.channel()
    group_id = await story.group("all", "stable", nodes=2, version="1.0.0")
    path, body = f"/groups/{group_id}/drill", {"node": "all-0", "reason": "monthly"}
    (await operator.ask("POST", path, body)).refused(409, "conflict")
    for version in ("1.0.0", "2.0.0"):
        (rollout_id,) = await operator.promote(stable, await operator.changeset(version))
        await story.end(rollout_id, story.nodes["all"])
        await story.conduct()
    (await operator.ask("POST", path, {**body, "node": "nobody"})).refused(404, "not_found")
    (await operator.ask("POST", f"/groups/{uuid.uuid4()}/drill", body)).refused(404, "not_found")
    there = await operator.post(path, body)
    assert (there["version"], there["leaves_version"], there["only_machines"]) == ("1.0.0", "2.0.0", ["all-0"])
    (await operator.ask("POST", path, body)).refused(409, "conflict")
    assert there["nodes"]["left"] == 1
    await story.end(there["rollout_id"], story.nodes["all"][:1])
    await story.conduct()
    back = await story.rollout(group_id, "2.0.0", "drill")
    shown = await story.show(back)
    assert (shown["state"], shown["leaves_version"], shown["only_machines"]) == ("running", None, ["all-0"])
    await story.end(back, story.nodes["all"][:1])
    assert await story.conduct() == [Move(RolloutState.COMPLETED)]
    assert [purpose for _, purpose, _ in await story.states(group_id)].count("drill") == 2


async def test_a_drill_of_a_node_that_is_behind_comes_back_to_where_it_was(story, operator, fleet):
    """Unless that is no changeset; and not after a bad first leg."""
    stable = await operator.channel()
    group_id = await story.group("all", "stable", nodes=2, version="1.0.0")
    await operator.changeset("1.0.0")
    await operator.promote(stable, await operator.changeset("2.0.0"))
    await fleet.node("odd", group_id, "0.1.0")
    path = f"/groups/{group_id}/drill"
    answer = await operator.ask("POST", path, {"node": "odd", "reason": "r"})
    assert "no way back" in answer.refused(409, "conflict")
    there = await operator.post(path, {"node": "all-0", "reason": "r"})
    assert (there["version"], there["leaves_version"]) == ("2.0.0", None)
    await story.end(there["rollout_id"], story.nodes["all"][:1])
    await story.conduct()
    back = await story.show(await story.rollout(group_id, "1.0.0", "drill"))
    assert (back["state"], back["leaves_version"]) == ("running", "2.0.0")
    other = await operator.post(path, {"node": "all-1", "reason": "r"})
    await story.end(other["rollout_id"], story.nodes["all"][1:], "rolled_back")
    await fleet.quarantine(story.nodes["all"][1], other["changeset_id"])
    await story.conduct()
    assert [state for _, purpose, state in await story.states(group_id) if purpose == "drill"] == [
        "completed",
        "running",
        "completed",
    ]


async def test_a_pinned_group_follows_its_pin_alone(story, operator, pool):
    """Promotions pass it by; its update is the pinned version's, per arch."""
    stable = await operator.channel()
    group_id = await story.group("all", "stable", nodes=1, version="1.0.0")
    two, three = await operator.changeset("2.0.0"), await operator.changeset("3.0.0")
    await operator.promote(stable, two)
    await pool.execute("UPDATE control.groups SET pinned_version = '2.5.0' WHERE group_id = $1", uuid.UUID(group_id))
    assert await operator.promote(stable, three) == []
    pinned = await operator.changeset("2.5.0")
    group = dict(await pool.fetchrow("SELECT * FROM control.groups WHERE group_id = $1", uuid.UUID(group_id)))
    async with pool.acquire() as connection, connection.transaction():
        started = await story.store.rollouts.follow_pin(connection, group, by="ana")
        assert len(started) == 1
        assert await story.store.rollouts.follow_pin(connection, group, by="ana") == []
    assert await story.states(group_id) == [("2.0.0", "update", "superseded"), ("2.5.0", "update", "running")]
    assert (await story.show(started[0]))["changeset_id"] == uuid.UUID(pinned)
    await pool.execute("UPDATE control.groups SET pinned_version = '2.7.0' WHERE group_id = $1", uuid.UUID(group_id))
    assert await story.conduct() == []
    await operator.changeset("2.7.0")
    assert await story.conduct() == [Move(RolloutState.CREATED)]
    assert await story.conduct() == []
    assert (await story.states(group_id))[-1] == ("2.7.0", "update", "running")
    group["pinned_version"] = "9.9.9"
    async with pool.acquire() as connection, connection.transaction():
        assert await story.store.rollouts.follow_pin(connection, group, by="ana") == []
    assert (await story.states(group_id))[-1] == ("2.7.0", "update", "aborted")


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ([{"groups": ["nobody"]}], "which there is not"),
        ([{"groups": ["prod"]}], "waits for the group itself"),
        ([{"groups": ["canary"]}], "3 nodes with arch x86_64 can commit, but to exclude a bad rate of 10% takes 33"),
        ([{"groups": ["canary"], "mode": "time", "nodes": 4}], "it asks for 4"),
        ([{"groups": ["lts"], "mode": "time"}], "more stable"),
    ],
)
async def test_a_gate_that_can_never_open_is_refused_when_it_is_written(story, operator, pool, gates, words):
    """With the group and when its policy changes; nothing is written."""
    for name in ("beta", "stable", "lts"):
        await operator.channel(name)
    await pool.execute("UPDATE control.channels SET position = array_position(ARRAY['beta', 'stable', 'lts'], name)")
    await story.group("canary", "beta", nodes=3)
    await story.group("lts", "lts")
    body = {"application": "os", "name": "prod", "channel": "stable", "policy": {"gates": gates}}
    answer = await operator.ask("POST", "/groups", body)
    assert words in answer.refused(400, "invalid_input")
    group_id = await story.group("prod", "stable")
    answer = await operator.ask("PATCH", f"/groups/{group_id}", {"policy": {"gates": gates}})
    assert words in answer.refused(400, "invalid_input")
    assert (await operator.get(f"/groups/{group_id}"))["policy"] == {}
    fine = [{"groups": ["canary"], "mode": "time", "nodes": 3}]
    await operator.ask("PATCH", f"/groups/{group_id}", {"policy": {"gates": fine}})
    answer = await operator.ask("PATCH", f"/groups/{group_id}", {"policy": {"windows": {"time_zone": "Moon/Base"}}})
    assert "no time zone" in answer.refused(400, "invalid_input")


async def test_two_promotions_at_once_leave_one_update_and_conductors_on_two_replicas_begin_it_once(
    story, operator, pool, clock, events
):
    """Whoever is second supersedes; nobody waits in a ring; nothing begins twice."""
    stable = await operator.channel("stable")
    await story.group("canary", "stable", nodes=3)
    prod = await story.group("prod", "stable", nodes=20, policy={"gates": [SOAK]})
    changesets = [await operator.changeset(version) for version in ("2.0.0", "3.0.0")]
    await asyncio.gather(
        *(
            operator.ask("POST", f"/channels/{stable}/promote", {"changeset": changeset})
            for changeset in changesets * 3
        ),
        *(story.conduct() for _ in range(4)),
    )
    active = (await operator.get("/rollouts", group=prod, active="true"))["items"]
    assert len(active) == 1
    on_canaries = next(
        item for item in (await operator.get("/rollouts", active="true"))["items"] if item["group_name"] == "canary"
    )
    assert on_canaries["changeset_id"] == active[0]["changeset_id"]
    await story.end(on_canaries["rollout_id"], story.nodes["canary"])
    clock.advance(25 * HOUR)
    before = (await events("rollout.")).count("rollout.started.v1")
    replicas = [Store(pool, ids=SystemIds(), clock=clock) for _ in range(4)]
    await asyncio.gather(*(replica.rollouts.conduct_all() for replica in replicas))
    assert (await events("rollout.")).count("rollout.started.v1") == before + 1
    assert (await story.show(active[0]["rollout_id"]))["state"] == "running"


async def test_a_halt_during_a_promotion_leaves_nothing_running(story, operator, pool):
    """However the two meet: what is halted is not served, and what is served is not halted."""
    stable = await operator.channel("stable")
    for number in range(4):
        await story.group(f"g{number}", "stable", nodes=1, version="1.0.0")
    changeset = await operator.changeset("2.0.0")
    await asyncio.gather(
        operator.ask("POST", f"/channels/{stable}/promote", {"changeset": changeset}),
        operator.ask("POST", f"/changesets/{changeset}/halt", {"reason": "stop"}),
        story.conduct(),
    )
    await story.conduct()
    states = {row["state"] for row in await pool.fetch("SELECT state FROM control.rollouts")}
    assert states <= {"halted"}


async def test_a_newer_changeset_supersedes_while_nodes_are_in_flight(story, operator, pool):
    """What is not staged is recalled; what is staged will boot, and is judged with the old changeset."""
    stable = await operator.channel("stable")
    await story.group("all", "stable", nodes=2, version="1.0.0")
    (old,) = await operator.promote(stable, await operator.changeset("2.0.0"))
    offered = await story.fleet.attempt(story.nodes["all"][0], old, "offered")
    staged = await story.fleet.attempt(story.nodes["all"][1], old, "staged")
    await operator.promote(stable, await operator.changeset("3.0.0"))
    states = {row[0]: row[1] for row in await pool.fetch("SELECT attempt_id, state FROM fleet.attempts")}
    assert states == {offered: "recalled", staged: "staged"}
    assert (await story.show(old))["state"] == "superseded"


async def test_a_former_update_serves_until_the_next_one_begins(story, operator):
    """A completed one stays completed while its successor waits for a gate."""
    channels = {name: await operator.channel(name) for name in ("beta", "stable")}
    await story.group("canary", "beta", nodes=3)
    prod = await story.group("prod", "stable", nodes=2, policy={"gates": [SOAK]})
    await operator.promote(channels["beta"], await operator.changeset("3033.1.0"))
    await story.end(
        await story.rollout(str((await operator.get("/groups", name="canary"))["items"][0]["group_id"]), "3033.1.0"),
        story.nodes["canary"],
    )
    await operator.promote(channels["stable"], await operator.changeset("3033.2.0"))
    await story.pass_time(hours=24)
    assert await story.states(prod) == [("3033.2.0", "update", "completed")]
    await operator.promote(channels["stable"], await operator.changeset("3066.2.0"))
    await story.conduct()
    assert await story.states(prod) == [("3033.2.0", "update", "completed"), ("3066.2.0", "update", "waiting_for_gate")]


async def test_the_eta_follows_from_the_rollouts_own_history(story, operator):
    """Half of ten nodes took an hour: another hour; nothing is promised before the first."""
    stable = await operator.channel()
    await story.group("all", "stable", nodes=10, version="1.0.0")
    (rollout_id,) = await operator.promote(stable, await operator.changeset("2.0.0"))
    assert (await story.show(rollout_id))["eta"] is None
    story.clock.advance(HOUR)
    await story.end(rollout_id, story.nodes["all"][:5])
    await story.conduct()
    expected = story.clock.now() + timedelta(hours=1)
    assert abs((await story.show(rollout_id))["eta"] - expected) < timedelta(minutes=1)


async def test_everything_that_is_halted_waits(story, operator):
    """One word stops all: nothing begins meanwhile, and goes on when it is lifted."""
    stable = await operator.channel()
    await story.group("all", "stable", nodes=1, version="1.0.0")
    await operator.post("/halt", {"reason": "storm"})
    (rollout_id,) = await operator.promote(stable, await operator.changeset("2.0.0"))
    assert (await story.show(rollout_id))["state"] == "created"
    assert await story.conduct() == []
    await operator.post("/unhalt", {"reason": "calm"})
    assert begun(await story.conduct())


async def test_an_excluded_nodes_offer_is_taken_back_unless_it_is_staged(story, operator, pool, events):
    """What is staged will boot, and counts."""
    stable = await operator.channel()
    await story.group("all", "stable", nodes=2, version="1.0.0")
    (rollout_id,) = await operator.promote(stable, await operator.changeset("2.0.0"))
    offered = await story.fleet.attempt(story.nodes["all"][0], rollout_id, "downloading")
    staged = await story.fleet.attempt(story.nodes["all"][1], rollout_id, "staged")
    for number in range(2):
        body = {"node": f"all-{number}", "reason": "in repair"}
        await operator.post(f"/rollouts/{rollout_id}/exclude", body)
    states = {row[0]: row[1] for row in await pool.fetch("SELECT attempt_id, state FROM fleet.attempts")}
    assert states == {offered: "recalled", staged: "staged"}
    assert await events("update.") == ["update.recalled.v1"]


async def test_a_rollout_that_cannot_be_judged_does_not_keep_the_others(story, operator, pool):
    """A time zone may vanish from the database of zones; the log says which rollout it is."""
    stable = await operator.channel()
    await operator.post("/halt", {"reason": "wait"})
    for name in ("first", "second"):
        await story.group(name, "stable", nodes=1, version="1.0.0")
    first, second = await operator.promote(stable, await operator.changeset("2.0.0"))
    await pool.execute(
        "UPDATE control.rollouts SET policy = jsonb_set(policy, '{windows,time_zone}', '\"Mars/Base\"') "
        "WHERE rollout_id = $1",
        uuid.UUID(first),
    )
    await operator.post("/unhalt", {"reason": "go"})
    assert begun(await story.conduct())
    assert (await story.show(second))["state"] == "running"
