"""Schemas of answers about holds."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import COUNT, ID, TEXT, TIME, Schema, object_of, or_null

_HOLD_COMMON: Final[dict[str, Schema]] = {
    "hold_id": ID,
    "changeset_id": ID,
    "application_id": ID,
    "application": TEXT,
    "version": TEXT,
    "arch": TEXT,
    "segment": {"type": "object", "additionalProperties": TEXT},
    "reason": TEXT,
    "held_by": TEXT,
    "held_at": TIME,
    "released_at": or_null(TIME),
    "released_by": or_null(TEXT),
    "release_reason": or_null(TEXT),
}
ANSWERS: Final[dict[str, Schema]] = {
    "HoldListed": object_of("No more of a changeset for a segment.", **_HOLD_COMMON),
    "Hold": object_of(
        "A hold with the nodes that it covers: all, those of them that do not tell one of its facts, those that run "
        "the version already, and those that have it under way.",
        **_HOLD_COMMON,
        covers=object_of("Nodes.", nodes=COUNT, untold=COUNT, on_version=COUNT, under_way=COUNT),
    ),
}
