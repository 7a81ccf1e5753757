"""The whole on one screen."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from services.cli.status_view import ahead, screen, span, when

NOW = "2026-11-25T12:00:00Z"
NODES = dict.fromkeys(
    ("silent", "cloned", "without_group", "parked", "stuck", "quarantined", "on_withdrawn", "will_boot_stopped"), 0
)


def status(**more: Any) -> dict[str, Any]:
    return {
        "at": NOW,
        "everything": {"open": True},
        "waiting": [],
        "rollouts": [],
        "rollouts_active": 0,
        "stopped": [],
        "holds": [],
        "nodes": {"total": 9, "in_flight": 1, **NODES},
        "ledger": {"seq": 7, "recorded_at": NOW, "inbox_depth": 0, "inbox_lag_s": 0.1, "followers": []},
        "blind": [],
        "floods": [],
        **more,
    }


def rollout(**more: Any) -> dict[str, Any]:
    return {
        "version": "3975.2.1", "arch": "amd64", "group_name": "production", "shown": "running", "purpose": "update",
        "policy": {"waves": [{"fraction": 0.1}, {"fraction": 1}]}, "wave": 0, "in_flight": 3, "pace": 20,
        "nodes": {"total": 200, "on_target": 124}, "gate": {"evidence": None}, "eta": "2026-11-25T15:12:00Z",
        "evidence": {"started": 130, "bad": 1, "ln_e": 0.81, "threshold": 4.6},
        "group_owner": "Platform", "group_contact": "#platform", "severity": "ticket", **more,
    }  # fmt: skip


def shown(**more: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=180).print(screen(status(**more)))
    return out.getvalue()


def test_nothing_to_do_is_one_glance():
    """No noise where all is well."""
    text = shown()
    assert "Nothing waits for anybody." in text
    assert "up to date" in text
    assert "9 nodes, 1 in flight\n" in text
    assert "silent" not in text


def test_a_rollout_is_a_line_with_all_that_counts():
    """Progress, pace, evidence against its threshold, wave, and when it will be done."""
    text = shown(rollouts=[rollout(), rollout(shown="completed", eta=None)], rollouts_active=3)
    for words in ("3975.2.1 amd64", "production", "running", "wave 1/2, 3 of 20 in flight, 1 bad of 130, ln E 0.8",
                  "124/200", "in 3.2 h", "and 2 more"):  # fmt: skip
        assert words in text.replace("\n", " "), words


def test_evidence_of_a_halt_goes_before_what_is_counted_now():
    """What halted it is what operators ask for; before anything started there is none."""
    halted = {"evidence": {"ln_e": {"hex": (5.0).hex(), "repr": "5.0"}, "threshold": 4.6, "bad": 4, "started": 12}}
    text = shown(
        rollouts=[rollout(shown="halted", gate=halted, evidence=None), rollout(evidence=None, purpose="drill")]
    )
    assert "4 bad of 12, ln E 5.0 of 4.6, tell Platform #platform, ticket" in text
    assert text.count("tell ") == 1
    assert "drill" in text


def test_what_waits_says_for_whom_since_and_until_when():
    """With the command that answers it; words of others cannot move the cursor."""
    items = [
        {"whom": "approver", "kind": "approval", "what": "ann asks to resume: \x1b[2Jready", "since": NOW,
         "until": "2026-11-26T12:00:00Z", "command": None, "subject": None},
        {"whom": "nobody", "kind": "gate", "what": "2.0.0 to production: 3 more nodes", "since": None,
         "until": "2026-11-25T12:30:00Z", "command": "uneventful rollout show production", "subject": None},
        {"whom": "somebody", "kind": "new", "what": "x", "since": None, "until": None, "command": None,
         "subject": None},
    ]  # fmt: skip
    text = shown(waiting=items)
    for words in ("expires in 24.0 h", "at the earliest in 30 min", "uneventful rollout show production", "somebody"):
        assert words in text, words
    assert "\x1b" not in text


def test_what_is_wrong_is_said_loudly():
    """Blindness, a ledger that is behind, followers, floods, nodes that will boot what was halted."""
    ledger = {
        "seq": 7, "recorded_at": NOW, "inbox_depth": 9, "inbox_lag_s": 61.0,
        "followers": [{"name": "rollback_analysis", "behind": 5_000}, {"name": "b", "behind": 1}],
    }  # fmt: skip
    text = shown(
        ledger=ledger,
        blind=[{"site": None}, {"site": "ams"}],
        floods=[{"kind": "address", "source": "192.0.2.1", "dropped": 99}],
        nodes={"total": 9, "in_flight": 1, **dict.fromkeys(NODES, 2)},
    )
    for words in ("61 s behind (9 events wait)", "rollback_analysis is 5000 behind", "BLIND for everything, ams",
                  "99 reports", "2 WILL BOOT a halted release", "2 in no group"):  # fmt: skip
        assert words in text.replace("\n", " "), words


@pytest.mark.parametrize(
    ("at", "said"), [(None, ""), ("2026-11-25T11:00:00Z", "now"), ("2026-11-25T12:00:30Z", "in 30 s"),
                     ("2026-11-29T12:00:00Z", "in 4.0 d")],
)  # fmt: skip
def test_times_are_told_from_the_servers_now(at, said):
    """Whatever clock this machine has."""
    now = when(NOW)
    assert now is not None
    assert ahead(at, now) == said
    assert span(now - now) == "0 s"
