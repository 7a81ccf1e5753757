"""From ledger events to what the fold reads."""

from __future__ import annotations

import msgspec
import pytest

from services.rollback_analysis import fold_input as inputs
from services.rollback_analysis.fold import Fold
from services.rollback_analysis.follow import judge
from services.rollback_analysis.store import halt_reason
from services.rollback_analysis.translate import fold_input_of
from shared.domain.policy import Policy, freeze
from shared.events import types as events

UPDATE = events.UpdateEvent(
    node_id="n",
    machine_id="m",
    application_id="p",
    applied=False,
    version="1.0.0",
    source=events.ReportSource.OMAHA,
    attempt_id="a",
    rollout_id="r",
    changeset_id="c",
    group_id="g",
    reason="after_failed",
)
MOVED = events.RolloutMoved(
    rollout_id="r", changeset_id="c", group_id="g", state_before="running", state_after="x", by="ana"
)


@pytest.mark.parametrize("kind", list(inputs.UpdateKind))
def test_every_update_event_is_read(kind):
    """With what decides, and nothing else."""
    assert fold_input_of(f"update.{kind.value}.v1", UPDATE) == inputs.UpdateObserved(
        kind=kind,
        attempt_id="a",
        node_id="n",
        changeset_id="c",
        rollout_id="r",
        group_id="g",
        applied=False,
        reason="after_failed",
    )


def test_a_report_that_belongs_to_no_rollout_is_not_read():
    """Nothing was granted, so there is nothing to count."""
    for missing in ({"changeset_id": None}, {"rollout_id": None}):
        assert fold_input_of("update.staged.v1", msgspec.structs.replace(UPDATE, **missing)) is None
    alone = fold_input_of("update.staged.v1", msgspec.structs.replace(UPDATE, group_id=None))
    assert isinstance(alone, inputs.UpdateObserved)
    assert alone.group_id == ""


def test_a_rollouts_parameters_are_those_that_were_frozen():
    """Number by number."""
    frozen = freeze(Policy(allowed_bad_rate=0.02, group_concurrency=33), fleet_size=5000, group_size=400)
    said = events.RolloutCreated(
        rollout_id="r",
        group_id="g",
        group_name="everyone",
        changeset_id="c",
        version="2.0.0",
        arch="amd64",
        application_id="p",
        parameters=msgspec.convert(msgspec.to_builtins(frozen), events.RolloutParameters),
    )
    read = fold_input_of("rollout.created.v1", said)
    assert isinstance(read, inputs.RolloutCreated)
    assert (read.rollout_id, read.changeset_id, read.group_id) == ("r", "c", "g")
    assert (read.group_size, read.group_pace_limit, read.group_hold_budget) == (400, 33, frozen.group_hold_budget)
    for name in ("p0", "alpha", "block_size", "planned_blocks", "hold_budget", "overdue_s", "silence_s"):
        assert getattr(read.parameters, name) == getattr(frozen, name)
    assert read.parameters.pace_limit == frozen.concurrency
    assert (read.parameters.offer_deadline_s, read.parameters.park_after_s) == (21_600.0, 86_400.0)


@pytest.mark.parametrize("how", list(inputs.RolloutEnd))
def test_a_rollout_that_ends_leaves(how):
    """However it ends."""
    read = fold_input_of(f"rollout.{how.value}.v1", MOVED)
    assert read == inputs.RolloutEnded(rollout_id="r", changeset_id="c", how=how)


def test_a_rollout_that_is_completed_stays():
    """It goes on serving nodes that come later, with a pace."""
    assert fold_input_of("rollout.completed.v1", MOVED) is None


def test_what_else_decides_something():
    """Ticks, halts and resumes of operators, nodes that are gone."""
    tick = events.LogTicked(contacts={"": 3}, expected={"": 4.0}, ingest_lag_s=0.5, interval_s=5.0, inbox_depth=2)
    assert fold_input_of("log.ticked.v1", tick) == inputs.Ticked(contacts={"": 3}, expected={"": 4.0}, ingest_lag_s=0.5)
    assert fold_input_of("rollout.resumed.v1", MOVED) == inputs.RolloutResumed(rollout_id="r", changeset_id="c")
    halted = events.ChangesetHalted(changeset_id="c", version="2.0.0", arch="amd64", reason="r", by="ana")
    assert fold_input_of("changeset.halted.v1", halted) == inputs.ChangesetHalted(changeset_id="c")
    resumed = events.ChangesetResumed(changeset_id="c", by="ana", reason="r", resumes=1)
    assert fold_input_of("changeset.resumed.v1", resumed) == inputs.ChangesetResumed(changeset_id="c")
    assert fold_input_of("node.gone.v1", events.NodeGone(node_id="n")) == inputs.NodeGone(node_id="n")


@pytest.mark.parametrize("verb", ["started", "paused", "halted"])
def test_moves_that_decide_nothing_are_left_out(verb):
    """A pause is the gates' business; a halt comes as the changeset's."""
    assert fold_input_of(f"rollout.{verb}.v1", MOVED) is None
    changed = events.PolicyChanged(policy_version=2, subject="s", what="w", by="ana")
    assert fold_input_of("policy.changed.v1", changed) is None


def test_nothing_to_judge_is_no_verdict():
    """An empty batch."""
    assert judge(Fold(), []) == []


def test_a_halt_in_one_sentence():
    """With the numbers that it was judged by."""
    said = halt_reason({"bad": 4, "started": 20, "p0": 0.01, "ln_e": 5.123, "threshold": 4.605})
    assert said.startswith("4 of 20 started nodes")
    assert "5.12 >= 4.61" in said
