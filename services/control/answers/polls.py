"""Schemas of answers about polls."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import COUNT, TEXT, TIME, Schema, object_of, or_null

ANSWERS: Final[dict[str, Schema]] = {
    "Polls": object_of(
        "One poll per line; `answer` is `granted`, why nothing was offered, or why it was not understood.",
        poll_id=COUNT,
        at=TIME,
        dialect=TEXT,
        address=or_null(TEXT),
        application=or_null(TEXT),
        machine_id=or_null(TEXT),
        version=or_null(TEXT),
        group_name=or_null(TEXT),
        answer=TEXT,
        detail=or_null(TEXT),
    ),
}
