"""Schemas of answers about the service itself."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import ID, TEXT, Schema, object_of, or_null, words
from shared.web import Role

ANSWERS: Final[dict[str, Schema]] = {
    "Problem": object_of(
        "What went wrong (RFC 9457); `code` is for machines, `detail` says what to do.",
        type=TEXT,
        title=TEXT,
        status={"type": "integer"},
        detail=TEXT,
        code=TEXT,
    ),
    "Server": object_of(
        "This server and who asks.",
        service=TEXT,
        api=TEXT,
        distribution_url=or_null(TEXT),
        principal=object_of(
            "Whose token was sent, and the ids of the applications that it is for; null: all.",
            name=TEXT,
            role=words(*(role.value for role in Role)),
            applications=or_null({"type": "array", "items": ID}),
        ),
    ),
    "Description": {"type": "object", "additionalProperties": True, "description": "This document."},
    "Page": {"type": "string", "description": "This document, to be read by people."},
}
