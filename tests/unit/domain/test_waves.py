"""Waves: who is in one, and when the next one begins."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.waves import Wave, WaveProgress, eligible, position_of, wave_after, wave_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHANGESET = uuid.UUID("0191a000-0000-7000-8000-000000000001")
WAVES = (Wave(fraction=0.01, soak_s=3600), Wave(fraction=0.25, soak_s=600), Wave(fraction=1))
fractions = st.floats(0, 1, allow_nan=False)
machine_ids = st.text(min_size=1, max_size=40)


def progress(**changed):
    """Ten minutes short of nothing: a wave of 10 nodes, half committed, soaked."""
    return WaveProgress(
        **{
            "wave": 0,
            "since": NOW - timedelta(hours=1),
            "nodes": 1000,
            "wave_nodes": 10,
            "wave_committed": 5,
            "committed": True,
            **changed,
        }
    )


@given(st.lists(machine_ids, max_size=50), fractions, fractions, st.uuids())
def test_eligible_nodes_stay_eligible_and_each_comes_with_its_own_wave(machines, one, other, changeset):
    """A wider share holds the narrower one; who is added stands between the two shares; 0 is nobody, 1 everybody."""
    narrow, wide = sorted((one, other))
    positions = [position_of(machine, changeset) for machine in machines]
    before = {i for i, position in enumerate(positions) if eligible(position, narrow)}
    after = {i for i, position in enumerate(positions) if eligible(position, wide)}
    assert before <= after
    assert all(narrow <= positions[i] < wide for i in after - before)
    assert not any(eligible(position, 0.0) for position in positions)
    assert all(eligible(position, 1.0) for position in positions)


@given(st.integers(0, 2**32))
def test_a_share_of_a_large_group_is_about_that_share(seed):
    """Of 2,000 nodes a tenth is 200, give or take six standard deviations: no wave lets in more than its share."""
    positions = [position_of(f"{seed}-{number}", CHANGESET) for number in range(2000)]
    assert abs(sum(eligible(position, 0.1) for position in positions) - 200) < 6 * (2000 * 0.1 * 0.9) ** 0.5


def test_each_changeset_has_an_order_of_its_own():
    """The same nodes are not always first."""
    machines = [f"{number:032x}" for number in range(1000)]
    first = {m for m in machines if eligible(position_of(m, CHANGESET), 0.1)}
    other = {m for m in machines if eligible(position_of(m, uuid.UUID(int=CHANGESET.int + 1)), 0.1)}
    assert len(first & other) < 40
    assert position_of(machines[0], CHANGESET) == position_of(machines[0], CHANGESET)


def test_the_position_of_a_machine_never_changes():
    """Postgres has the same; a fleet must not be shuffled by an update of ours."""
    assert position_of("0123456789abcdef0123456789abcdef", CHANGESET) == pytest.approx(0.6687662837490445, abs=0)


def test_a_wave_that_soaked_with_half_its_nodes_committed_ends():
    """All three conditions hold, on the second."""
    assert wave_after(WAVES, progress(), NOW).following == 1
    assert wave_after(WAVES, progress(wave=1), NOW).following == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"since": NOW - timedelta(minutes=59)}, "the soak of wave 1"),
        ({"committed": False}, "a first node of the rollout"),
        ({"wave_committed": 4}, "1 more of the wave's 10 nodes"),
        ({"wave_nodes": 0, "nodes": 0, "wave_committed": 0}, "1 more of the wave's 0 nodes"),
    ],
)
def test_each_condition_keeps_a_wave(changed, words):
    """And is named."""
    verdict = wave_after(WAVES, progress(**changed), NOW)
    assert verdict.following is None
    assert any(words in reason for reason in verdict.waits_for)
    assert verdict.until == (NOW + timedelta(minutes=1) if "since" in changed else None)


def test_nodes_that_had_it_before_count():
    """A wave whose nodes all run the version needs no commit of this rollout."""
    assert wave_after(WAVES, progress(committed=False, wave_committed=10), NOW).following == 1


def test_a_wave_without_nodes_is_passed_and_the_last_one_is_not():
    """One percent of ten nodes may be nobody; after the last wave there is none."""
    assert wave_after(WAVES, progress(wave_nodes=0, wave_committed=0, committed=False), NOW).following == 1
    assert wave_after(WAVES, progress(wave=2), NOW).following is None
    assert wave_after((), progress(), NOW).following is None


def test_an_expedited_rollout_soaks_for_a_share_of_the_time():
    """But still waits for commits."""
    early = progress(since=NOW - timedelta(minutes=6))
    assert wave_after(WAVES, early, NOW).following is None
    assert wave_after(WAVES, early, NOW, soak_share=0.1).following == 1


def test_a_fraction_belongs_to_the_last_wave_that_is_not_wider():
    """As an operator widens by hand."""
    assert [wave_of(WAVES, fraction) for fraction in (0.0, 0.01, 0.2, 0.25, 0.9, 1.0)] == [0, 0, 0, 1, 1, 2]
    assert wave_of((), 1.0) == 0
