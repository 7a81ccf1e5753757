"""Schemas of answers about applications."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import FLAG, ID, TEXT, TIME, Schema, object_of, or_null, words
from shared.domain.scheme import VersionScheme

ANSWERS: Final[dict[str, Schema]] = {
    "Application": object_of(
        "What nodes take updates of; `observe_only`: nodes are seen, and nothing is offered to them.",
        application_id=ID,
        name=TEXT,
        omaha_id=or_null(TEXT),
        product=or_null(TEXT),
        version_scheme=words(*(scheme.value for scheme in VersionScheme)),
        observe_only=FLAG,
        created_at=TIME,
    ),
}
