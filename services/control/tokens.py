"""Operator tokens: 256 random bits each; the database keeps only their SHA-256."""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
from typing import Final

PREFIX: Final = "une_"
"""So that a token that lies about is recognised by people and by secret scanners."""

_FORM: Final = re.compile(r"une_[A-Za-z0-9_-]{43}", re.ASCII)


class Role(enum.StrEnum):
    """What the bearer of a token may do: everything, or only look."""

    ADMIN = "admin"
    VIEWER = "viewer"


def make_token() -> str:
    """A new token: ``une_`` and 43 characters of base64url (256 random bits)."""
    return PREFIX + secrets.token_urlsafe(32)


def is_token(text: str) -> bool:
    """Whether a text has the form of a token, so that other texts need no look-up."""
    return _FORM.fullmatch(text) is not None


def token_hash(token: str) -> bytes:
    """What is stored of a token: 32 bytes. No salt and no stretching: a token is too long to be guessed."""
    return hashlib.sha256(token.encode()).digest()
