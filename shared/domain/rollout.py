"""A rollout's life: which moves are allowed, and how each is called in the ledger.

``control.transition_rollout_v1`` is the same table next to the rows; a test compares them move by move.
"""

from __future__ import annotations

import enum


class RolloutState(enum.StrEnum):
    """Where a rollout stands; the last three are closed."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    COMPLETED = "completed"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"

    @property
    def active(self) -> bool:
        """Whether it is its group's rollout; a group has at most one per arch."""
        return self in ACTIVE


ACTIVE = frozenset({RolloutState.CREATED, RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED})

_FROM: dict[RolloutState, frozenset[RolloutState]] = {
    RolloutState.CREATED: frozenset(),
    RolloutState.RUNNING: frozenset({RolloutState.CREATED, RolloutState.PAUSED, RolloutState.HALTED}),
    RolloutState.PAUSED: frozenset({RolloutState.CREATED, RolloutState.RUNNING}),
    RolloutState.HALTED: frozenset({RolloutState.CREATED, RolloutState.RUNNING, RolloutState.PAUSED}),
    RolloutState.COMPLETED: frozenset({RolloutState.RUNNING}),
    RolloutState.ABORTED: ACTIVE,
    RolloutState.SUPERSEDED: ACTIVE,
}


def event_of(before: RolloutState, after: RolloutState) -> str | None:
    """The type of the event that this move makes; None where it is not allowed."""
    if before not in _FROM[after]:
        return None
    if after is RolloutState.RUNNING:
        return "rollout.started.v1" if before is RolloutState.CREATED else "rollout.resumed.v1"
    return f"rollout.{after.value}.v1"
