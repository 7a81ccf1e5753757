"""Should this node update, and to what? A pure function; most polls end here without a look at the database."""

from __future__ import annotations

import enum
from collections.abc import Container
from dataclasses import dataclass
from uuid import UUID

from services.update_check.configuration import Configuration, GroupView, RolloutView
from services.update_check.standing import OpenAttempt


class Reason(enum.StrEnum):
    """Why a node is not updated now. Bounded: it is a metric's label and what operators are shown."""

    UP_TO_DATE = "up_to_date"
    NO_GROUP = "no_group"
    NO_ROLLOUT = "no_rollout"
    UPDATES_DISABLED = "updates_disabled"
    VERSION_UNKNOWN = "version_unknown"
    HALTED_EVERYWHERE = "halted_everywhere"
    HALTED = "halted"
    SUSPENDED = "suspended"
    WITHDRAWN = "withdrawn"
    BRAKED = "braked"
    ROLLOUT_PAUSED = "rollout_paused"
    QUARANTINED = "quarantined"
    CLONED = "cloned"
    ATTEMPT_OPEN = "attempt_open"
    RETRY_LATER = "retry_later"
    ATTEMPTS_SPENT = "attempts_spent"
    CHANGESET_PACE = "changeset_pace"
    GROUP_PACE = "group_pace"
    POLICY_CHANGED = "policy_changed"
    SNAPSHOT_STALE = "snapshot_stale"
    ANALYSIS_LAGS = "analysis_lags"
    REPORTS_SPOOLED = "reports_spooled"
    NODE_UNKNOWN = "node_unknown"
    POSTGRES_AWAY = "postgres_away"


@dataclass(frozen=True, slots=True)
class Withheld:
    """No update now."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Offer:
    """The rollout may be offered, if the gates and paces in the database agree."""

    rollout: RolloutView
    repeated: bool
    """The node has this offer already and asks again."""


Decision = Withheld | Offer

WITHHELD = {reason: Withheld(reason) for reason in Reason}

_GATE_REASONS = {
    "halted": WITHHELD[Reason.HALTED],
    "suspended": WITHHELD[Reason.SUSPENDED],
    "withdrawn": WITHHELD[Reason.WITHDRAWN],
}


def decide(
    configuration: Configuration,
    group: GroupView | None,
    arch: str | None,
    version: str,
    *,
    attempt: OpenAttempt | None,
    quarantined: Container[UUID],
    cloned: bool,
    retry_changeset: UUID | None,
    changeset_in_flight: int,
    group_in_flight: int,
) -> Decision:
    """Decide for one node.

    Args:
        configuration: The operators' word.
        group: The node's group; None where no selector matches.
        arch: The node's arch; None where it does not say.
        version: What it runs.
        attempt: Its open attempt.
        quarantined: Changesets that are not offered to it again.
        cloned: Whether its machine id is shared by several machines.
        retry_changeset: A changeset that it is not offered again for now, since attempts at it have failed.
        changeset_in_flight: Nodes in flight with the changeset that its group rolls out.
        group_in_flight: Nodes in flight in its group.
    """
    if group is None:
        return WITHHELD[Reason.NO_GROUP]
    rollout = group.rollouts.get(arch) if arch is not None else None
    if rollout is None:
        return WITHHELD[Reason.NO_ROLLOUT]
    if version == rollout.version:
        return WITHHELD[Reason.UP_TO_DATE]
    newer = rollout.is_newer_than(version)
    if newer is None:
        return WITHHELD[Reason.VERSION_UNKNOWN]
    if not newer:
        return WITHHELD[Reason.UP_TO_DATE]
    if not group.updates_enabled:
        return WITHHELD[Reason.UPDATES_DISABLED]
    if not configuration.open:
        return WITHHELD[Reason.HALTED_EVERYWHERE]
    if rollout.gate_state != "open":
        return _GATE_REASONS[rollout.gate_state]
    if rollout.suspended:
        return WITHHELD[Reason.SUSPENDED]
    if rollout.braked_reason is not None:
        return WITHHELD[Reason.BRAKED]
    if rollout.state != "running":
        return WITHHELD[Reason.ROLLOUT_PAUSED]
    if cloned:
        return WITHHELD[Reason.CLONED]
    if rollout.changeset_id in quarantined:
        return WITHHELD[Reason.QUARANTINED]
    if attempt is not None:
        if attempt.changeset_id == rollout.changeset_id and attempt.state in ("offered", "downloading"):
            return Offer(rollout, repeated=True)
        return WITHHELD[Reason.ATTEMPT_OPEN]
    if retry_changeset == rollout.changeset_id:
        return WITHHELD[Reason.RETRY_LATER]
    if changeset_in_flight >= rollout.changeset_pace:
        return WITHHELD[Reason.CHANGESET_PACE]
    if group_in_flight >= rollout.group_pace:
        return WITHHELD[Reason.GROUP_PACE]
    return Offer(rollout, repeated=False)
