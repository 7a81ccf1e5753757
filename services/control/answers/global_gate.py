"""Schemas of answers about the global gate."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import COUNT, FLAG, TEXT, Schema, object_of, or_null

ANSWERS: Final[dict[str, Schema]] = {
    "GlobalGate": object_of(
        "Whether anything may be offered at all.", open=FLAG, reason=or_null(TEXT), policy_version=COUNT
    ),
}
