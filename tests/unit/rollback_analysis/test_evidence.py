"""The evidence: published vectors, exact oracles, and the incremental process against the full scan."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollback_analysis.evidence import (
    EvidenceProcess,
    excludes_above,
    grid_for,
    interval,
    ln_e,
    ln_e_scan,
    lower,
    upper,
)


@pytest.mark.parametrize(
    ("n", "k", "expected"),
    [
        (1, 1, 3.289681),
        (2, 2, 7.503408),
        (10, 2, 2.976237),
        (100, 1, -1.527823),
        (100, 5, 2.835080),
        (1000, 10, -4.511362),
        (1000, 30, 10.535561),
        (10000, 100, -32.585747),
    ],
)
def test_simple_form_vectors(n, k, expected):
    """The simple form gives the method's published values at p0 = 1 %."""
    assert ln_e(n, k, 0.01) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("alpha", "table"),
    [
        (
            0.01,
            {
                2: 2,
                5: 3,
                10: 3,
                20: 4,
                50: 5,
                100: 7,
                200: 9,
                500: 15,
                1000: 23,
                2000: 38,
                5000: 81,
                10000: 153,
            },
        ),
        (0.001, {3: 3, 10: 4, 20: 5, 50: 6, 100: 8, 200: 11, 500: 17, 1000: 27, 2000: 41, 5000: 84, 10000: 157}),
    ],
)
def test_bad_outcomes_that_halt(alpha, table):
    """The fewest bad outcomes among n that reach the threshold are those of the method's table."""
    threshold = math.log(1 / alpha)
    assert {n: next(k for k in range(n + 1) if ln_e(n, k, 0.01) >= threshold) for n in table} == table


def test_scan_vector():
    """Fifty clean blocks, then one with eight bad: the restarts see it, at the last prefix."""
    maximum, last = ln_e_scan([(64, 0)] * 50 + [(64, 8)], 0.01, 157)
    assert maximum == pytest.approx(5.593477, abs=5e-7)
    assert maximum == last


def test_nothing_started_says_nothing():
    """Without a start, or with empty blocks alone, ln E is 0."""
    assert ln_e_scan([], 0.01, 10) == (0.0, 0.0)
    assert ln_e(0, 0, 0.01) == pytest.approx(0.0, abs=1e-12)
    assert ln_e_scan([(0, 0)] * 3, 0.01, 10) == pytest.approx((0.0, 0.0), abs=1e-12)
    process = EvidenceProcess(0.01, 10, 64)
    assert (process.maximum, process.last, process.argmax_prefix, process.started, process.bad) == (0.0, 0.0, 0, 0, 0)


def test_maximum_is_over_prefixes():
    """The maximum stays where it was reached, whatever good news follows."""
    blocks = [(16, 4), (16, 0), (16, 0)]
    maximum, last = ln_e_scan(blocks, 0.01, 4)
    assert maximum == ln_e_scan(blocks[:1], 0.01, 4)[1] > last


@pytest.mark.parametrize("p0", [0.0, -0.1, 0.49, 0.6, 1.0, math.nan, math.inf])
def test_p0_without_alternatives_is_refused(p0):
    """An allowed rate that leaves no worse one in the grid is refused."""
    with pytest.raises(ValueError, match="p0"):
        grid_for(p0)


@pytest.mark.parametrize("p0", [1e-6, 0.005, 0.4, 0.489])
def test_p0_bounds_are_usable(p0):
    """Close to its bounds p0 works: weights sum to one, bad outcomes speak against, good ones for the release."""
    grid = grid_for(p0)
    assert math.fsum(map(math.exp, grid.ln_weight)) == pytest.approx(1.0)
    assert all(a > 0 > b for a, b in zip(grid.if_bad, grid.if_good, strict=True))


def test_counts_are_checked():
    """Counts that cannot be are refused by every function."""
    for n, k in [(1, 2), (-1, 0), (5, -1)]:
        with pytest.raises(ValueError, match="bad outcomes"):
            ln_e(n, k, 0.01)
        with pytest.raises(ValueError, match="bad outcomes"):
            ln_e_scan([(n, k)], 0.01, 3)
        with pytest.raises(ValueError, match="bad outcomes"):
            interval(k, n)
        with pytest.raises(ValueError, match="bad outcomes"):
            excludes_above(k, n, 0.5)
    with pytest.raises(ValueError, match="planned"):
        ln_e_scan([], 0.01, 0)
    with pytest.raises(ValueError, match="level"):
        interval(1, 2, level=1.0)
    with pytest.raises(ValueError, match="block must hold"):
        EvidenceProcess(0.01, 3, 0)
    with pytest.raises(ValueError, match="block size"):
        EvidenceProcess(0.01, 3, 4, [(3, 0), (4, 0)])
    with pytest.raises(ValueError, match="block size"):
        EvidenceProcess(0.01, 3, 4, [(5, 0)])
    process = EvidenceProcess(0.01, 3, 4)
    process.add_start()
    process.add_bad(0)
    for block in (-1, 0, 1):
        with pytest.raises(ValueError, match="no start left"):
            process.add_bad(block)


