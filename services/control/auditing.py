"""Which events of the ledger are somebody's doing, and what each says of who did what. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

ACTS: Final = (
    "approval.asked.v1",
    "approval.decided.v1",
    "changeset.attested.v1",
    "changeset.braked.v1",
    "changeset.halted.v1",
    "changeset.held.v1",
    "changeset.published.v1",
    "changeset.resumed.v1",
    "changeset.suspended.v1",
    "changeset.withdrawn.v1",
    "channel.promoted.v1",
    "keys.changed.v1",
    "node.changed.v1",
    "node.quarantined.v1",
    "operator.acted.v1",
    "policy.changed.v1",
    "rollout.aborted.v1",
    "rollout.approved.v1",
    "rollout.capped.v1",
    "rollout.expedited.v1",
    "rollout.halted.v1",
    "rollout.node_excluded.v1",
    "rollout.paused.v1",
    "rollout.resumed.v1",
)
"""Types of events that carry who did it; some of them the analysis may do by itself, and says so in ``by``."""

_TELLING: Final = (
    "version", "name", "action", "verdict", "what", "state_before", "state_after", "segment", "held", "braked", "kind",
    "override_reason", "approved_by", "pace_cap", "node_id", "machine_id", "lifted", "alias", "facts", "forgotten",
    "added", "retired",
)  # fmt: skip
"""What of an event's data is worth a column, besides who and why."""


def act_of(seq: int, recorded_at: datetime, kind: str, event: Mapping[str, Any]) -> dict[str, Any] | None:
    """A line of the audit; None where nobody did it (a quarantine that follows from a report)."""
    data = event.get("data") or {}
    by = data.get("by")
    if by is None:
        return None
    return {
        "seq": seq,
        "at": recorded_at,
        "by": by,
        "role": data.get("role"),
        "action": data.get("action") if kind == "operator.acted.v1" else kind.removesuffix(".v1"),
        "subject": data.get("subject") or event.get("subject"),
        "reason": data.get("reason"),
        "address": data.get("address"),
        "request_id": data.get("request_id"),
        "details": {name: data[name] for name in _TELLING if data.get(name) is not None and name != "action"},
    }
