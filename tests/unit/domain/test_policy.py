"""What an operator allows, and what a rollout freezes of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.identity import node_id_for
from shared.domain.policy import SMALL_FLEET, Policy, RolloutParameters, freeze
from shared.domain.rollout import ACTIVE, CLOSED, RolloutState, ShownState, event_of, shown
from shared.domain.selector import matches
from shared.domain.waves import Wave
from shared.errors import InvalidInput


def test_deadlines_that_a_healthy_node_cannot_keep_are_refused():
    """Both say what is wanted instead."""
    with pytest.raises(InvalidInput, match="use at least 4050"):
        Policy(contact_overdue_s=4000.0)
    with pytest.raises(InvalidInput, match="at least contact_overdue_s, 5400"):
        Policy(silence_deadline_s=5399.0)
    assert Policy(poll_interval_s=2.0, contact_overdue_s=3.0, silence_deadline_s=3.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"allowed_bad_rate": 0},
        {"allowed_bad_rate": 0.41},
        {"false_halt_chance": 0.3},
        {"concurrency": 0},
        {"poll_interval_s": -1},
        {"max_attempts": 0},
        {"max_attempts": 101},
        {"retry_after_s": 0},
        {"no_such_thing": 1},
        {"poll_interval_s": 2700.0, "contact_overdue_s": 60.0},
    ],
)
def test_what_is_out_of_bounds_is_refused_when_it_is_read(fields):
    """Each field has its bounds, unknown ones are none."""
    with pytest.raises((msgspec.ValidationError, InvalidInput)):
        msgspec.convert(fields, Policy)


def test_the_defaults_by_the_size_of_the_fleet():
    """H = max(10, 0.05 %), F = max(500, 5 %), blocks of 16 below 2,000 nodes."""
    small = freeze(Policy(), fleet_size=300, group_size=300)
    assert (small.hold_budget, small.concurrency, small.block_size, small.planned_blocks) == (10, 500, 16, 19)
    assert (small.group_hold_budget, small.group_concurrency) == (10, 500)
    large = freeze(Policy(), fleet_size=1_000_000, group_size=40)
    assert (large.hold_budget, large.concurrency, large.block_size, large.planned_blocks) == (500, 50_000, 64, 15_625)
    assert (large.group_hold_budget, large.group_concurrency) == (2, 50_000)
    given_ones = freeze(
        Policy(hold_budget=7, concurrency=3, group_concurrency=2, allowed_bad_rate=0.1), fleet_size=10, group_size=10
    )
    assert (given_ones.hold_budget, given_ones.concurrency, given_ones.group_concurrency) == (7, 7, 2)
    assert given_ones.p0 == 0.1


policies = st.builds(
    Policy,
    allowed_bad_rate=st.floats(0.001, 0.4),
    false_halt_chance=st.floats(0.001, 0.2),
    concurrency=st.none() | st.integers(1, 1_000_000),
    hold_budget=st.none() | st.integers(1, 1_000_000),
    group_concurrency=st.none() | st.integers(1, 1_000_000),
)


@settings(deadline=None)
@given(policy=policies, fleet=st.integers(0, 10_000_000), group=st.integers(0, 10_000_000))
def test_what_is_frozen_can_be_judged_by(policy, fleet, group):
    """Whatever the policy and the sizes: every number is one that the analysis takes."""
    frozen = freeze(policy, fleet_size=fleet, group_size=group)
    assert 0 < frozen.p0 <= 0.4
    assert 0 < frozen.alpha < 1
    assert frozen.planned_blocks >= 1
    assert frozen.planned_blocks * frozen.block_size >= fleet
    assert frozen.block_size == (16 if fleet < SMALL_FLEET else 64)
    assert 1 <= frozen.group_hold_budget <= frozen.hold_budget <= frozen.concurrency
    assert frozen.group_concurrency >= 1
    assert frozen.overdue_s <= frozen.silence_s
    assert msgspec.convert(msgspec.to_builtins(frozen), RolloutParameters) == frozen


def test_a_selector_names_known_facts():
    """All of them, and an unknown one matches nothing."""
    assert matches({}, {})
    assert matches({"track": ("a", "b")}, {"track": "b", "oem": "x"})
    assert not matches({"track": ("a",)}, {})
    assert not matches({"track": ("a",)}, {"track": None})
    assert not matches({"track": ("a",), "oem": ("x",)}, {"track": "a", "oem": "y"})


def test_a_node_has_one_id_per_application():
    """The same on every replica."""
    import uuid

    one, two = uuid.UUID(int=1), uuid.UUID(int=2)
    assert node_id_for(one, "m") == node_id_for(one, "m")
    assert len({node_id_for(one, "m"), node_id_for(two, "m"), node_id_for(one, "n")}) == 3


def test_closed_rollouts_stay_closed():
    """And nothing moves to where it is; a completed one is done with waiting, but can still be stopped."""
    for before in RolloutState:
        assert event_of(before, before) is None
        if before in CLOSED:
            assert all(event_of(before, after) is None for after in RolloutState)
    assert {state for state in RolloutState if state.active} == ACTIVE
    assert {state for state in RolloutState if state.serving} == {RolloutState.RUNNING, RolloutState.COMPLETED}
    assert {state for state in RolloutState if not state.active} == CLOSED | {RolloutState.COMPLETED}
    assert event_of(RolloutState.CREATED, RolloutState.RUNNING) == "rollout.started.v1"
    assert event_of(RolloutState.HALTED, RolloutState.RUNNING, has_run=True) == "rollout.resumed.v1"
    assert event_of(RolloutState.PAUSED, RolloutState.RUNNING) == "rollout.started.v1"
    assert event_of(RolloutState.WAITING_FOR_GATE, RolloutState.SCHEDULED) == "rollout.waited.v1"
    assert event_of(RolloutState.SCHEDULED, RolloutState.WAITING_FOR_GATE) is None
    assert event_of(RolloutState.PAUSED, RolloutState.ABORTED) == "rollout.aborted.v1"
    assert event_of(RolloutState.COMPLETED, RolloutState.RUNNING) is None


def test_what_is_shown_of_a_rollout_that_runs():
    """A brake hides a hold, and neither hides what has ended."""
    assert shown(RolloutState.RUNNING, braked=True, held=True) is ShownState.BRAKED
    assert shown(RolloutState.RUNNING, braked=False, held=True) is ShownState.HELD
    for state in RolloutState:
        assert shown(state, braked=False, held=False).value == state.value
        if state is not RolloutState.RUNNING:
            assert shown(state, braked=True, held=True).value == state.value
            assert state.waiting == state.value.startswith(("waiting", "scheduled"))


@pytest.mark.parametrize("fractions", [(0.1, 0.5), (0.5, 0.1, 1.0), (0.1, 0.1, 1.0)])
def test_waves_widen_to_the_whole(fractions):
    """What does not is refused when it is written."""
    with pytest.raises(InvalidInput, match="wider"):
        Policy(waves=tuple(Wave(fraction=fraction) for fraction in fractions))


def test_the_pace_may_be_a_share_of_the_fleet():
    """With a number beside it, the smaller of both holds."""
    assert freeze(Policy(fleet_fraction=0.2), fleet_size=1000, group_size=10).concurrency == 200
    assert freeze(Policy(fleet_fraction=0.2, concurrency=50), fleet_size=1000, group_size=10).concurrency == 50
