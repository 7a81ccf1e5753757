"""What the fold decides, and its canonical bytes."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import orjson


class ExpireReason(enum.Enum):
    """Why an attempt is given up."""

    SILENT = "silent"
    NO_PROGRESS = "no_progress"


class BlindReason(enum.Enum):
    """Why we cannot see."""

    CONTACTS_MISSING = "contacts_missing"
    INGEST_LAG = "ingest_lag"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Nodes of a changeset, each by its first started attempt.

    ``started = good + bad + dropped + pending``; dropped were recalled after their start, gone, or turned out not to
    have rebooted: in n, not in k. ``silent`` and ``late_good`` (committed after all) are among the bad.
    """

    started: int
    good: int
    bad: int
    pending: int
    dropped: int
    silent: int
    late_good: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """Stop the changeset everywhere; ``evidence`` is JSON-ready and says why."""

    seq: int
    changeset_id: str
    evidence: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """So many nodes may be in flight: of the changeset, and of each of its rollouts' groups (all active ones)."""

    seq: int
    changeset_id: str
    pace: int
    groups: Mapping[str, int]
    p_upper: float
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """Close the attempt: silent after its start, or without progress before it."""

    seq: int
    attempt_id: str
    node_id: str
    changeset_id: str
    rollout_id: str
    reason: ExpireReason
    counted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Take an attempt that awaits its reboot out of the pace."""

    seq: int
    attempt_id: str
    node_id: str
    changeset_id: str
    rollout_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """We cannot see (a site, or anything when ``site`` is None): everything is braked, silence is not counted."""

    seq: int
    site: str | None
    reason: BlindReason
    seen: float
    expected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighted:
    """We see again what ``Blind`` named."""

    seq: int
    site: str | None
    reason: BlindReason


Verdict: TypeAlias = Halt | Pace | Expire | Park | Blind | Sighted


def verdict_bytes(verdict: Verdict) -> bytes:
    """Canonical bytes: JSON with sorted keys, every float as ``{"hex": ..., "repr": ...}``."""
    fields = {field.name: getattr(verdict, field.name) for field in dataclasses.fields(verdict)}
    return orjson.dumps(
        {"verdict": type(verdict).__name__.lower(), **_exact_fields(fields)}, option=orjson.OPT_SORT_KEYS
    )


def _exact_fields(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: _exact(value) for name, value in fields.items()}


def _exact(value: object) -> object:
    if isinstance(value, float):
        return {"hex": value.hex(), "repr": repr(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Counts):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(name): _exact(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(item) for item in value]
    return value
