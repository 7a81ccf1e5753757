"""Schemas of answers about operators' tokens."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import ID, TEXT, TIME, Schema, object_of, or_null, words
from shared.web import Role

ROLE: Final[Schema] = words(*(role.value for role in Role))
_COMMON: Final[Schema] = {
    "name": TEXT,
    "role": ROLE,
    "applications": or_null({"type": "array", "items": ID}),
    "created_by": or_null(TEXT),
    "created_at": TIME,
    "expires_at": or_null(TIME),
    "revoked_at": or_null(TIME),
    "last_used_at": or_null(TIME),
}
ANSWERS: Final[dict[str, Schema]] = {
    "Token": object_of("An operator's token, without its secret; `last_used_at` is up to a minute late.", **_COMMON),
    "TokenMade": object_of("A token with its secret, which is shown this once.", **_COMMON, token=TEXT),
}
