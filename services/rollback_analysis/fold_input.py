"""What the fold reads: the few facts of ledger events that decide anything.

The service's edge maps events onto these. Ids are strings, compared for equality only; times other than a tick's
``recorded_at`` play no part.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from services.rollback_analysis.evidence import grid_for
from services.rollback_analysis.pace import default_hold_budget

VERSION_REGRESSED: Final = "version_regressed"
"""Reason of a ``rolled_back`` that was seen by the version going back after the commit."""


class UpdateKind(enum.Enum):
    """The ``update.*`` events, by the middle of their names."""

    OFFERED = "offered"
    DOWNLOAD_STARTED = "download_started"
    DOWNLOADED = "downloaded"
    STAGED = "staged"
    REBOOT_AWAITED = "reboot_awaited"
    PARKED = "parked"
    BOOTED = "booted"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    PRESUMED_LOST = "presumed_lost"
    RECALLED = "recalled"


class RolloutEnd(enum.Enum):
    """Why a rollout takes no part any more."""

    ABORTED = "aborted"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a changeset is judged by; frozen by the first rollout that is created for it.

    Durations are seconds of observed time.

    Attributes:
        p0: allowed rate of bad outcomes.
        alpha: allowed probability of ever halting a release within ``p0``; halved by every resume.
        block_size: starts per block.
        planned_blocks: blocks that the restarts' weight is spread over.
        hold_budget: ``H``, bad nodes in flight to be put up with.
        pace_limit: ``F``, the most nodes in flight.
        overdue_s: a staged node without contact for so long has started.
        silence_s: a started node without contact for so long is bad.
        offer_deadline_s: an offered or downloading attempt without an event for so long is given up.
        park_after_s: an attempt that awaits its reboot for so long is parked.
        outage_grace_s: after an outage of ours, nodes that were last heard before its end get at least so long before
            they are overdue or silent, since clients back off. None: 2.4 times ``silence_s`` (6 h by default).
    """

    p0: float = 0.01
    alpha: float = 0.01
    block_size: int = 64
    planned_blocks: int
    hold_budget: int
    pace_limit: int
    overdue_s: float = 5_400.0
    silence_s: float = 9_000.0
    offer_deadline_s: float = 21_600.0
    park_after_s: float = 86_400.0
    outage_grace_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be judged by, with a ValueError that names the parameter."""
        grid_for(self.p0)
        if not 0.0 < self.alpha < 1.0:
            message = f"alpha must lie between 0 and 1, not {self.alpha!r}"
            raise ValueError(message)
        for name, least in (("block_size", 1), ("planned_blocks", 1), ("hold_budget", 1), ("pace_limit", 0)):
            if getattr(self, name) < least:
                message = f"{name} must be at least {least}, not {getattr(self, name)!r}"
                raise ValueError(message)
        for name in ("overdue_s", "silence_s", "offer_deadline_s", "park_after_s"):
            if not 0.0 < getattr(self, name) < float("inf"):
                message = f"{name} must be a positive number of seconds, not {getattr(self, name)!r}"
                raise ValueError(message)
        if self.outage_grace_s is not None and not 0.0 <= self.outage_grace_s < float("inf"):
            message = f"outage_grace_s must be a number of seconds and not negative, not {self.outage_grace_s!r}"
            raise ValueError(message)

    @classmethod
    def for_fleet(cls, fleet: int, *, pace_limit: int, p0: float = 0.01, alpha: float = 0.01) -> Self:
        """The defaults for a fleet of so many nodes: blocks of 16 below 2,000 nodes, else 64; ``H`` by its size."""
        block_size = 16 if fleet < 2_000 else 64
        return cls(
            p0=p0,
            alpha=alpha,
            block_size=block_size,
            planned_blocks=max(1, -(-fleet // block_size)),
            hold_budget=default_hold_budget(fleet),
            pace_limit=pace_limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutCreated:
    """A group begins to take a changeset.

    ``group_pace_limit`` is ``F_g``; ``group_hold_budget`` is ``H_g``, and None leaves it to the group's size and the
    changeset's ``H``. ``parameters`` count only for the changeset's first rollout.
    """

    rollout_id: str
    changeset_id: str
    group_id: str
    group_size: int
    group_pace_limit: int
    parameters: Parameters
    group_hold_budget: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutEnded:
    """A rollout was aborted or superseded: its group leaves; its nodes in flight are still judged.

    A completed one goes on serving nodes that come later, so that its group stays.
    """

    rollout_id: str
    changeset_id: str
    how: RolloutEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutResumed:
    """An operator lets a group go on that a bad outcome had braked."""

    rollout_id: str
    changeset_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsChanged:
    """Operators changed what may be in flight, or the group grew; None leaves a value as it is."""

    rollout_id: str
    changeset_id: str
    group_size: int | None = None
    group_pace_limit: int | None = None
    pace_limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesetHalted:
    """A changeset was halted, by our own verdict (then nothing changes) or by an operator."""

    changeset_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesetResumed:
    """An operator lets a halted changeset go on, or promoted it again."""

    changeset_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGone:
    """A node was taken out of service on purpose: what it started stays in n and never gets into k."""

    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateObserved:
    """Something happened to an attempt.

    Attributes:
        applied: whether it moved the attempt; what did not is contact, nothing else.
        attempt_id: None only where nobody knows; a rollback then falls to the attempt that counts for the node.
    """

    kind: UpdateKind
    attempt_id: str | None
    node_id: str
    changeset_id: str
    rollout_id: str
    group_id: str
    applied: bool = True
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """The ledger's clock.

    Attributes:
        contacts: contacts since the last tick of nodes that are not updating, by site.
        expected: contacts that were to be expected, by site; every site that has nodes must be in it.
        ingest_lag_s: age of the oldest report that is not in the ledger yet, in seconds.
    """

    contacts: Mapping[str, int]
    expected: Mapping[str, float]
    ingest_lag_s: float = 0.0


FoldInput = (
    RolloutCreated
    | RolloutEnded
    | RolloutResumed
    | LimitsChanged
    | ChangesetHalted
    | ChangesetResumed
    | NodeGone
    | UpdateObserved
    | Ticked
)
