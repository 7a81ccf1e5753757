"""Should this node update, and to what? A pure function; most polls end here without a look at the database."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.update_check.configuration import Configuration, RolloutView
from services.update_check.poll import Poll
from services.update_check.standing import OpenAttempt
from services.update_check.withheld import WITHHELD, Withheld
from shared.domain.observation import ObservationSource
from shared.domain.reasons import Reason
from shared.domain.waves import eligible, position_of


@dataclass(frozen=True, slots=True)
class Offer:
    """The rollout may be offered, if the gates and paces in the database agree."""

    rollout: RolloutView
    repeated: bool
    """The node has this offer already and asks again."""


Decision = Withheld | Offer

# Looked up once: the hash of an enum costs more than a poll can spare.
_OBSERVE_ONLY = WITHHELD[Reason.OBSERVE_ONLY]
_NO_GROUP = WITHHELD[Reason.NO_GROUP]
_NO_ROLLOUT = WITHHELD[Reason.NO_ROLLOUT]
_UPDATES_DISABLED = WITHHELD[Reason.UPDATES_DISABLED]
_HALTED_EVERYWHERE = WITHHELD[Reason.HALTED_EVERYWHERE]
_SUSPENDED = WITHHELD[Reason.SUSPENDED]
_BRAKED = WITHHELD[Reason.BRAKED]
_HELD = WITHHELD[Reason.HELD]
_EXCLUDED = WITHHELD[Reason.EXCLUDED]
_CLONED = WITHHELD[Reason.CLONED]
_QUARANTINED = WITHHELD[Reason.QUARANTINED]
_ATTEMPT_OPEN = WITHHELD[Reason.ATTEMPT_OPEN]
_WINDOW_CLOSED = WITHHELD[Reason.WINDOW_CLOSED]
_RETRY_LATER = WITHHELD[Reason.RETRY_LATER]
_ORDER_STAGE = WITHHELD[Reason.ORDER_STAGE]
_WAVE = WITHHELD[Reason.WAVE]
_CHANGESET_PACE = WITHHELD[Reason.CHANGESET_PACE]
_GROUP_PACE = WITHHELD[Reason.GROUP_PACE]

_GATE_REASONS = {
    "halted": WITHHELD[Reason.HALTED],
    "suspended": _SUSPENDED,
    "withdrawn": WITHHELD[Reason.WITHDRAWN],
}
_STATE_REASONS = {
    "created": WITHHELD[Reason.ROLLOUT_PAUSED],
    "waiting_for_gate": WITHHELD[Reason.WAITING_FOR_GATE],
    "waiting_for_approval": WITHHELD[Reason.WAITING_FOR_APPROVAL],
    "scheduled": WITHHELD[Reason.SCHEDULED],
    "paused": WITHHELD[Reason.ROLLOUT_PAUSED],
    "halted": WITHHELD[Reason.HALTED],
}
"""Of the states that a rollout does not serve in."""

_UNSTAGED = ("offered", "downloading")
_SHOWN = (*_UNSTAGED, "staged", "awaiting_reboot")


def decide(
    configuration: Configuration,
    poll: Poll,
    *,
    now: datetime,
    attempt: OpenAttempt | None,
    quarantined: Container[UUID],
    cloned: bool,
    retry_changeset: UUID | None,
    changeset_in_flight: Mapping[UUID, int],
    group_in_flight: Mapping[UUID, int],
) -> Decision:
    """Decide for one node.

    Args:
        configuration: The operators' word.
        poll: The node, and what it says.
        now: The time, for change windows.
        attempt: Its open attempt.
        quarantined: Changesets that are not offered to it again.
        cloned: Whether its machine id is shared by several machines.
        retry_changeset: A changeset that it is not offered again for now, since attempts at it have failed.
        changeset_in_flight: Nodes in flight by changeset.
        group_in_flight: Nodes in flight by group.
    """
    if poll.application.observe_only:
        return _OBSERVE_ONLY
    group = poll.group
    if group is None:
        return _NO_GROUP
    rollouts = group.rollouts.get(poll.arch) if poll.arch is not None else None
    if rollouts is None:
        return _NO_ROLLOUT
    machine_id = poll.key[1]
    rollout = rollouts.pick(machine_id, poll.version)
    if isinstance(rollout, Withheld):
        return rollout
    if not group.updates_enabled:
        return _UPDATES_DISABLED
    if not configuration.open:
        return _HALTED_EVERYWHERE
    shut = _shut(rollout)
    if shut is not None:
        return shut
    if rollout.holds and _is_held(rollout, poll):
        return _HELD
    if machine_id in rollout.excluded:
        return _EXCLUDED
    if cloned:
        return _CLONED
    changeset_id = rollout.changeset_id
    if changeset_id in quarantined:
        return _QUARANTINED
    if attempt is not None and (attempt.changeset_id != changeset_id or attempt.state not in _repeatable(poll)):
        return _ATTEMPT_OPEN
    jumps = poll.on_demand and rollout.ondemand_jumps_waves
    if rollout.windows is not None and not jumps and not rollout.is_window_open(now):
        return _WINDOW_CLOSED
    if attempt is not None:
        return Offer(rollout, repeated=True)
    if retry_changeset == changeset_id:
        return _RETRY_LATER
    if not jumps:
        if rollout.order is not None and rollout.order.stage_of(poll.fact(rollout.order.fact)) > rollout.order_stage:
            return _ORDER_STAGE
        if rollout.fraction < 1 and not eligible(position_of(machine_id, changeset_id), rollout.fraction):
            return _WAVE
    if changeset_in_flight.get(changeset_id, 0) >= rollout.changeset_pace:
        return _CHANGESET_PACE
    if group_in_flight.get(rollout.group_id, 0) >= rollout.group_pace:
        return _GROUP_PACE
    return Offer(rollout, repeated=False)


def _repeatable(poll: Poll) -> tuple[str, ...]:
    """The states in which a node that asks again is offered the same again."""
    # A node that is shown edges is taken to stage what it sees; where it asks again it has not.
    return _SHOWN if poll.source is ObservationSource.CINCINNATI else _UNSTAGED


def _shut(rollout: RolloutView) -> Withheld | None:
    """Why nobody is offered the rollout now."""
    if rollout.gate_state != "open":
        return _GATE_REASONS[rollout.gate_state]
    if rollout.suspended:
        return _SUSPENDED
    if rollout.braked_reason is not None:
        return _BRAKED
    return _STATE_REASONS.get(rollout.state)


def _is_held(rollout: RolloutView, poll: Poll) -> bool:
    """Whether the node belongs to a segment that is held: unless it tells a fact of it with another value."""
    for segment in rollout.holds:
        for name, value in segment:
            told = poll.fact(name)
            if told is not None and told != value:
                break
        else:
            return True
    return False
