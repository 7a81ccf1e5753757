"""Why a node did not get an update, in words; its history; cursors."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.control.node_why import (
    NodeFacts,
    RolloutFacts,
    answer_means,
    findings,
    history_line,
    summary,
)
from services.control.standstill import Standstill
from shared.domain.hold import Segment
from shared.domain.reasons import EXPLANATIONS, Reason

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ROLLOUT = RolloutFacts(
    version="2.0.0",
    state="running",
    standstill=None,
    explanation=None,
    fraction=1.0,
    position=0.5,
    order=None,
    order_stage=0,
    quarantined=None,
    excluded=None,
    holds=(),
    failures=0,
    max_attempts=5,
    in_flight="10 of 10 of the changeset, 1 of 5 in the group",
)
NODE = NodeFacts(
    version="1.0.0",
    arch="amd64",
    facts={"site": "ber"},
    last_contact_at=NOW - timedelta(minutes=5),
    gone_at=None,
    cloned=False,
    group="prod",
    updates_enabled=True,
    follows="stable",
    observe_only=False,
    everything_open=True,
    attempt=None,
    rollout=ROLLOUT,
)


def reasons(node: NodeFacts) -> list[str]:
    return [str(finding.reason) for finding in findings(node, NOW)]


def with_rollout(**changes) -> NodeFacts:
    return replace(NODE, rollout=replace(ROLLOUT, **changes))


def test_nothing_keeps_a_node_that_is_next():
    """It is offered the update when it asks next."""
    assert findings(NODE, NOW) == []
    assert summary([], "2.0.0") == "Nothing keeps it: it is offered 2.0.0 when it asks next."
    assert summary([], None).startswith("Nothing keeps it")


@pytest.mark.parametrize(
    ("node", "reason", "words"),
    [
        (replace(NODE, gone_at=NOW), "gone", "gone since"),
        (replace(NODE, last_contact_at=NOW - timedelta(days=2)), "silent", "not asked since 2026-11-18"),
        (replace(NODE, observe_only=True), "observe_only", "observed"),
        (replace(NODE, group=None), "no_group", "No group"),
        (replace(NODE, rollout=None), "no_rollout", "prod follows stable, and it rolls out nothing for amd64"),
        (replace(NODE, rollout=None, arch=None), "no_rollout", "does not say"),
        (replace(NODE, version="2.0.0"), "up_to_date", "It runs 2.0.0"),
        (replace(NODE, version="3.0.0"), "up_to_date", "newer than 2.0.0"),
        (replace(NODE, version="rolling"), "version_unknown", "no version"),
        (replace(NODE, updates_enabled=False), "updates_disabled", "group prod"),
        (replace(NODE, everything_open=False), "halted_everywhere", "Everything is halted"),
        (replace(NODE, cloned=True), "cloned", "Several machines"),
        (replace(NODE, attempt=("staged", "1.5.0", NOW, True)), "attempt_open", "1.5.0 under way since"),
        (with_rollout(quarantined="came_back_on_old_version"), "quarantined", "came back on old version"),
        (with_rollout(excluded="database master"), "excluded", "database master"),
        (with_rollout(failures=5), "attempts_spent", "5 times"),
        (with_rollout(failures=1), "retry_later", "after a pause"),
        (with_rollout(position=0.5, fraction=0.5), "wave", "50% of the group in; it comes in at 50.0%"),
        (with_rollout(order=("site", ("muc", "ber"))), "order_stage", "Nodes with site muc come first; it has ber"),
        (with_rollout(order=("rack", ("a",))), "order_stage", "it has none"),
        (with_rollout(holds=[(Segment.of({"site": "ber"}), "dhcp")]), "held", "held for site ber: dhcp"),
        (with_rollout(holds=[(Segment.of({"model": "x"}), "nic")]), "held", "held for model x"),
        (
            with_rollout(standstill=Standstill.PACE_OF_GROUP, explanation="as many as the pace allows"),
            "group_pace",
            "10 of 10 of the changeset",
        ),
        (
            with_rollout(
                standstill=Standstill.ROLLOUT_WAITING_FOR_GATE, state="waiting_for_gate", explanation="soaks until noon"
            ),
            "waiting_for_gate",
            "to prod is waiting for gate: soaks until noon",
        ),
    ],
)
def test_one_thing_is_in_the_way_and_is_said(node, reason, words):
    """By its bounded word, and by a sentence with the particulars."""
    (finding, *_) = findings(node, NOW)
    assert str(finding.reason) == reason
    assert words in finding.sentence
    assert summary([finding], None) == finding.sentence


def test_what_the_rollout_says_of_all_its_nodes_is_not_said_of_this_one():
    """That every node of the wave has it is nothing about this node."""
    for word in (Standstill.NO_NODE_LEFT, Standstill.WAVE_DONE, Standstill.ROLLOUT_COMPLETED):
        assert reasons(with_rollout(standstill=word, explanation="x")) == []


@pytest.mark.parametrize("word", [word for word in Standstill if word is not Standstill.NO_NODES])
def test_every_standstill_has_a_reason(word):
    """Nothing that stops a rollout is without a word."""
    assert all(reason in set(Reason) for reason in reasons(with_rollout(standstill=word, explanation="x")))


def test_a_node_that_returned_is_not_gone_and_others_are_not_held():
    """It polled after it was gone; a hold on another site does not concern it; its own stage is open."""
    assert reasons(replace(NODE, gone_at=NOW - timedelta(hours=1))) == []
    assert reasons(with_rollout(holds=[(Segment.of({"site": "muc"}), "x")])) == []
    assert reasons(with_rollout(order=("site", ("ber", "muc")))) == []


def test_all_that_keeps_it_is_told_in_order():
    """The rollout's own standstill first, then what is the node's."""
    node = replace(with_rollout(standstill=Standstill.BRAKED, explanation="x", quarantined="reported"), cloned=True)
    assert reasons(node) == ["braked", "quarantined", "cloned"]


def test_answers_have_words():
    """Known ones theirs, none where it was never answered, unknown ones say so."""
    assert answer_means("quarantined") == EXPLANATIONS[Reason.QUARANTINED]
    assert answer_means(None) is None
    assert "not known here" in (answer_means("from_the_future") or "")


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("update.offered.v1", {"from_version": "1", "to_version": "2"}, "offered 1 -> 2"),
        (
            "update.rolled_back.v1",
            {"from_version": "1", "to_version": "2", "reason": "reported", "applied": False},
            "rolled back 1 -> 2 (reported), which moved nothing",
        ),
        ("node.quarantined.v1", {"reason": "reported"}, "quarantined (reported)"),
        ("node.quarantined.v1", {"lifted": True, "by": "ann"}, "quarantine lifted by ann"),
        ("node.changed.v1", {"by": "ann", "alias": "db1", "reason": "r"}, "described named db1 (r) by ann"),
        ("node.changed.v1", {"by": "ann", "forgotten": True}, "forgotten by ann"),
        ("node.enrolled.v1", {"version": "1"}, "enrolled with 1"),
        ("node.gone.v1", {"reason": "retention"}, "gone (retention)"),
        ("other.v1", {}, "other.v1"),
    ],
)
def test_history_in_words(kind, data, line):
    """One line per event."""
    assert history_line(kind, data) == line
