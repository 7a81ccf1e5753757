"""Promotion evidence: the mirror of what halts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.promotion import THRESHOLD, excluded_rate, ln_e, nodes_needed

rates = st.floats(0.005, 0.5)


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.1, (33, 60, 104)), (0.05, (68, 123, 212)), (0.03, (113, 206, 356)), (0.02, (171, 310, 535))]
)
def test_how_many_nodes_exclude_a_rate_with_none_one_and_three_bad(rate, needed):
    """The table that gates are planned by."""
    assert tuple(nodes_needed(bad, rate) for bad in (0, 1, 3)) == needed


@given(st.integers(0, 20), rates)
def test_nodes_needed_is_the_first_number_that_does(bad, rate):
    """One node less does not."""
    needed = nodes_needed(bad, rate)
    assert needed is not None
    assert ln_e(needed, bad, rate) >= THRESHOLD
    assert needed == bad or ln_e(needed - 1, bad, rate) < THRESHOLD


@given(st.integers(0, 200), st.integers(0, 20), rates)
def test_good_nodes_speak_for_and_bad_ones_against(good, bad, rate):
    """One more of either kind moves the evidence its own way."""
    here = ln_e(good + bad, bad, rate)
    assert ln_e(good + bad + 1, bad, rate) > here
    assert ln_e(good + bad + 1, bad + 1, rate) < here


def test_a_changeset_as_bad_as_the_rate_rarely_passes():
    """The sum over all outcomes of 40 nodes of E' times their chance is at most 1: it is an e-value."""
    rate, nodes = 0.1, 40
    expected = sum(
        math.comb(nodes, bad) * rate**bad * (1 - rate) ** (nodes - bad) * math.exp(ln_e(nodes, bad, rate))
        for bad in range(nodes + 1)
    )
    assert expected == pytest.approx(1.0)


def test_nothing_started_says_nothing():
    """E' is 1."""
    assert ln_e(0, 0, 0.1) == pytest.approx(0.0)


def test_a_fleet_can_be_too_small_for_a_rate():
    """Rather than a number that no fleet has."""
    assert nodes_needed(0, 1e-9) is None


@pytest.mark.parametrize(("started", "bad", "rate"), [(1, 2, 0.1), (1, -1, 0.1), (1, 0, 0.0), (1, 0, 1.0)])
def test_impossible_counts_and_rates_are_refused(started, bad, rate):
    """They are ours to get right."""
    with pytest.raises(ValueError, match=r"must be|cannot be"):
        ln_e(started, bad, rate)


def test_three_good_nodes_exclude_only_rates_above_63_percent():
    """What a soak on few nodes is worth; none says nothing."""
    assert excluded_rate(3) == pytest.approx(0.6316, abs=1e-4)
    assert excluded_rate(1) == pytest.approx(0.95)
    assert excluded_rate(0) == 1.0
