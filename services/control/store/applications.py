"""Applications."""

from __future__ import annotations

import uuid
from typing import Final

from services.control import requests
from services.control.acting import about
from services.control.store.base import Connection, Database, Made, Row, ids_of, rows_of
from shared.db import Queries
from shared.errors import Conflict, NotFound

QUERIES: Final = Queries.load("services.control.store", "applications.sql")


class Applications:
    """What nodes take updates of."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, asked: requests.NewApplication) -> Made:
        """Add an application.

        Raises:
            Conflict: The name has another omaha id, or the omaha id another name.
        """
        omaha_id = None if asked.omaha_id is None else asked.omaha_id.strip("{}").lower()
        async with self._database.plain() as connection:
            row = await connection.fetchrow(
                QUERIES["add_application"], self._database.ids.uuid7(), asked.name, omaha_id
            )
            if row is not None:
                about(f"applications/{row['application_id']}")
                return Made(dict(row), new=True)
            found = await connection.fetch(QUERIES["application_named"], asked.name, omaha_id or "")
        for known in found:
            if known["name"] == asked.name and known["omaha_id"] == omaha_id:
                return Made(dict(known), new=False)
        taken = ", ".join(f"{known['name']} (omaha id {known['omaha_id'] or 'none'})" for known in found)
        raise Conflict(
            f"the name or the omaha id is taken: {taken}", details={"items": ids_of(found, "application_id")}
        )

    async def get(self, reference: str, connection: Connection | None = None) -> Row:
        """One application by name, id or omaha id.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["application_named"], reference, reference.strip("{}"))
        if row is None:
            raise NotFound(f"there is no application {reference!r}: add it with `uneventful app add`")
        return dict(row)

    async def listing(self, page: requests.Page) -> list[Row]:
        """Applications, the oldest first."""
        return rows_of(await self._database.pool.fetch(QUERIES["applications"], page.cursor, page.limit))

    async def id_of(self, reference: str | None) -> uuid.UUID | None:
        """The id of the application that a filter names; None where it names none.

        Raises:
            NotFound: There is no such application.
        """
        return None if reference is None else (await self.get(reference))["application_id"]
