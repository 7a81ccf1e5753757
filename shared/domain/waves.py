"""Waves: a rollout widens in steps, each a share of the group that soaks before the next one begins. Pure."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

import msgspec

Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]

_POSITION_BITS: Final = 53
"""As many as a float holds exactly, so that Postgres and Python agree to the last bit."""


class Wave(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step: the share of the group that may be offered the changeset, and how long that must soak (seconds)."""

    fraction: Fraction
    soak_s: Annotated[float, msgspec.Meta(ge=0, le=90 * 86_400)] = 0.0


def position_of(machine_id: str, changeset_id: uuid.UUID) -> float:
    """Where a node stands in the order of a changeset, 0 <= position < 1.

    Each changeset has an order of its own, so that the same nodes are not always first. ``fleet.position_v1`` is the
    same next to the rows.
    """
    digest = hashlib.sha256(f"{changeset_id}/{machine_id}".encode()).digest()
    return float((int.from_bytes(digest[:7], "big") >> (56 - _POSITION_BITS)) / (1 << _POSITION_BITS))


def eligible(position: float, fraction: float) -> bool:
    """Whether a node may be offered the changeset while so much of the group may: nobody at 0, everybody at 1."""
    return position < fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveProgress:
    """How far the wave that runs has come; counts are live nodes of the group and arch.

    Attributes:
        wave: Its number from 0.
        since: When it began.
        nodes: Of the whole group.
        wave_nodes: Of the share that may be offered the changeset.
        wave_committed: Those of the share that run the changeset's version.
        committed: Whether an attempt of the rollout was committed.
    """

    wave: int
    since: datetime
    nodes: int
    wave_nodes: int
    wave_committed: int
    committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveVerdict:
    """Whether the next wave may begin.

    Attributes:
        following: The wave to go to; None to stay.
        waits_for: What the wave that runs still waits for, in words; empty in the last one.
        until: The earliest time at which its soak is over, where that is still to come.
    """

    following: int | None = None
    waits_for: tuple[str, ...] = ()
    until: datetime | None = None


def soak_ends(wave: Wave, since: datetime, *, soak_share: float = 1.0) -> datetime:
    """When the soak of a wave that began at ``since`` is over.

    Args:
        wave: The policy's.
        since: When it began.
        soak_share: How much of the soak is asked for; less than 1 for an expedited rollout.
    """
    return since + timedelta(seconds=wave.soak_s * soak_share)


def wave_after(waves: Sequence[Wave], progress: WaveProgress, now: datetime, *, soak_share: float = 1.0) -> WaveVerdict:
    """Whether a rollout goes from the wave that runs to the next one.

    It does when the wave's soak has passed, a node of the rollout has committed, and at least half of the wave's live
    nodes run the changeset. A wave that no live node falls into proves nothing and is passed at once.

    Args:
        waves: The policy's.
        progress: How far it has come.
        now: The time.
        soak_share: How much of the soak is asked for; less than 1 for an expedited rollout.
    """
    if progress.wave + 1 >= len(waves):
        return WaveVerdict()
    if progress.nodes and not progress.wave_nodes:
        return WaveVerdict(following=progress.wave + 1)
    ends = soak_ends(waves[progress.wave], progress.since, soak_share=soak_share)
    waits_for = []
    everybody = progress.wave_nodes > 0 and progress.wave_committed == progress.wave_nodes
    if not progress.committed and not everybody:
        waits_for.append("a first node of the rollout that commits")
    if 2 * progress.wave_committed < progress.wave_nodes or not progress.wave_nodes:
        needed = max(1, (progress.wave_nodes + 1) // 2)
        waits_for.append(f"{needed - progress.wave_committed} more of the wave's {progress.wave_nodes} nodes to commit")
    if now < ends:
        waits_for.append(f"the soak of wave {progress.wave + 1}, until {ends:%Y-%m-%d %H:%M:%S} UTC")
    if waits_for:
        return WaveVerdict(waits_for=tuple(waits_for), until=ends if now < ends else None)
    return WaveVerdict(following=progress.wave + 1)


def wave_of(waves: Sequence[Wave], fraction: float) -> int:
    """The wave that a share of the group belongs to: the last one that is not wider; 0 below the first."""
    return max([number for number, wave in enumerate(waves) if wave.fraction <= fraction], default=0)
