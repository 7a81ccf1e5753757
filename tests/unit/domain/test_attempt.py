"""What a report makes of an attempt: the design's sentences, one by one, and what holds for all histories."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.attempt import CLOSED, FORMER_BOOTS, AttemptRow, AttemptState, NodeRow, Report, observe
from shared.domain.observation import ObservationKind, ObservationSource

Kind, Source, State = ObservationKind, ObservationSource, AttemptState
AT = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW = "1.0.0", "2.0.0"
EVERY = timedelta(minutes=15)
NODE = NodeRow(version=OLD, boot_id="a", boot_seen_at=AT)


def attempt(state: State, **changes: object) -> AttemptRow:
    return AttemptRow(**{"state": state, "from_version": OLD, "to_version": NEW, "boot_id": "a"} | changes)


def say(
    kind: Kind, version: str = OLD, boot: str = "a", *, source: Source = Source.OMAHA, seconds: float = 60
) -> Report:
    return Report(kind=kind, source=source, version=version, boot_id=boot, at=AT + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("state", "report", "moves", "after", "reason"),
    [
        # A later state implies the ones that were skipped.
        (State.OFFERED, say(Kind.DOWNLOAD_STARTED), ("download_started",), State.DOWNLOADING, None),
        (State.OFFERED, say(Kind.DOWNLOADED), ("downloaded",), State.DOWNLOADING, None),
        (State.OFFERED, say(Kind.STAGED), ("staged",), State.STAGED, None),
        (State.OFFERED, say(Kind.POLL, NEW, "b"), ("booted", "committed"), State.COMMITTED, None),
        (State.STAGED, say(Kind.POLL), ("reboot_awaited",), State.AWAITING_REBOOT, None),
        (State.STAGED, say(Kind.PING, NEW, "b"), ("booted", "committed"), State.COMMITTED, None),
        (State.PROBATION, say(Kind.POLL, NEW, "b"), ("committed",), State.COMMITTED, None),
        # A target version in the old boot proves nothing.
        (State.STAGED, say(Kind.UPDATED, NEW), (), State.STAGED, None),
        # Rollbacks, said and seen.
        (State.STAGED, say(Kind.ROLLED_BACK, boot="b"), ("rolled_back",), State.ROLLED_BACK, "reported"),
        (State.STAGED, say(Kind.ROLLED_BACK), ("failed",), State.FAILED, "marker_reset"),
        (State.STAGED, say(Kind.POLL, OLD, "b"), ("rolled_back",), State.ROLLED_BACK, "came_back_on_old_version"),
        (
            State.AWAITING_REBOOT,
            say(Kind.STAGED, OLD, "b"),
            ("rolled_back",),
            State.ROLLED_BACK,
            "came_back_on_old_version",
        ),
        (State.DOWNLOADING, say(Kind.POLL, OLD, "b"), ("failed",), State.FAILED, "rebooted_before_staged"),
        (State.STAGED, say(Kind.FAILED), ("failed",), State.FAILED, None),
        # Native nodes have a probation of their own.
        (State.STAGED, say(Kind.BOOTED, NEW, "b", source=Source.NATIVE), ("booted",), State.PROBATION, None),
        (State.STAGED, say(Kind.POLL, NEW, "b", source=Source.NATIVE), (), State.STAGED, None),
        (State.PROBATION, say(Kind.COMMITTED, NEW, "b", source=Source.NATIVE), ("committed",), State.COMMITTED, None),
        (
            State.PROBATION,
            say(Kind.FAILED, NEW, "b", source=Source.NATIVE),
            ("rolled_back",),
            State.ROLLED_BACK,
            "unhealthy",
        ),
        (
            State.STAGED,
            say(Kind.FAILED, NEW, "b", source=Source.NATIVE),
            ("rolled_back",),
            State.ROLLED_BACK,
            "unhealthy",
        ),
        (
            State.STAGED,
            say(Kind.COMMITTED, NEW, "b", source=Source.NATIVE),
            ("booted", "committed"),
            State.COMMITTED,
            None,
        ),
        (
            State.STAGED,
            say(Kind.BOOTED, OLD, "b", source=Source.NATIVE),
            ("rolled_back",),
            State.ROLLED_BACK,
            "came_back_on_old_version",
        ),
        (
            State.OFFERED,
            say(Kind.BOOTED, OLD, "b", source=Source.NATIVE),
            ("failed",),
            State.FAILED,
            "rebooted_before_staged",
        ),
        # Late.
        (State.PRESUMED_LOST, say(Kind.POLL, NEW, "b"), ("committed",), State.COMMITTED, "late"),
        (State.PRESUMED_LOST, say(Kind.POLL, OLD, "b"), ("rolled_back",), State.ROLLED_BACK, "late"),
        (State.COMMITTED, say(Kind.ROLLED_BACK, OLD, "b"), ("rolled_back",), State.ROLLED_BACK, "version_regressed"),
        (State.COMMITTED, say(Kind.POLL, NEW, "b"), (), State.COMMITTED, None),
    ],
)
def test_what_moves_an_attempt(state, report, moves, after, reason):
    """The verbs of its events, where it stands then, and why."""
    effect = observe(NODE, attempt(state), report, EVERY)
    assert (effect.moves, effect.attempt.state, effect.reason, effect.applied) == (moves, after, reason, True)
    assert effect.quarantined == (after is State.ROLLED_BACK and bool(moves))


@pytest.mark.parametrize(
    ("state", "report", "moves", "reason"),
    [
        (State.STAGED, say(Kind.DOWNLOAD_STARTED), ("download_started",), None),
        (State.AWAITING_REBOOT, say(Kind.DOWNLOADED), ("downloaded",), None),
        (State.STAGED, say(Kind.STAGED), ("staged",), None),
        (State.STAGED, say(Kind.COMMITTED, OLD, "b", source=Source.NATIVE), ("committed",), "not_rebooted_into_target"),
        (State.STAGED, say(Kind.BOOTED, OLD, source=Source.NATIVE), ("booted",), "not_rebooted"),
        (State.PROBATION, say(Kind.BOOTED, NEW, "b", source=Source.NATIVE), ("booted",), "not_rebooted"),
        (State.FAILED, say(Kind.STAGED), ("staged",), "after_failed"),
        (State.PRESUMED_LOST, say(Kind.FAILED, NEW, "b", source=Source.NATIVE), ("failed",), "after_presumed_lost"),
        (State.RECALLED, say(Kind.DOWNLOADED), ("downloaded",), "after_recalled"),
    ],
)
def test_what_goes_back_or_proves_nothing_is_recorded_and_moves_nothing(state, report, moves, reason):
    """``applied`` says so."""
    before = attempt(state)
    effect = observe(NODE, before, report, EVERY)
    assert (effect.moves, effect.reason, effect.applied, effect.attempt) == (moves, reason, False, before)


@pytest.mark.parametrize("state", [State.RECALLED, State.FAILED])
def test_a_rollback_after_a_recall_quarantines_and_counts_nothing(state):
    """Recalled is neither good nor bad, but this node is not offered it again."""
    effect = observe(NODE, attempt(state), say(Kind.ROLLED_BACK, OLD, "b"), EVERY)
    assert (effect.moves, effect.applied, effect.quarantined) == (("rolled_back",), False, True)
    assert effect.reason == f"after_{state.value}"


def test_a_native_node_that_goes_back_since_it_was_told_to_is_not_quarantined():
    """It asks before it commits, and lets go; one whose attempt had failed rolled back by itself."""
    obeyed = observe(NODE, attempt(State.RECALLED), say(Kind.ROLLED_BACK, OLD, "b", source=Source.NATIVE), EVERY)
    assert (obeyed.moves, obeyed.applied, obeyed.quarantined) == (("rolled_back",), False, False)
    failed = observe(NODE, attempt(State.FAILED), say(Kind.ROLLED_BACK, OLD, "b", source=Source.NATIVE), EVERY)
    assert failed.quarantined


def test_a_version_that_goes_back_in_a_new_boot_regressed():
    """Only from the target: a node that never left the old version says nothing new."""
    on_new = replace(NODE, version=NEW, boot_id="b")
    committed = attempt(State.COMMITTED)
    assert observe(on_new, committed, say(Kind.POLL, OLD, "c"), EVERY).reason == "version_regressed"
    assert observe(on_new, committed, say(Kind.POLL, OLD, "b"), EVERY).moves == ()
    assert observe(NODE, committed, say(Kind.POLL, OLD, "c"), EVERY).moves == ()


def test_going_back_on_purpose_is_a_success_and_no_rollback_of_what_was_left():
    """A downgrade is an attempt like any other; what the node committed before is not looked at any more."""
    on_new = NodeRow(version=NEW, boot_id="b", boot_seen_at=AT, former_boot_ids=("a",))
    back = AttemptRow(state=State.STAGED, from_version=NEW, to_version=OLD, boot_id="b")
    committed = observe(on_new, back, say(Kind.POLL, OLD, "c"), EVERY)
    assert committed.moves == ("booted", "committed")
    assert not committed.quarantined
    assert committed.attempt is not None
    for later in (say(Kind.POLL, OLD, "c", seconds=90), say(Kind.POLL, OLD, "d", seconds=90), say(Kind.PING, OLD, "e")):
        effect = observe(committed.node, committed.attempt, later, EVERY)
        assert (effect.moves, effect.quarantined) == ((), False)
    again = observe(committed.node, committed.attempt, say(Kind.POLL, NEW, "d", seconds=90), EVERY)
    assert (again.moves, again.reason) == (("rolled_back",), "version_regressed")


def test_a_downgrade_whose_node_stays_on_what_it_should_leave_failed():
    """It came back from the reboot on the version that was to be left: the older changeset is not tried there again."""
    on_new = NodeRow(version=NEW, boot_id="b", boot_seen_at=AT, former_boot_ids=("a",))
    back = AttemptRow(state=State.STAGED, from_version=NEW, to_version=OLD, boot_id="b")
    effect = observe(on_new, back, say(Kind.POLL, NEW, "c"), EVERY)
    assert (effect.moves, effect.quarantined) == (("rolled_back",), True)


def test_waiting_is_told_at_most_so_often():
    """So that a replay sees what the live fold saw, and the ledger is not filled."""
    first = observe(NODE, attempt(State.STAGED), say(Kind.POLL, seconds=0), EVERY)
    assert first.attempt.awaited_at == AT
    early = observe(first.node, first.attempt, say(Kind.PING, seconds=899), EVERY)
    assert early.moves == ()
    due = observe(first.node, first.attempt, say(Kind.REBOOT_AWAITED, seconds=900), EVERY)
    assert due.moves == ("reboot_awaited",)
    assert due.attempt.awaited_at == AT + EVERY


def test_without_an_attempt_news_are_recorded():
    """A poll is none."""
    assert observe(NODE, None, say(Kind.POLL), EVERY).moves == ()
    told = observe(NODE, None, say(Kind.FAILED), EVERY)
    assert (told.moves, told.applied, told.reason) == (("failed",), False, "no_attempt")


def test_a_node_without_boot_ids_that_goes_back_has_rolled_back():
    """It seems to be in the boot of the offer again, but it has been seen in another one since."""
    taken = attempt(State.COMMITTED, boot_id=f"unknown-{OLD}")
    node = replace(NODE, version=NEW, boot_id=f"unknown-{NEW}", former_boot_ids=(f"unknown-{OLD}",))
    effect = observe(node, taken, say(Kind.POLL, OLD, f"unknown-{OLD}", source=Source.CINCINNATI), EVERY)
    assert (effect.moves, effect.quarantined) == (("rolled_back",), True)
    here = replace(NODE, boot_id=f"unknown-{OLD}")
    waits = attempt(State.OFFERED, boot_id=f"unknown-{OLD}")
    again = observe(here, waits, say(Kind.POLL, OLD, f"unknown-{OLD}", source=Source.CINCINNATI), EVERY)
    assert (again.moves, again.attempt) == ((), waits)


def test_a_boot_id_that_returns_tells_a_clone():
    """From then on nothing that either machine says moves anything; made-up boot ids tell nothing."""
    node = replace(NODE, boot_id="b", former_boot_ids=("a", "unknown-1"))
    effect = observe(node, attempt(State.STAGED), say(Kind.POLL, NEW, "a"), EVERY)
    assert effect.cloned_now
    assert effect.node.cloned
    again = observe(effect.node, attempt(State.STAGED), say(Kind.ROLLED_BACK, OLD, "c"), EVERY)
    assert (again.cloned_now, again.moves, again.attempt) == (False, (), attempt(State.STAGED))
    assert not observe(node, None, say(Kind.POLL, OLD, "unknown-1"), EVERY).node.cloned
    late = observe(node, None, say(Kind.POLL, OLD, "a", seconds=-1), EVERY)
    assert (late.node, late.cloned_now) == (node, False)


def test_a_spooled_report_of_a_boot_between_tells_no_clone():
    """Omaha reports have our clock: a late one of an unknown boot is old, and the present boot does not "return"."""
    now_in_c = replace(NODE, boot_id="c", boot_seen_at=AT + timedelta(seconds=300), former_boot_ids=("a",))
    late = observe(now_in_c, None, say(Kind.POLL, NEW, "b", seconds=100), EVERY)
    assert late.node == now_in_c
    assert not observe(late.node, None, say(Kind.POLL, OLD, "c", seconds=400), EVERY).node.cloned


def test_a_native_nodes_new_boot_is_news_whatever_its_clock_says():
    """Its clock may be off; a former boot's report is old all the same."""
    in_b = replace(NODE, boot_id="b", boot_seen_at=AT + timedelta(seconds=300), former_boot_ids=("a",))
    new = observe(in_b, None, say(Kind.POLL, NEW, "c", source=Source.NATIVE, seconds=100), EVERY)
    assert (new.node.boot_id, new.node.version) == ("c", NEW)
    old = observe(in_b, None, say(Kind.POLL, OLD, "a", source=Source.NATIVE, seconds=100), EVERY)
    assert (old.node, old.cloned_now) == (in_b, False)


reports = st.builds(
    say,
    st.sampled_from(Kind),
    st.sampled_from([OLD, NEW, "3.0.0"]),
    st.sampled_from("abcdefgh"),
    source=st.sampled_from(Source),
    seconds=st.integers(-100, 5000),
)
ORDER = list(State)


@settings(deadline=None)
@given(reports=st.lists(reports, max_size=20), state=st.sampled_from(State))
def test_what_holds_for_all_histories(reports, state):
    """Never back; closed stays closed but for late truth; what does not apply changes nothing."""
    node, row = NODE, attempt(state)
    for report in reports:
        effect = observe(node, row, report, EVERY)
        before, after = row.state, effect.attempt.state
        if not effect.applied or not effect.moves:
            assert effect.attempt == row
        elif before in CLOSED:
            assert before in {State.PRESUMED_LOST, State.COMMITTED}
            assert after in {State.ROLLED_BACK, State.COMMITTED}
            assert after is not before
        else:
            assert ORDER.index(after) >= ORDER.index(before)
        if after is State.ROLLED_BACK and before is not after:
            assert effect.quarantined
        assert len(effect.node.former_boot_ids) <= FORMER_BOOTS
        assert effect.node.cloned >= node.cloned
        node, row = effect.node, effect.attempt