def test_big_counts_stay_finite():
    """Counts of a very large fleet neither overflow nor lose their meaning."""
    assert ln_e(10**9, 10**7, 0.01) < 0
    assert ln_e(10**9, 2 * 10**7, 0.01) > 1e6
    assert all(map(math.isfinite, ln_e_scan([(10**9, 0), (10**9, 10**9)], 0.01, 2)))


def exact_distribution(p0, planned_blocks, block_size, starts, threshold):
    """Probability that the scan ever reaches the threshold, and E[exp(last)], every path counted at rate p0."""
    crossed = 0.0
    states = {(): 1.0}
    for position in range(starts):
        following: dict[tuple[int, ...], float] = {}
        for bads, chance in states.items():
            before = bads if position % block_size else (*bads, 0)
            for bad, share in ((0, 1 - p0), (1, p0)):
                after = (*before[:-1], before[-1] + bad)
                following[after] = following.get(after, 0.0) + chance * share
        states = {}
        newest = position % block_size + 1
        for bads, chance in following.items():
            blocks = [(block_size, bad) for bad in bads[:-1]] + [(newest, bads[-1])]
            if ln_e_scan(blocks, p0, planned_blocks)[0] >= threshold:
                crossed += chance
            else:
                states[bads] = chance
    expected = math.fsum(
        chance * math.exp(ln_e_scan([(block_size, bad) for bad in bads], p0, planned_blocks)[1])
        for bads, chance in states.items()
    )
    return crossed, expected


@pytest.mark.parametrize("planned_blocks", [5, 2])
def test_scan_keeps_its_error_bound_exactly(planned_blocks):
    """Looking after every start, a release at p0 is halted in at most alpha of cases, within and beyond the plan."""
    for alpha in (0.05, 0.2):
        crossed, _ = exact_distribution(0.1, planned_blocks, 3, 15, math.log(1 / alpha))
        assert 0.0 < crossed <= alpha


@pytest.mark.parametrize("planned_blocks", [5, 3, 1])
def test_scan_is_a_fair_game(planned_blocks):
    """The expectation of E at p0 is exactly 1, also after more blocks than were planned."""
    _, expected = exact_distribution(0.1, planned_blocks, 2, 10, math.inf)
    assert expected == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("p0", "alpha"), [(0.01, 0.01), (0.02, 0.05), (0.1, 0.1)])
def test_simple_form_keeps_its_error_bound_exactly(p0, alpha):
    """By dynamic programming over 400 starts, the boundary is crossed at p0 in at most alpha of cases, not in none."""
    threshold = math.log(1 / alpha)
    alive = {0: 1.0}
    crossed = 0.0
    for n in range(1, 401):
        following: dict[int, float] = {}
        for k, chance in alive.items():
            following[k] = following.get(k, 0.0) + chance * (1 - p0)
            following[k + 1] = following.get(k + 1, 0.0) + chance * p0
        alive = {}
        for k, chance in following.items():
            if ln_e(n, k, p0) >= threshold:
                crossed += chance
            else:
                alive[k] = chance
    assert crossed + sum(alive.values()) == pytest.approx(1.0)
    assert alpha / 10 < crossed <= alpha


def test_outcomes_count_alike_within_a_block():
    """Which of a block's nodes went bad first makes no difference."""
    values = set()
    for order in itertools.permutations([0, 0, 1, 2]):
        process = EvidenceProcess(0.02, 5, 3)
        for _ in range(9):
            process.add_start()
        for block in order:
            process.add_bad(block)
        values.add((process.maximum, process.last, process.argmax_prefix))
    assert len(values) == 1


STEPS = st.lists(st.one_of(st.none(), st.none(), st.floats(0, 1, exclude_max=True)), max_size=120)


