"""Schemas of answers about applications."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import ID, TEXT, TIME, Schema, object_of, or_null

ANSWERS: Final[dict[str, Schema]] = {
    "Application": object_of(
        "What nodes take updates of.", application_id=ID, name=TEXT, omaha_id=or_null(TEXT), created_at=TIME
    ),
}
