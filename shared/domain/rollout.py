"""A rollout's life: which moves are allowed, and how each is called in the ledger.

``control.transition_rollout_v1`` is the same table next to the rows; a test compares them move by move.
"""

from __future__ import annotations

import enum


class RolloutState(enum.StrEnum):
    """Where a rollout stands; the last two are closed. A completed one goes on serving nodes that come later."""

    CREATED = "created"
    WAITING_FOR_GATE = "waiting_for_gate"
    WAITING_FOR_APPROVAL = "waiting_for_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    COMPLETED = "completed"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"

    @property
    def active(self) -> bool:
        """Whether it is its group's rollout; a group has at most one update per arch."""
        return self in ACTIVE

    @property
    def waiting(self) -> bool:
        """Whether it has not begun: a gate, an approval or its time is still to come."""
        return self in WAITING

    @property
    def serving(self) -> bool:
        """Whether its changeset may be offered."""
        return self in SERVING


class ShownState(enum.StrEnum):
    """What operators are shown: the state, with what the changeset's gate makes of a rollout that runs."""

    CREATED = "created"
    WAITING_FOR_GATE = "waiting_for_gate"
    WAITING_FOR_APPROVAL = "waiting_for_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    BRAKED = "braked"
    HELD = "held"
    PAUSED = "paused"
    HALTED = "halted"
    COMPLETED = "completed"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"


class Purpose(enum.StrEnum):
    """Why a rollout is there."""

    UPDATE = "update"
    """The group's next changeset."""
    FLOOR = "floor"
    """A floor that nodes take on the way to it."""
    DOWNGRADE = "downgrade"
    """Back from a version that was withdrawn."""
    DRILL = "drill"
    """Single nodes there and back, on purpose."""


WAITING = frozenset({RolloutState.WAITING_FOR_GATE, RolloutState.WAITING_FOR_APPROVAL, RolloutState.SCHEDULED})
ACTIVE = frozenset({RolloutState.CREATED, *WAITING, RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED})
SERVING = frozenset({RolloutState.RUNNING, RolloutState.COMPLETED})
CLOSED = frozenset({RolloutState.ABORTED, RolloutState.SUPERSEDED})

_STOPPED = frozenset({RolloutState.PAUSED, RolloutState.HALTED})
_FROM: dict[RolloutState, frozenset[RolloutState]] = {
    RolloutState.CREATED: frozenset(),
    RolloutState.WAITING_FOR_GATE: frozenset({RolloutState.CREATED, *_STOPPED}),
    RolloutState.WAITING_FOR_APPROVAL: frozenset({RolloutState.CREATED, RolloutState.WAITING_FOR_GATE, *_STOPPED}),
    RolloutState.SCHEDULED: frozenset(
        {RolloutState.CREATED, RolloutState.WAITING_FOR_GATE, RolloutState.WAITING_FOR_APPROVAL, *_STOPPED}
    ),
    RolloutState.RUNNING: frozenset({RolloutState.CREATED, *WAITING, *_STOPPED}),
    RolloutState.PAUSED: frozenset({RolloutState.CREATED, *WAITING, RolloutState.RUNNING}),
    RolloutState.HALTED: (ACTIVE | {RolloutState.COMPLETED}) - {RolloutState.HALTED},
    RolloutState.COMPLETED: frozenset({RolloutState.RUNNING}),
    RolloutState.ABORTED: ACTIVE | {RolloutState.COMPLETED},
    RolloutState.SUPERSEDED: ACTIVE | {RolloutState.COMPLETED},
}


def event_of(before: RolloutState, after: RolloutState, *, has_run: bool = False) -> str | None:
    """The type of the event that this move makes; None where it is not allowed.

    Args:
        before: Where it stands.
        after: Where it is to go.
        has_run: Whether it has been running before.
    """
    if before not in _FROM[after]:
        return None
    if after is RolloutState.RUNNING:
        return "rollout.resumed.v1" if has_run else "rollout.started.v1"
    if after in WAITING:
        return "rollout.waited.v1"
    return f"rollout.{after.value}.v1"


def shown(state: RolloutState, *, braked: bool, held: bool) -> ShownState:
    """What operators are shown of a rollout.

    Args:
        state: Its own state.
        braked: Whether its changeset or its group is braked.
        held: Whether a segment of its changeset is held.
    """
    if state is RolloutState.RUNNING and braked:
        return ShownState.BRAKED
    if state is RolloutState.RUNNING and held:
        return ShownState.HELD
    return ShownState(state.value)
