"""What nodes prove themselves with: tokens of 256 bits, of which the database keeps only the SHA-256."""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
import re
import secrets
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
from aiohttp import hdrs
from multidict import MultiMapping

from shared.clock import Clock
from shared.db.queries import Queries
from shared.errors import NotAuthenticated

QUERIES: Final = Queries.load("shared.fleet")
REMEMBER_S: Final = 10.0
"""For how many seconds a token that was found in force is not looked up again."""
MAX_REMEMBERED: Final = 50_000

_BEARER: Final = re.compile(r"bearer +(?P<token>[A-Za-z0-9_-]{1,128})", re.IGNORECASE | re.ASCII)
_FORM: Final = re.compile(r"un[rnp]_[A-Za-z0-9_-]{43}", re.ASCII)


class NodeTokenKind(enum.StrEnum):
    """What a token is for."""

    ENROLMENT = "enrolment"
    """Any node of a group may enrol with it."""
    NODE = "node"
    """One machine's own."""
    PATH = "path"
    """The last part of an Omaha URL: of one machine, or of all."""


_PREFIXES: Final = {NodeTokenKind.ENROLMENT: "unr_", NodeTokenKind.NODE: "unn_", NodeTokenKind.PATH: "unp_"}
"""So that a token that lies about is recognised by people and by secret scanners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeToken:
    """A token that is in force.

    Attributes:
        machine_id: The machine that it belongs to; None where it belongs to any.
        expires_at: When it ends by itself.
    """

    token_id: uuid.UUID
    application_id: uuid.UUID
    kind: NodeTokenKind
    group_id: uuid.UUID | None
    machine_id: str | None
    expires_at: datetime | None = None


def make_node_token(kind: NodeTokenKind) -> str:
    """A new token: a prefix that tells its kind, and 43 characters of base64url (256 random bits)."""
    return _PREFIXES[kind] + secrets.token_urlsafe(32)


def derive_node_token(enrolment_token: str, application_id: uuid.UUID, machine_id: str, nonce: str) -> str:
    """The token that a machine gets for its nonce: whoever asks again with the same nonce gets the same one.

    So an answer that was lost can be asked for again, though nothing is kept of the token; and who holds the enrolment
    token, as every node of a group does, still cannot tell another machine's token without its nonce.
    """
    message = "\0".join((str(application_id), machine_id, nonce)).encode()
    digest = hmac.digest(enrolment_token.encode(), message, hashlib.sha256)
    return _PREFIXES[NodeTokenKind.NODE] + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def node_token_hash(token: str) -> bytes:
    """What is stored of a token: 32 bytes. No salt and no stretching: a token is too long to be guessed."""
    return hashlib.sha256(token.encode()).digest()


def bearer_of(headers: MultiMapping[str]) -> str | None:
    """The bearer token of a request (RFC 6750); None where it carries none.

    Raises:
        NotAuthenticated: What it carries has not the form of a token.
    """
    given = headers.get(hdrs.AUTHORIZATION)
    if given is None:
        return None
    found = _BEARER.fullmatch(given.strip())
    if found is None:
        raise NotAuthenticated("send the token as `Authorization: Bearer <token>`")
    return found["token"]


class NodeTokenCheck:
    """Looks tokens up by their hash. A revoked one is taken for `REMEMBER_S` longer at most.

    Tokens that are not in force are never remembered.

    Args:
        pool: Where connections come from.
        clock: Measures how long a token is remembered, and tells whether it has expired.
    """

    def __init__(self, pool: asyncpg.Pool[Any], clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, NodeToken]] = OrderedDict()

    async def find(self, token: str) -> NodeToken | None:
        """The token as it is in force; None where it is not.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError: Postgres did not answer.
        """
        if _FORM.fullmatch(token) is None:
            return None
        hashed = node_token_hash(token)
        known = self._known.get(hashed)
        if known is not None and self._clock.monotonic() < known[0] and not self._has_expired(known[1]):
            return known[1]
        self._known.pop(hashed, None)
        row = await self._pool.fetchrow(QUERIES["node_token"], hashed, timeout=5)
        if row is None:
            return None
        found = NodeToken(
            token_id=row["token_id"],
            application_id=uuid.UUID(int=row["application_id"].int),
            kind=NodeTokenKind(row["kind"]),
            group_id=row["group_id"],
            machine_id=row["machine_id"],
            expires_at=row["expires_at"],
        )
        if self._has_expired(found):
            return None
        self._known[hashed] = (self._clock.monotonic() + REMEMBER_S, found)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return found

    async def node_of(self, headers: MultiMapping[str], *, required: bool) -> NodeToken | None:
        """The node token that a request carries; None where it carries none and none is required.

        Raises:
            NotAuthenticated: It carries none though one is required, or one that is not a node's or not in force.
            OSError, TimeoutError, asyncpg.PostgresError: Postgres did not answer.
        """
        token = bearer_of(headers)
        if token is None:
            if required:
                raise NotAuthenticated("send the node's token as `Authorization: Bearer <token>`; /v1/enrol gives one")
            return None
        found = await self.find(token)
        if found is None or found.kind is not NodeTokenKind.NODE:
            raise NotAuthenticated("this is no node's token, or it is revoked: enrol again")
        return found

    def _has_expired(self, token: NodeToken) -> bool:
        return token.expires_at is not None and token.expires_at <= self._clock.now()
