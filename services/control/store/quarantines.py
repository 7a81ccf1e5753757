"""Quarantines over the whole fleet."""

from __future__ import annotations

import uuid
from typing import Final

from services.control import requests
from services.control.paging import cursor_of, place_of
from services.control.store.applications import Applications
from services.control.store.base import SOURCE, Database, Row, rows_of
from shared.db import Queries
from shared.errors import InvalidInput

QUERIES: Final = Queries.load("services.control.store", "quarantines.sql")
SHOWN: Final = 20
"""So many machine ids are shown of each changeset and reason."""
MAX_LIFTED: Final = 2_000
"""In one transaction."""


class Quarantines:
    """Changesets that are not offered to nodes again, seen from the changesets."""

    def __init__(self, database: Database, applications: Applications) -> None:
        self._database = database
        self._applications = applications

    async def listing(self, asked: requests.QuarantinesQuery) -> tuple[list[Row], str | None]:
        """Counts by changeset and reason, and the cursor of the next page.

        Raises:
            InvalidInput: The cursor is of another list.
        """
        application_id = await self._applications.id_of(asked.application)
        changeset_id, reason = None, None
        if asked.cursor is not None:
            text, reason = place_of(asked.cursor, 2)
            try:
                changeset_id = uuid.UUID(text)
            except ValueError as fault:
                raise InvalidInput("the cursor belongs to another list", details={"field": "cursor"}) from fault
        found = rows_of(
            await self._database.pool.fetch(
                QUERIES["quarantines"],
                changeset_id,
                reason,
                asked.limit,
                application_id,
                asked.group,
                asked.changeset,
                SHOWN,
            )
        )
        for row in found:
            row["machines"] = [machine for machine in row["machines"] if machine is not None]
        full = len(found) == asked.limit
        return found, cursor_of([str(found[-1]["changeset_id"]), found[-1]["reason"]]) if full else None

    async def lift(self, asked: requests.QuarantinesLift, *, by: str) -> Row:
        """Let a changeset be offered again to the machines named, or to all of them, some thousands at a time.

        Raises:
            NotFound: There is no such application.
        """
        async with self._database.change() as connection:
            application = await self._applications.get(asked.application, connection)
            found = await connection.fetch(
                QUERIES["quarantined_nodes"],
                asked.changeset,
                application["application_id"],
                list(asked.machines) or None,
                MAX_LIFTED,
            )
            ids = [row["node_id"] for row in found]
            lifted: int = await connection.fetchval(
                QUERIES["lift_quarantines"],
                ids,
                asked.changeset,
                [self._database.ids.uuid7() for _ in ids],
                asked.reason,
                by,
                SOURCE,
            )
            if lifted:
                await self._database.raise_policy_version(connection)
            left = await connection.fetchval(QUERIES["count_quarantined"], asked.changeset)
            return {"lifted": lifted, "left": left}
