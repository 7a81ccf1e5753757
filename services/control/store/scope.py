"""Which application things belong to, for tokens that are for single applications."""

from __future__ import annotations

import uuid
from typing import Final

from services.control.store.base import Database
from shared.db import Queries

QUERIES: Final = Queries.load("services.control.store", "scope.sql")


class Scopes:
    """Finds the application of what a request names."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_reference(self, reference: str) -> str | None:
        """The id of an application by name, id or omaha id; None where there is none."""
        found: uuid.UUID | None = await self._database.pool.fetchval(
            QUERIES["application_of_reference"], reference, reference.strip("{}")
        )
        return None if found is None else str(found)

    async def of_thing(self, noun: str, thing_id: uuid.UUID) -> str | None:
        """The id of the application that a thing belongs to; None where there is no such thing."""
        found: uuid.UUID | None = await self._database.pool.fetchval(QUERIES["application_of_thing"], noun, thing_id)
        return None if found is None else str(found)
