"""What waits for whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.control.waiting import waiting

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def rollout(shown: str, **more: Any) -> dict[str, Any]:
    return {
        "rollout_id": "r", "version": "2.0.0", "arch": "amd64", "group_name": "production", "shown": shown,
        "reason": None, "waits_for": [], "until": None, "explanation": None, "changed_at": NOW, "wave_since": NOW,
        "gate": {"state": "open", "braked_reason": None}, **more,
    }  # fmt: skip


def found(**more: Any) -> list[dict[str, Any]]:
    parts: dict[str, Any] = {"approvals": [], "changesets": [], "holds": [], "rollouts": [], "blind": []}
    return waiting(**{"everything": {"open": True}, **parts, **more})


@pytest.mark.parametrize(
    ("item", "whom", "kind", "said"),
    [
        (rollout("running"), None, None, None),
        (rollout("completed"), None, None, None),
        (rollout("running", waits_for=["3 more"], until=NOW), "nobody", "wave", "to production: 3 more"),
        (rollout("paused", reason="lunch"), "operator", "paused", "is paused: lunch"),
        (rollout("halted"), "operator", "halted", "is halted"),
        (rollout("halted", gate={"state": "halted", "braked_reason": None}), None, None, None),
        (rollout("waiting_for_approval"), "approver", "approval", "waits for approval"),
        (rollout("waiting_for_gate", waits_for=["a", "b"]), "nobody", "gate", "a; b"),
        (rollout("scheduled", explanation="its time has not come yet"), "nobody", "window", "not come yet"),
        (rollout("created"), "nobody", "window", "created"),
        (rollout("braked", gate={"state": "open", "braked_reason": "blind"}), "nobody", "brake", "braked: blind"),
        (rollout("braked"), "nobody", "brake", "nothing of it is offered"),
    ],
)
def test_a_rollout_waits_for_whoever_can_let_it_go_on(item, whom, kind, said):
    """One that moves waits for nobody; a halted changeset says so itself."""
    items = found(rollouts=[item])
    if whom is None:
        assert items == []
        return
    assert [(one["whom"], one["kind"]) for one in items] == [(whom, kind)]
    assert said in items[0]["what"]


def test_what_needs_people_comes_first_and_the_oldest_of_it():
    """Approvers, operators, then what goes on by itself."""
    release = {"application": "os", "version": "2.0.0", "arch": "amd64", "changeset_id": "c"}
    items = found(
        everything={"open": False, "reason": "fire"},
        approvals=[
            {"approval_id": "1", "subject": "rollouts/r", "action": "release_hold", "reason": "ok", "asked_by": "ann",
             "asked_at": NOW, "expires_at": NOW + timedelta(days=1)},
        ],
        changesets=[
            {**release, "state": "halted", "reason": None, "changed_at": NOW},
            {**release, "state": "withdrawn", "reason": "bad", "changed_at": NOW},
        ],
        holds=[
            {**release, "hold_id": "h", "segment": {"oem": "ami"}, "reason": "r", "held_at": NOW - timedelta(days=1)}
        ],
        blind=[
            {"site": None, "reason": "ingest_lag", "decided_at": NOW},
            {"site": "", "reason": "few_contacts", "decided_at": NOW},
        ],
    )  # fmt: skip
    assert [(one["whom"], one["kind"]) for one in items] == [
        ("approver", "approval"),
        ("operator", "halt"),
        ("operator", "hold"),
        ("operator", "halted"),
        ("nobody", "blind"),
        ("nobody", "blind"),
    ]
    assert items[0]["what"] == "ann asks to release hold: ok"
    assert "cannot see anything (ingest lag)" in items[4]["what"]
    assert "the site without a name" in items[5]["what"]
