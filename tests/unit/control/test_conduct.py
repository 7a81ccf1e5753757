"""What a rollout does next by itself."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.completion import Remainder
from services.control.conduct import (
    BeginStage,
    BeginWave,
    History,
    Move,
    Situation,
    conduct,
    eta,
    first_fraction,
    next_state,
    parameters_for,
    policy_for,
    rate_window,
    soak_left_s,
    soak_share,
    wave_verdict,
    windows_matter,
)
from services.control.standstill import Standstill, explain, waiting
from shared.domain.gate import Gate, GateEvidence, GateMode, GateVerdict, Standing, judge
from shared.domain.policy import Expedition, Order, Policy, freeze
from shared.domain.rollout import Purpose, RolloutState, event_of
from shared.domain.waves import Wave, WaveProgress, WaveVerdict
from shared.domain.windows import Opening, Windows

NOW = datetime(2021, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
OPEN = Opening(open=True, until=None, next_at=None, reason="open")
SHUT = Opening(open=False, until=None, next_at=NOW + HOUR, reason="outside every change window")
GATE = Gate(groups=("canary",))
WAVES = (Wave(fraction=0.1, soak_s=3600), Wave(fraction=0.5, soak_s=600), Wave(fraction=1))
DONE = Remainder(left=False, in_flight=False, committed=True, on_target=True)
WAITS = (RolloutState.WAITING_FOR_GATE, RolloutState.WAITING_FOR_APPROVAL, RolloutState.SCHEDULED)


def verdict(committed: int = 40, *, hours: int = 48, standing: Standing = Standing.CLEAR) -> GateVerdict:
    """Of a gate whose canaries committed so long ago."""
    seen = GateEvidence(
        subject="3066.1.1", standing=standing, committed=committed, first_committed_at=NOW - hours * HOUR
    )
    return judge(GATE, seen, NOW)


def situation(state: RolloutState = RolloutState.CREATED, **changed) -> Situation:
    """Nothing in the way."""
    return Situation(
        **{
            "state": state,
            "purpose": Purpose.UPDATE,
            "policy": Policy(),
            "everything_open": True,
            "changeset_open": True,
            "braked": False,
            "held": False,
            "opening": OPEN,
            "fraction": 1.0,
            "order_stage": 0,
            **changed,
        }
    )


def in_wave(number: int = 0, **changed) -> WaveProgress:
    """A wave that is through."""
    return WaveProgress(
        **{
            "wave": number,
            "since": NOW - HOUR,
            "nodes": 100,
            "wave_nodes": 10,
            "wave_committed": 8,
            "committed": True,
            **changed,
        }
    )


def test_with_nothing_to_wait_for_it_begins_at_once():
    """Without a reason of its own."""
    assert conduct(situation(), NOW) == Move(RolloutState.RUNNING)


@pytest.mark.parametrize(
    ("changed", "to", "words"),
    [
        ({"gates": (verdict(3), verdict())}, RolloutState.WAITING_FOR_GATE, "30 more good nodes"),
        ({"policy": Policy(approval=True)}, RolloutState.WAITING_FOR_APPROVAL, "an approver"),
        ({"opening": SHUT}, RolloutState.SCHEDULED, "outside every change window"),
        ({"policy": Policy(approval=True), "approved": True}, RolloutState.RUNNING, ""),
        ({"gates": (verdict(),)}, RolloutState.RUNNING, "excludes a bad rate of 10% or more"),
        ({"opening": SHUT, "expedited": True}, RolloutState.RUNNING, ""),
    ],
)
def test_it_waits_for_the_first_thing_that_is_in_its_way(changed, to, words):
    """A gate before an approval before its time."""
    step = conduct(situation(**changed), NOW)
    assert step.to is to
    assert words in (step.reason or "")


def test_an_expedition_that_may_not_skip_windows_waits_for_them():
    """As its policy says."""
    policy = Policy(expedition=Expedition(skip_windows=False))
    assert conduct(situation(policy=policy, opening=SHUT, expedited=True), NOW).to is RolloutState.SCHEDULED
    assert not windows_matter(Policy(), expedited=True)


situations = st.builds(
    situation,
    st.sampled_from(RolloutState),
    purpose=st.sampled_from(Purpose),
    policy=st.builds(
        Policy,
        approval=st.booleans(),
        waves=st.sampled_from([(), WAVES]),
        order=st.sampled_from([None, Order(fact="site", values=("fra", "ber"))]),
    ),
    everything_open=st.booleans(),
    changeset_open=st.booleans(),
    braked=st.booleans(),
    held=st.booleans(),
    opening=st.sampled_from([OPEN, SHUT]),
    fraction=st.sampled_from([0.1, 0.5, 1.0]),
    order_stage=st.integers(0, 2),
    gates=st.lists(
        st.builds(verdict, st.integers(0, 60), hours=st.integers(0, 48), standing=st.sampled_from(Standing)), max_size=2
    ).map(tuple),
    approved=st.booleans(),
    expedited=st.booleans(),
    wave=st.one_of(
        st.none(),
        st.builds(
            in_wave,
            st.integers(0, 1),
            wave_committed=st.integers(0, 10),
            committed=st.booleans(),
            since=st.sampled_from([NOW, NOW - HOUR]),
        ),
    ),
    stage_left=st.one_of(st.none(), st.integers(0, 2)),
    remainder=st.one_of(
        st.none(),
        st.builds(
            Remainder, left=st.booleans(), in_flight=st.booleans(), committed=st.booleans(), on_target=st.booleans()
        ),
    ),
)


@given(situations)
def test_every_step_is_one_that_the_transition_table_allows(here):
    """And nothing closed, paused or halted moves by itself."""
    step = conduct(here, NOW)
    if isinstance(step, Move):
        assert event_of(here.state, step.to) is not None
    if here.state not in {RolloutState.CREATED, *WAITS, RolloutState.RUNNING}:
        assert step is None


@given(situations)
def test_nothing_begins_through_a_gate_that_is_shut_or_while_its_changeset_is(here):
    """Whatever else is so."""
    step = conduct(here, NOW)
    if here.state is not RolloutState.RUNNING and step == Move(RolloutState.RUNNING, getattr(step, "reason", None)):
        assert all(gate.open for gate in here.gates)
        assert here.everything_open
        assert here.changeset_open
        assert here.approved or not here.policy.approval


@given(situations)
def test_nothing_widens_while_something_stands_against_the_changeset(here):
    """Halted, braked or held: no wave and no stage begins; and a share never shrinks."""
    step = conduct(here, NOW)
    if isinstance(step, BeginWave | BeginStage):
        assert not here.stands
    if isinstance(step, BeginWave):
        assert step.fraction >= here.fraction
        assert step.fraction == max(here.fraction, here.policy.waves[step.wave].fraction)
    if isinstance(step, BeginStage):
        assert step.stage == here.order_stage + 1


@given(situations)
def test_steps_come_to_an_end(here):
    """A rollout that waits gets to rest after at most three moves, wherever it starts."""
    for _ in range(4):
        step = conduct(here, NOW)
        if not isinstance(step, Move) or step.to is RolloutState.COMPLETED:
            return
        here = replace(here, state=step.to)
    pytest.fail(f"still moving: {here}")


def test_an_approval_that_came_early_counts_when_the_gate_opens():
    """The rollout does not wait twice."""
    early = situation(RolloutState.WAITING_FOR_GATE, policy=Policy(approval=True), approved=True, gates=(verdict(),))
    assert conduct(early, NOW).to is RolloutState.RUNNING
    assert conduct(replace(early, gates=(verdict(3),)), NOW) is None


def test_a_gate_that_shuts_again_keeps_what_waits_behind_it():
    """It waits where it stands."""
    approved = situation(RolloutState.WAITING_FOR_APPROVAL, policy=Policy(approval=True), approved=True)
    assert conduct(replace(approved, gates=(verdict(standing=Standing.HALTED),)), NOW) is None


def test_waves_begin_one_after_the_other():
    """Each with its share of the group, and said why."""
    running = situation(RolloutState.RUNNING, policy=Policy(waves=WAVES), fraction=0.1, wave=in_wave())
    assert conduct(running, NOW) == BeginWave(1, 0.5, "8 of 10 nodes of the wave run it, after a soak of 3600 s")
    soaking = replace(running, wave=in_wave(since=NOW))
    assert conduct(soaking, NOW) is None
    assert wave_verdict(soaking, NOW).until == NOW + HOUR
    assert conduct(replace(running, wave=in_wave(1)), NOW).fraction == 1
    assert wave_verdict(replace(running, wave=None), NOW) == WaveVerdict()
    assert conduct(replace(running, fraction=0.7), NOW).fraction == 0.7


def test_stages_of_an_order_follow_each_other():
    """When nobody of the stage is left; after the last value come all other nodes."""
    order = Order(fact="site", values=("fra", "ber"))
    running = situation(RolloutState.RUNNING, policy=Policy(order=order), stage_left=0)
    assert conduct(running, NOW) == BeginStage(1, "no node with site fra is left")
    assert conduct(replace(running, stage_left=1), NOW) is None
    assert conduct(replace(running, stage_left=1, remainder=DONE), NOW) is None
    assert conduct(replace(running, order_stage=2, remainder=DONE), NOW) == Move(RolloutState.COMPLETED)


def test_a_rollout_is_complete_when_the_whole_group_was_let_in_and_nothing_is_left():
    """Not in a wave before."""
    running = situation(RolloutState.RUNNING, remainder=DONE)
    assert conduct(running, NOW) == Move(RolloutState.COMPLETED)
    assert conduct(replace(running, fraction=0.5), NOW) is None
    nobody = Remainder(left=False, in_flight=False, committed=False, on_target=False)
    assert conduct(replace(running, remainder=nobody), NOW) is None
    assert conduct(replace(running, remainder=nobody, purpose=Purpose.FLOOR), NOW) == Move(RolloutState.COMPLETED)
    assert conduct(replace(running, remainder=replace(nobody, left=True), purpose=Purpose.DRILL), NOW) is None


def test_policies_by_purpose():
    """Floors and downgrades wait for no gate, drills for nothing."""
    policy = Policy(
        gates=(GATE,),
        approval=True,
        waves=WAVES,
        order=Order(fact="site", values=("fra",)),
        windows=Windows(must_fit=True),
    )
    assert policy_for(Purpose.UPDATE, policy) is policy
    floor = policy_for(Purpose.FLOOR, policy)
    assert (floor.gates, floor.approval, floor.waves) == ((), False, WAVES)
    down = policy_for(Purpose.DOWNGRADE, policy)
    assert (down.gates, down.approval) == ((), True)
    drill = policy_for(Purpose.DRILL, policy)
    assert (drill.gates, drill.approval, drill.waves, drill.order, drill.windows) == ((), False, (), None, Windows())


def test_behind_a_gate_that_goes_by_time_a_rollout_starts_with_one_node():
    """Such a gate says little."""
    frozen = freeze(Policy(), fleet_size=5000, group_size=1000)
    assert frozen.group_hold_budget > 1
    by_time = Policy(gates=(msgspec.structs.replace(GATE, mode=GateMode.TIME),))
    assert parameters_for(by_time, frozen).group_hold_budget == 1
    assert parameters_for(Policy(gates=(GATE,)), frozen) is frozen


def test_an_expedited_rollout_soaks_less_and_begins_wider_within_bounds():
    """The bounds were set beforehand."""
    policy = Policy(waves=WAVES, expedition=Expedition(soak_share=0.5, first_fraction=0.3))
    assert (soak_share(policy, expedited=False), soak_share(policy, expedited=True)) == (1.0, 0.5)
    assert (first_fraction(policy, expedited=False), first_fraction(policy, expedited=True)) == (0.1, 0.3)
    assert first_fraction(Policy(), expedited=False) == 1.0
    half = situation(
        RolloutState.RUNNING, policy=policy, fraction=0.3, wave=in_wave(since=NOW - HOUR / 2), expedited=True
    )
    assert conduct(half, NOW).wave == 1
    assert conduct(replace(half, expedited=False), NOW) is None


def test_when_it_will_be_done_is_told_from_how_it_went_lately():
    """Ten in the last hour and twenty to come: two hours; never before its soaks."""
    history = History(running_since=NOW - 2 * HOUR, committed=50, committed_lately=10, left=20)
    assert eta(history, NOW) == NOW + 2 * HOUR
    assert eta(replace(history, soak_left_s=86_400), NOW) == NOW + 24 * HOUR
    assert eta(replace(history, left=0, soak_left_s=60), NOW) == NOW + timedelta(minutes=1)
    assert eta(replace(history, committed_lately=0), NOW) is None
    assert rate_window(NOW - 40 * HOUR, NOW) == 10 * HOUR
    assert rate_window(NOW - HOUR / 2, NOW) == HOUR / 2
    assert rate_window(NOW + HOUR, NOW) == timedelta(seconds=1)


def test_soaks_that_are_still_to_come():
    """The one that runs, as far as it is not over, and those after it; the last wave has none to wait for."""
    policy = Policy(waves=WAVES)
    assert soak_left_s(policy, 0, NOW, NOW, expedited=False) == 4200
    assert soak_left_s(policy, 0, NOW - HOUR / 2, NOW, expedited=False) == 2400
    assert soak_left_s(policy, 0, NOW - 9 * HOUR, NOW, expedited=False) == 600
    assert soak_left_s(policy, 2, NOW, NOW, expedited=False) == 0
    assert soak_left_s(policy, 0, None, NOW, expedited=True) == 420
    assert soak_left_s(Policy(), 0, NOW, NOW, expedited=False) == 0


@pytest.mark.parametrize(
    ("here", "why", "words", "until"),
    [
        (
            situation(RolloutState.WAITING_FOR_GATE, gates=(verdict(3, hours=23),)),
            "rollout_waiting_for_gate",
            "soak",
            NOW + HOUR,
        ),
        (
            situation(RolloutState.WAITING_FOR_APPROVAL, policy=Policy(approval=True)),
            "rollout_waiting_for_approval",
            "approver",
            None,
        ),
        (situation(RolloutState.SCHEDULED, opening=SHUT), "rollout_scheduled", "outside", NOW + HOUR),
        (situation(RolloutState.RUNNING, opening=SHUT), "window_shut", "outside", NOW + HOUR),
        (
            situation(RolloutState.RUNNING, policy=Policy(waves=WAVES), wave=in_wave(since=NOW)),
            "wave_done",
            "the soak of wave 1",
            NOW + HOUR,
        ),
    ],
)
def test_what_it_waits_for_is_said_in_words_and_until_when(here, why, words, until):
    """In the API and the CLI."""
    reason = Standstill(why)
    found = waiting(reason, here, wave_verdict(here, NOW), NOW)
    assert any(words in said for said in found.waits_for)
    assert found.until == until
    assert words in explain(reason, found)


def test_what_waits_for_nothing_says_nothing():
    """Neither does what is over."""
    nothing = waiting(None, situation(RolloutState.CREATED), WaveVerdict(), NOW)
    assert (nothing.waits_for, nothing.until) == ((), None)
    assert waiting(Standstill.ROLLOUT_PAUSED, situation(RolloutState.PAUSED), WaveVerdict(), NOW) == nothing
    assert "served" in explain(Standstill.ROLLOUT_COMPLETED, nothing)
    past = WaveVerdict(waits_for=("x",), until=NOW - HOUR)
    assert waiting(None, situation(RolloutState.RUNNING), past, NOW).until is None


def test_next_state_names_everything_that_keeps_a_gate_shut():
    """Of every gate that is."""
    _, reason = next_state(situation(gates=(verdict(3), verdict(standing=Standing.HELD))))
    assert reason.startswith("waits for ")
    assert "held for a segment" in reason
    assert [state for state, _ in itertools.groupby(WAITS)] == list(WAITS)
