"""Operators' tokens, by their hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from services.control import requests
from services.control.acting import about
from services.control.store.applications import Applications
from services.control.store.base import Database, Row, one, rows_of
from services.control.tokens import KnownToken, Role
from shared.db import Queries
from shared.errors import Conflict, InvalidInput, NotFound

QUERIES: Final = Queries.load("services.control.store", "tokens.sql")


class Tokens:
    """Whom tokens belong to."""

    def __init__(self, database: Database, applications: Applications) -> None:
        self._database = database
        self._applications = applications

    async def find(self, hashed: bytes) -> KnownToken | None:
        """What is kept of a token, by its hash."""
        row = await self._database.pool.fetchrow(QUERIES["token"], hashed)
        if row is None:
            return None
        applications = row["applications"]
        return KnownToken(
            name=row["name"],
            role=Role(row["role"]),
            applications=None if applications is None else frozenset(applications),
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
        )

    async def add(
        self,
        name: str,
        hashed: bytes,
        role: Role,
        *,
        replace: bool = False,
        by: str | None = None,
        applications: Sequence[str] | None = None,
        expires_at: datetime | None = None,
    ) -> Row:
        """Keep a token's hash.

        Raises:
            Conflict: There is a token of that name, and ``replace`` is not set.
            NotFound: There is no such application.
            InvalidInput: It would have expired already.
        """
        about(f"tokens/{name}")
        if expires_at is not None and expires_at <= self._database.clock.now():
            raise InvalidInput("expires_at is in the past: a token must be of use for some time")
        async with self._database.plain() as connection:
            only = None
            if applications is not None:
                only = sorted(
                    {str((await self._applications.get(item, connection))["application_id"]) for item in applications}
                )
            query = QUERIES["replace_token" if replace else "add_token"]
            row = await connection.fetchrow(query, name, hashed, role.value, only, by, expires_at)
            if row is None:
                raise Conflict(
                    f"there is a token named {name!r} already: choose another, or rotate it (on the server: --replace)"
                )
            return dict(row)

    async def listing(self, asked: requests.TokensQuery) -> list[Row]:
        """All tokens by name, those that are of no use any more included."""
        return rows_of(await self._database.pool.fetch(QUERIES["tokens"], asked.cursor, asked.limit))

    async def revoke(self, name: str) -> Row:
        """Make a token worthless for good; nothing is changed where it is so already.

        Raises:
            NotFound: There is no such token.
        """
        async with self._database.plain() as connection:
            await connection.execute(QUERIES["revoke_token"], name)
            row = await connection.fetchrow(QUERIES["token_named"], name)
            if row is None:
                raise NotFound(f"there is no token {name!r}: `uneventful token list` shows what there is")
            return dict(row)

    async def rotate(self, name: str, hashed: bytes, expires_at: datetime | None) -> Row:
        """Give a token another secret; the old one is worthless at once.

        Raises:
            NotFound: There is no such token.
            Conflict: It was revoked: that is for good.
            InvalidInput: It has expired, and no later time is given; or that is past, too.
        """
        async with self._database.plain() as connection:
            row = await connection.fetchrow(QUERIES["token_named"], name)
            if row is None:
                raise NotFound(f"there is no token {name!r}: `uneventful token list` shows what there is")
            if row["revoked_at"] is not None:
                raise Conflict(f"the token {name!r} was revoked, which is for good: create one of another name")
            ends = expires_at or row["expires_at"]
            if ends is not None and ends <= self._database.clock.now():
                raise InvalidInput(f"the token {name!r} would have expired already: give it a later expires_at")
            return one(await connection.fetchrow(QUERIES["rotate_token"], name, hashed, ends))

    async def note_used(self, used: Mapping[str, datetime]) -> None:
        """Keep when tokens were used last."""
        if used:
            await self._database.main.execute(QUERIES["note_used"], list(used), list(used.values()))
