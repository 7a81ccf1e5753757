"""Operators' tokens, by their hash."""

from __future__ import annotations

from typing import Final

from services.control.store.base import Database
from services.control.tokens import Role
from shared.db import Queries
from shared.errors import Conflict

QUERIES: Final = Queries.load("services.control.store", "tokens.sql")


class Tokens:
    """Whom tokens belong to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, hashed: bytes) -> tuple[str, Role] | None:
        """Whom a token belongs to and what it may do, by its hash."""
        row = await self._database.pool.fetchrow(QUERIES["token"], hashed)
        return None if row is None else (row["name"], Role(row["role"]))

    async def add(self, name: str, hashed: bytes, role: Role, *, replace: bool) -> None:
        """Keep a token's hash.

        Raises:
            Conflict: There is a token of that name, and ``replace`` is not set.
        """
        query = QUERIES["replace_token" if replace else "add_token"]
        if await self._database.pool.fetchval(query, name, hashed, role.value) is None:
            raise Conflict(f"there is a token named {name!r} already: choose another name, or replace it")
