"""What the fold keeps between two lives: rows for the analysis schema. Floats are hex strings, so that none changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRow:
    """The one row of the fold itself; ``state`` is JSON-ready."""

    last_seq: int
    state: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesetRow:
    """A changeset: ``state`` is what restores it, ``view`` is for readers (plain JSON numbers)."""

    changeset_id: str
    state: Mapping[str, object]
    view: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """An attempt. ``block`` and ``epoch`` (resumes before its start) only if it counts; times in observed seconds."""

    attempt_id: str
    changeset_id: str
    node_id: str
    rollout_id: str
    group_id: str
    phase: str
    outcome: str
    block: int | None
    epoch: int
    parked: bool
    last_contact_observed_s: str
    awaiting_since_observed_s: str | None
    park_due_observed_s: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Rows to be written (inserted or replaced) in the transaction that moves the checkpoint."""

    fold: FoldRow | None
    changesets: tuple[ChangesetRow, ...]
    attempts: tuple[AttemptRow, ...]
