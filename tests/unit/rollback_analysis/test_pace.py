"""The pace: its formula, its bounds, and when small groups wait."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollback_analysis.evidence import upper
from services.rollback_analysis.pace import (
    RECENT,
    OutcomeWindow,
    default_hold_budget,
    group_hold_budget,
    pace,
    small_group_waits,
)


@pytest.mark.parametrize(
    ("fleet", "expected"), [(0, 10), (300, 10), (20_000, 10), (20_001, 11), (100_000, 50), (1_000_000, 500)]
)
def test_default_hold_budget(fleet, expected):
    """0.05 % of the fleet rounded up, and never below 10."""
    assert default_hold_budget(fleet) == expected


@pytest.mark.parametrize(("size", "expected"), [(0, 1), (19, 1), (20, 1), (40, 2), (199, 9), (200, 10), (10_000, 10)])
def test_group_hold_budget(size, expected):
    """5 % of the group rounded down, at least 1, at most the changeset's."""
    assert group_hold_budget(10, size) == expected


@pytest.mark.parametrize(
    ("limit", "p_upper", "expected"), [(500, 1.0, 10), (500, 0.3, 33), (500, 0.01, 500), (7, 1.0, 7), (0, 0.5, 0)]
)
def test_formula(limit, p_upper, expected):
    """min(F, max(H, floor(H / p_upper))) with H = 10."""
    assert pace(limit, 10, p_upper) == expected


@pytest.mark.parametrize("p_upper", [0.0, -1.0, 1.1, math.nan])
def test_impossible_rates_are_refused(p_upper):
    """A pace is never computed from a rate that cannot be."""
    with pytest.raises(ValueError, match="p_upper"):
        pace(500, 10, p_upper)


@given(limit=st.integers(0, 10**6), hold=st.integers(1, 1000), rates=st.tuples(*[st.floats(1e-9, 1.0)] * 2))
def test_pace_falls_as_the_rate_rises(limit, hold, rates):
    """A worse bound never allows more, and operators' limit always holds."""
    better, worse = sorted(rates)
    assert pace(limit, hold, worse) <= pace(limit, hold, better) <= limit


def test_nothing_known_gives_the_cautious_pace():
    """Without an outcome p_upper is 1."""
    assert OutcomeWindow().p_upper == 1.0


@given(outcomes=st.lists(st.booleans(), max_size=60), scale=st.sampled_from([1, 20]))
def test_p_upper_is_the_greater_of_both_views(outcomes, scale):
    """p_upper is the greater upper end, of all outcomes and of the last 512; restoring the window changes nothing."""
    window = OutcomeWindow()
    told = outcomes * scale
    for bad in told:
        window.add(bad=bad)
    recent = told[-RECENT:]
    expected = max(upper(sum(told), len(told)), upper(sum(recent), len(recent)))
    assert window.p_upper == pytest.approx(expected, abs=1e-12)
    assert (window.closed, window.bad, window.recent) == (len(told), sum(told), tuple(recent))
    assert OutcomeWindow(window.closed, window.bad, window.recent).p_upper == window.p_upper


def test_late_fault_shows_in_the_recent_view():
    """Ten bad of the last hundred raise p_upper although ten thousand good ones went before."""
    window = OutcomeWindow()
    for _ in range(10_000):
        window.add(bad=False)
    before = window.p_upper
    for position in range(100):
        window.add(bad=position % 10 == 0)
    assert window.p_upper == upper(10, RECENT) > 3 * before


def test_good_turned_bad_counts_as_bad():
    """An outcome that worsens later is bad in the counts and among the recent ones."""
    window = OutcomeWindow()
    window.add(bad=False)
    before = window.p_upper
    window.worsen()
    assert (window.closed, window.bad, window.recent) == (1, 1, (False, True))
    assert window.p_upper >= before


@pytest.mark.parametrize(
    ("size", "bad", "elsewhere", "bad_elsewhere", "waits"),
    [
        (64, 5, 0, 0, False),
        (63, 0, 0, 0, False),
        (63, 1, 0, 0, True),
        (63, 1, 50, 0, True),
        (63, 1, 100, 0, False),
        (63, 1, 100, 5, True),
        (63, 1, 1000, 10, False),
    ],
)
def test_small_groups_wait_after_their_first_bad(size, bad, elsewhere, bad_elsewhere, waits):
    """Below 64 nodes one bad outcome brakes, until other groups' outcomes exclude a bad rate above 5 %."""
    assert (
        small_group_waits(group_size=size, bad_here=bad, closed_elsewhere=elsewhere, bad_elsewhere=bad_elsewhere)
        is waits
    )
