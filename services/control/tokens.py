"""Operator tokens: 256 random bits each; the database keeps only their SHA-256."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shared.errors import NotAuthenticated
from shared.web import Principal, Role

__all__ = ["PREFIX", "KnownToken", "Role", "is_token", "make_token", "principal_of", "token_hash"]

PREFIX: Final = "une_"
"""So that a token that lies about is recognised by people and by secret scanners."""

_FORM: Final = re.compile(r"une_[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownToken:
    """What is kept of a token.

    Attributes:
        applications: The ids of the applications that it is for; None: all.
        expires_at: When it ends by itself; None: never.
        revoked_at: When it was taken back; None: it was not.
    """

    name: str
    role: Role
    applications: frozenset[str] | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


def make_token() -> str:
    """A new token: ``une_`` and 43 characters of base64url (256 random bits)."""
    return PREFIX + secrets.token_urlsafe(32)


def is_token(text: str) -> bool:
    """Whether a text has the form of a token, so that other texts need no look-up."""
    return _FORM.fullmatch(text) is not None


def token_hash(token: str) -> bytes:
    """What is stored of a token: 32 bytes. No salt and no stretching: a token is too long to be guessed."""
    return hashlib.sha256(token.encode()).digest()


def principal_of(token: KnownToken, now: datetime) -> Principal:
    """Whom a token belongs to.

    Raises:
        NotAuthenticated: It is revoked or has expired.
    """
    if token.revoked_at is not None:
        raise NotAuthenticated(
            f"the token {token.name!r} was revoked at {token.revoked_at:%Y-%m-%d %H:%M} UTC: ask an admin for another"
        )
    if token.expires_at is not None and token.expires_at <= now:
        raise NotAuthenticated(
            f"the token {token.name!r} expired at {token.expires_at:%Y-%m-%d %H:%M} UTC: "
            f"an admin makes a new one with `uneventful token rotate {token.name}`"
        )
    return Principal(token.name, token.role, token.applications)
