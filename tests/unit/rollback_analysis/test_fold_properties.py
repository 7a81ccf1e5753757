"""The fold on arbitrary histories: equal replays, restores at any point, nothing counted twice."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta

import orjson
from hypothesis import given
from hypothesis import strategies as st

from services.rollback_analysis.evidence import ln_e_scan
from services.rollback_analysis.fold import Fold
from services.rollback_analysis.fold_input import (
    VERSION_REGRESSED,
    ChangesetHalted,
    ChangesetResumed,
    LimitsChanged,
    NodeGone,
    Parameters,
    RolloutCreated,
    RolloutEnd,
    RolloutEnded,
    RolloutResumed,
    Ticked,
    UpdateKind,
    UpdateObserved,
)
from services.rollback_analysis.fold_rows import AttemptRow, ChangesetRow, FoldRow
from services.rollback_analysis.verdicts import Expire, Halt, Park, verdict_bytes

START = datetime(2026, 1, 1, tzinfo=UTC)
# Short deadlines, so that few ticks pass all of them.
PARAMETERS = Parameters(
    p0=0.05,
    block_size=3,
    planned_blocks=4,
    hold_budget=3,
    pace_limit=30,
    overdue_s=30.0,
    silence_s=45.0,
    offer_deadline_s=60.0,
    park_after_s=20.0,
    outage_grace_s=70.0,
)

CHANGESETS = st.sampled_from(["c", "d"])
ROLLOUTS = st.sampled_from(["r", "q"])


def observed(kinds):
    return st.builds(
        lambda kind, node, retry, changeset, rollout, applied, reason: UpdateObserved(
            kind=kind,
            attempt_id=None if retry == 2 else f"{changeset}-{node}-{retry}",
            node_id=str(node),
            changeset_id=changeset,
            rollout_id=rollout,
            group_id=f"g-{rollout}",
            applied=applied,
            reason=reason,
        ),
        kinds,
        st.integers(0, 12),
        st.sampled_from([0, 0, 0, 0, 1, 2]),
        CHANGESETS,
        ROLLOUTS,
        st.sampled_from([True, True, True, False]),
        st.sampled_from([None, None, VERSION_REGRESSED]),
    )


CREATED = st.builds(
    lambda changeset, rollout, size: RolloutCreated(
        rollout_id=rollout,
        changeset_id=changeset,
        group_id=f"g-{rollout}",
        group_size=size,
        group_pace_limit=20,
        parameters=PARAMETERS,
    ),
    CHANGESETS,
    ROLLOUTS,
    st.sampled_from([5, 20, 100]),
)
TICKED = st.builds(
    lambda contacts, expected, lag: Ticked(contacts=contacts, expected=expected, ingest_lag_s=lag),
    st.dictionaries(st.sampled_from("st"), st.integers(0, 30), max_size=2),
    st.dictionaries(st.sampled_from("st"), st.floats(0, 60), max_size=2),
    st.sampled_from([0.0] * 9 + [16.0]),
)
OPERATED = st.one_of(
    st.builds(ChangesetHalted, changeset_id=CHANGESETS),
    st.builds(ChangesetResumed, changeset_id=CHANGESETS),
    st.builds(RolloutEnded, changeset_id=CHANGESETS, rollout_id=ROLLOUTS, how=st.sampled_from(RolloutEnd)),
    st.builds(RolloutResumed, changeset_id=CHANGESETS, rollout_id=ROLLOUTS),
    st.builds(
        LimitsChanged,
        changeset_id=CHANGESETS,
        rollout_id=ROLLOUTS,
        pace_limit=st.none() | st.integers(0, 50),
        group_size=st.none() | st.integers(1, 200),
    ),
    st.builds(NodeGone, node_id=st.integers(0, 12).map(str)),
)
USUAL = st.sampled_from([UpdateKind.OFFERED, UpdateKind.STAGED, UpdateKind.BOOTED, UpdateKind.COMMITTED])
EVENTS = st.one_of(observed(USUAL), observed(st.sampled_from(UpdateKind)), TICKED, OPERATED, CREATED)
WAITED = st.integers(1, 6).map(lambda ticks: [(10.0, Ticked(contacts={}, expected={}))] * ticks)
# Two nodes roll back, and an operator lets the changeset go on.
OVERRULED = st.builds(
    lambda changeset: (
        [
            (
                0.0,
                UpdateObserved(
                    kind=UpdateKind.ROLLED_BACK,
                    attempt_id=f"{changeset}-{node}-0",
                    node_id=str(node),
                    changeset_id=changeset,
                    rollout_id="r",
                    group_id="g-r",
                ),
            )
            for node in range(10, 13)
        ]
        + [(0.0, ChangesetResumed(changeset_id=changeset))]
    ),
    CHANGESETS,
)
STEPS = st.one_of(
    st.tuples(st.sampled_from([1.0, 5.0, 10.0, 10.0, 30.0, 100.0]), EVENTS).map(lambda step: [step]),
    st.lists(st.tuples(st.just(0.0), observed(USUAL)), min_size=1, max_size=10),
    WAITED,
    WAITED,
    OVERRULED,
    TICKED.map(lambda ticked: [(10.0, ticked)]),
)
HISTORIES = st.builds(
    lambda begin, steps: [(1.0, created) for created in begin] + [event for step in steps for event in step],
    st.lists(CREATED, min_size=1, max_size=3),
    st.lists(STEPS, min_size=5, max_size=24),
)


class Stored:
    """The rows as tables would hold them, through JSON and back."""

    def __init__(self) -> None:
        self.fold = None
        self.changesets = {}
        self.attempts = {}

    def write(self, changes):
        if changes.fold is not None:
            self.fold = orjson.dumps(changes.fold)
        self.changesets.update({row.changeset_id: orjson.dumps(row) for row in changes.changesets})
        self.attempts.update({row.attempt_id: orjson.dumps(row) for row in changes.attempts})

    def restored(self):
        return Fold.restore(
            FoldRow(**orjson.loads(self.fold)),
            [ChangesetRow(**orjson.loads(raw)) for raw in reversed(self.changesets.values())],
            [AttemptRow(**orjson.loads(raw)) for raw in reversed(self.attempts.values())],
        )


def run(history, *, restore_after=frozenset()):
    fold, stored, at, verdicts = Fold(), Stored(), START, []
    for seq, (gap, data) in enumerate(history, start=1):
        at += timedelta(seconds=gap)
        verdicts += fold.apply(seq, at, "event", data)
        if seq in restore_after:
            stored.write(fold.take_changes())
            fold = stored.restored()
    return fold, verdicts


@given(history=HISTORIES)
def test_replay_gives_equal_verdicts(history):
    """The same events give the same bytes."""
    assert [verdict_bytes(v) for v in run(history)[1]] == [verdict_bytes(v) for v in run(history)[1]]


@given(history=HISTORIES, points=st.sets(st.integers(1, 120), max_size=6))
def test_restore_at_any_point_changes_nothing(history, points):
    """Writing the changed rows and restoring from them, anywhere and repeatedly, gives the verdicts of one long run."""
    fold, verdicts = run(history)
    other, others = run(history, restore_after=points)
    assert [verdict_bytes(v) for v in others] == [verdict_bytes(v) for v in verdicts]
    assert orjson.dumps(other.snapshot(), option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        fold.snapshot(), option=orjson.OPT_SORT_KEYS
    )


@given(history=HISTORIES)
def test_told_twice_counts_once(history):
    """An update event that is told again at once, under a new seq, changes no verdict and no row."""
    # Without an id the second telling may fall to another attempt, which the first has made known.
    once = [(g, d) for g, d in history if not isinstance(d, UpdateObserved) or d.attempt_id is not None]
    twice = [
        entry
        for gap, data in once
        for entry in ([(gap, data), (0.0, data)] if isinstance(data, UpdateObserved) else [(gap, data)])
    ]
    fold, verdicts = run(once)
    other, others = run(twice)

    def without_seq(verdict):
        plain = orjson.loads(verdict_bytes(verdict))
        plain.get("evidence", {}).pop("deciding_seq", None)
        return {**plain, "seq": 0}

    assert list(map(without_seq, others)) == list(map(without_seq, verdicts))
    assert fold.snapshot().attempts == other.snapshot().attempts


@given(history=HISTORIES)
def test_the_books_balance(history):
    """All along counts add up, blocks agree with them, halts alternate with resumes, nothing closes twice."""
    fold, at, closed, parked = Fold(), START, Counter(), Counter()
    started_before = Counter()
    for seq, (gap, data) in enumerate(history, start=1):
        at += timedelta(seconds=gap)
        halted_before = {name: fold.halted(name) for name in fold.changeset_ids}
        for verdict in fold.apply(seq, at, "event", data):
            if isinstance(verdict, Halt):
                assert not halted_before[verdict.changeset_id]
                assert fold.halted(verdict.changeset_id)
                assert verdict.evidence["ln_e"] >= verdict.evidence["threshold"]
            elif isinstance(verdict, Expire):
                closed[verdict.attempt_id, verdict.reason] += 1
                assert not fold.blind
            elif isinstance(verdict, Park):
                parked[verdict.attempt_id] += 1
        if seq % 8 and seq < len(history):
            continue
        snapshot = fold.snapshot()
        for row in snapshot.changesets:
            counts = fold.counts(row.changeset_id)
            assert counts.started == counts.good + counts.bad + counts.pending + counts.dropped
            assert min(counts.good, counts.bad, counts.pending, counts.dropped) >= 0
            assert counts.silent <= counts.bad
            assert counts.late_good <= counts.bad
            assert counts.started >= started_before[row.changeset_id]
            started_before[row.changeset_id] = counts.started
            blocks = row.state["blocks"]
            assert sum(n for n, _ in blocks) == row.view["judged_started"]
            assert sum(k for _, k in blocks) == row.view["judged_bad"]
            assert row.view["ln_e"] == ln_e_scan(blocks, 0.05, 4)[0]
            counted = [
                one for one in snapshot.attempts if one.changeset_id == row.changeset_id and one.block is not None
            ]
            assert len(counted) == counts.started
            assert len({one.node_id for one in counted}) == len(counted)
            assert row.state["closed"] == counts.good + counts.bad
            for rollout_id, group in row.state["groups"].items():
                mine = [one for one in snapshot.attempts if one.changeset_id == row.changeset_id]
                assert group["parked"] == sum(one.parked for one in mine if one.rollout_id == rollout_id)
    assert all(times == 1 for (_, reason), times in closed.items() if reason.value == "silent")


@given(
    bad=st.sets(st.integers(0, 19), max_size=8),
    order=st.permutations(range(20)),
    other=st.permutations(range(20)),
)
def test_order_of_outcomes_does_not_matter(bad, order, other):
    """With the starts in the same order, the order in which outcomes arrive changes neither counts nor halt."""

    def told(outcomes):
        history = [(1.0, RolloutCreated(
            rollout_id="r", changeset_id="c", group_id="g", group_size=100, group_pace_limit=20, parameters=PARAMETERS,
        ))]  # fmt: skip
        for node, kind in itertools.chain(
            ((node, UpdateKind.BOOTED) for node in range(20)),
            ((node, UpdateKind.ROLLED_BACK if node in bad else UpdateKind.COMMITTED) for node in outcomes),
        ):
            history.append(
                (
                    0.0,
                    UpdateObserved(
                        kind=kind,
                        attempt_id=f"a{node}",
                        node_id=str(node),
                        changeset_id="c",
                        rollout_id="r",
                        group_id="g",
                    ),
                )
            )
        return run(history)

    (one, verdicts), (two, others) = told(order), told(other)
    assert one.counts("c") == two.counts("c")
    assert one.halted("c") == two.halted("c")
    assert one.view("c")["ln_e"] == two.view("c")["ln_e"]
    assert sum(isinstance(v, Halt) for v in verdicts) == sum(isinstance(v, Halt) for v in others) <= 1


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 30),
            st.sampled_from([UpdateKind.OFFERED, UpdateKind.STAGED, UpdateKind.BOOTED, UpdateKind.COMMITTED]),
        ),
        max_size=150,
    )
)
def test_good_nodes_never_halt(steps):
    """Whatever the order of good nodes' reports, nothing is halted and nothing is bad."""
    created = RolloutCreated(
        rollout_id="r", changeset_id="c", group_id="g", group_size=100, group_pace_limit=20, parameters=PARAMETERS
    )
    history = [(1.0, created)] + [
        (
            0.0,
            UpdateObserved(
                kind=kind,
                attempt_id=f"a{node}",
                node_id=str(node),
                changeset_id="c",
                rollout_id="r",
                group_id="g",
            ),
        )
        for node, kind in steps
    ]
    fold, verdicts = run(history)
    assert not any(isinstance(v, Halt) for v in verdicts)
    assert fold.counts("c").bad == 0
