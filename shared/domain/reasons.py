"""Why a node got the answer it got: the words of update_check's decisions, for metrics, rows and people."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class Reason(enum.StrEnum):
    """Why a node is not updated now. Bounded: it is a metric's label and what operators are shown."""

    UP_TO_DATE = "up_to_date"
    OBSERVE_ONLY = "observe_only"
    NO_GROUP = "no_group"
    NO_ROLLOUT = "no_rollout"
    UPDATES_DISABLED = "updates_disabled"
    VERSION_UNKNOWN = "version_unknown"
    MINIMUM_VERSION = "minimum_version"
    DEAD_END = "dead_end"
    HALTED_EVERYWHERE = "halted_everywhere"
    HALTED = "halted"
    SUSPENDED = "suspended"
    WITHDRAWN = "withdrawn"
    BRAKED = "braked"
    HELD = "held"
    WAITING_FOR_GATE = "waiting_for_gate"
    WAITING_FOR_APPROVAL = "waiting_for_approval"
    SCHEDULED = "scheduled"
    ROLLOUT_PAUSED = "rollout_paused"
    EXCLUDED = "excluded"
    QUARANTINED = "quarantined"
    CLONED = "cloned"
    ATTEMPT_OPEN = "attempt_open"
    WINDOW_CLOSED = "window_closed"
    RETRY_LATER = "retry_later"
    ATTEMPTS_SPENT = "attempts_spent"
    ORDER_STAGE = "order_stage"
    WAVE = "wave"
    CHANGESET_PACE = "changeset_pace"
    GROUP_PACE = "group_pace"
    FAILURE_DOMAIN = "failure_domain"
    POLICY_CHANGED = "policy_changed"
    SNAPSHOT_STALE = "snapshot_stale"
    ANALYSIS_LAGS = "analysis_lags"
    REPORTS_SPOOLED = "reports_spooled"
    NODE_UNKNOWN = "node_unknown"
    FLOODED = "flooded"
    POSTGRES_AWAY = "postgres_away"


GRANTED: Final = "granted"
"""What is written in place of a reason where the node was offered the update."""

EXPLANATIONS: Final[Mapping[str, str]] = {
    GRANTED: "It was offered the update.",
    Reason.UP_TO_DATE: "It runs what its group rolls out, or something newer.",
    Reason.OBSERVE_ONLY: "Its application is only observed: nodes are recorded, and nothing is offered.",
    Reason.NO_GROUP: "No group has it: no selector matches what is known of it, and no group names it.",
    Reason.NO_ROLLOUT: "Its group rolls out nothing for its arch, or it does not say what its arch is.",
    Reason.UPDATES_DISABLED: "Updates are disabled for its group.",
    Reason.VERSION_UNKNOWN: "What it runs is no version that could be compared with the rollout's.",
    Reason.MINIMUM_VERSION: "It runs a version that is too old for the changeset, and no floor leads on from it.",
    Reason.DEAD_END: "It runs a dead end: no update leads away from that version; the node is to be installed anew.",
    Reason.HALTED_EVERYWHERE: "Everything is halted: the global gate is shut.",
    Reason.HALTED: "The changeset is halted.",
    Reason.SUSPENDED: "A payload of the changeset is suspended: its bytes are in doubt.",
    Reason.WITHDRAWN: "The changeset is withdrawn.",
    Reason.BRAKED: "The changeset is braked until it is known whether it is bad.",
    Reason.HELD: "A segment of the changeset is held, and the node belongs to it or does not tell whether it does.",
    Reason.WAITING_FOR_GATE: "The rollout waits for a gate: the changeset is to soak elsewhere first.",
    Reason.WAITING_FOR_APPROVAL: "The rollout waits for an approver.",
    Reason.SCHEDULED: "The rollout begins later.",
    Reason.ROLLOUT_PAUSED: "The rollout is paused, or has not been started.",
    Reason.EXCLUDED: "An operator excluded it from this rollout.",
    Reason.QUARANTINED: "The changeset failed on it and is not offered to it again until an operator lifts that.",
    Reason.CLONED: "Several machines use its machine id: neither is offered anything.",
    Reason.ATTEMPT_OPEN: "It has an update under way: staged, booting, or of another changeset.",
    Reason.WINDOW_CLOSED: "Its group's change window is closed.",
    Reason.RETRY_LATER: "It failed to fetch or install the changeset, and is offered it again after a pause.",
    Reason.ATTEMPTS_SPENT: "It failed to fetch or install the changeset as often as the policy allows.",
    Reason.ORDER_STAGE: "Other nodes of the group come first, by the order of the policy.",
    Reason.WAVE: "It belongs to a later wave of the rollout.",
    Reason.CHANGESET_PACE: "As many nodes as the pace allows have the changeset in flight.",
    Reason.GROUP_PACE: "As many nodes of the group as the pace allows are in flight.",
    Reason.FAILURE_DOMAIN: "Another node of its failure domain is in flight.",
    Reason.POLICY_CHANGED: "Something was changed while it asked; it is judged anew at its next poll.",
    Reason.SNAPSHOT_STALE: "update_check could not read the present state for some seconds, so it offers nothing.",
    Reason.ANALYSIS_LAGS: "The judgement of rollouts is not up to date, so nothing is offered.",
    Reason.REPORTS_SPOOLED: "Reports wait on disk to be written to Postgres; nothing is offered before they are.",
    Reason.NODE_UNKNOWN: "It was not recorded yet; it is judged anew at its next poll.",
    Reason.FLOODED: "Its machine id or its address sends more reports than a node has to tell; these were dropped.",
    Reason.POSTGRES_AWAY: "Postgres did not answer, so nothing was offered.",
}
"""What each answer means, in words; ``docs/reference/answers.md`` says what to do about it."""
