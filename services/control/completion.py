"""When a rollout has done its work, and when a group that was done needs one again. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

SILENT_AFTER: Final = timedelta(days=1)
"""A node that has not been heard for this long does not keep a rollout open; when it comes back it gets a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remainder:
    """What is left to do for one rollout.

    Attributes:
        left: Whether a node of the group and arch is on another version and could still be updated: heard within
            `SILENT_AFTER`, not gone, not cloned, not quarantined for this changeset.
        in_flight: Whether an attempt of the rollout is open, a parked one included.
        committed: Whether an attempt of the rollout was committed.
        on_target: Whether a node of the group and arch runs the changeset's version.
    """

    left: bool
    in_flight: bool
    committed: bool
    on_target: bool


def is_complete(remainder: Remainder) -> bool:
    """Whether a running rollout has nothing left to do.

    A group without any node is not complete: the rollout waits for the nodes to come.
    """
    return not remainder.left and not remainder.in_flight and (remainder.committed or remainder.on_target)


def pause_s(*, took_s: float, at_least_s: float, share: float = 0.05) -> float:
    """Seconds to wait until the next look, so that looking takes at most ``share`` of the time."""
    return max(at_least_s, took_s / share)