@given(
    steps=STEPS,
    p0=st.sampled_from([0.001, 0.01, 0.2]),
    planned=st.integers(1, 30),
    size=st.integers(1, 8),
    looks=st.sets(st.integers(0, 119)),
)
def test_incremental_equals_full_scan(steps, p0, planned, size, looks):
    """Whatever the order of starts and bad outcomes, whenever one looks, process and scan are equal bit for bit."""
    process = EvidenceProcess(p0, planned, size)
    for position, step in enumerate(steps):
        before = process.maximum if position in looks else None
        if step is None:
            assert process.add_start() == (process.started - 1) // size
            if before is not None and process.started > 1:
                assert process.maximum <= before + 1e-9
        else:
            open_blocks = [b for b, (started, bad) in enumerate(process.blocks) if bad < started]
            if open_blocks:
                process.add_bad(open_blocks[int(step * len(open_blocks))])
                if before is not None:
                    assert process.maximum >= before - 1e-9
        if position in looks:
            assert (process.maximum, process.last) == ln_e_scan(process.blocks, p0, planned)
    assert (process.maximum, process.last) == ln_e_scan(process.blocks, p0, planned)
    assert process.bad == sum(bad for _, bad in process.blocks)
    restored = EvidenceProcess(p0, planned, size, process.blocks)
    assert (
        restored.maximum,
        restored.last,
        restored.argmax_prefix,
        restored.started,
        restored.blocks,
        restored.p0,
    ) == (
        process.maximum,
        process.last,
        process.argmax_prefix,
        process.started,
        process.blocks,
        p0,
    )
    if process.started:
        assert ln_e_scan(process.blocks[: process.argmax_prefix], p0, planned)[1] == process.maximum


@given(n=st.integers(0, 500), share=st.floats(0, 1), p0=st.floats(0.0005, 0.48))
def test_more_bad_is_more_evidence(n, share, p0):
    """For a fixed number of starts, ln E rises with the bad ones: the bound under any delay rests on this."""
    k = int(share * n)
    if k < n:
        assert ln_e(n, k, p0) < ln_e(n, k + 1, p0)


@pytest.mark.parametrize(
    ("k", "n", "low", "high", "places"),
    [
        (0, 10, 0.0, 30.0, 1),
        (0, 100, 0.0, 4.4, 1),
        (5, 100, 0.9, 14.2, 1),
        (5, 1000, 0.07, 1.6, 1),
        (50, 10000, 0.29, 0.80, 2),
    ],
)
def test_interval_examples(k, n, low, high, places):
    """The interval gives the method's published examples, in percent."""
    lower_end, upper_end = interval(k, n)
    assert round(lower_end * 100, 2 if low < 0.5 else places) == low
    assert round(upper_end * 100, places) == high


def test_interval_without_data_and_at_the_ends():
    """No data excludes nothing; only bad ones, or only good ones, leave that end open."""
    assert interval(0, 0) == (0.0, 1.0)
    assert interval(3, 3)[1] == 1.0
    assert interval(3, 3)[0] > 0.05
    assert interval(0, 3)[0] == 0.0
    assert interval(10**18, 10**18) == pytest.approx((1.0, 1.0))
    assert interval(10**18 - 1, 10**18) == pytest.approx((1.0, 1.0))
    assert not excludes_above(0, 0, 0.99)
    assert excludes_above(0, 0, 1.0)


@given(n=st.integers(0, 10**12), share=st.floats(0, 1), level=st.floats(0.01, 0.9999))
def test_interval_holds_the_observed_rate(n, share, level):
    """The interval is within [0, 1], holds k/n, and its ends are the two functions'."""
    k = min(n, int(share * n))
    low, high = interval(k, n, level)
    assert 0.0 <= low <= high <= 1.0
    assert (low, high) == (lower(k, n, level), upper(k, n, level))
    if n:
        assert low <= k / n <= high


@given(n=st.integers(1, 5000), share=st.floats(0, 1), rate=st.floats(0.0001, 0.9999))
def test_exclusion_agrees_with_the_upper_end(n, share, rate):
    """One evaluation tells on which side of the upper end a rate lies."""
    k = min(n, int(share * n))
    high = upper(k, n)
    if abs(high - rate) > 1e-9:
        assert excludes_above(k, n, rate) == (high < rate)


def test_interval_covers_at_all_times_exactly():
    """By dynamic programming, the true rate is ever outside in at most 5 % of paths over 300 outcomes."""
    rate = 0.05
    alive = {0: 1.0}
    missed = 0.0
    for n in range(1, 301):
        following: dict[int, float] = {}
        for k, chance in alive.items():
            following[k] = following.get(k, 0.0) + chance * (1 - rate)
            following[k + 1] = following.get(k + 1, 0.0) + chance * rate
        alive = {}
        for k, chance in following.items():
            low, high = interval(k, n)
            if low <= rate <= high:
                alive[k] = chance
            else:
                missed += chance
    assert 0.0 < missed <= 0.05
