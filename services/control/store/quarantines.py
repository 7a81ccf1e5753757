"""Quarantines over the whole fleet."""

from __future__ import annotations

from typing import Final

from services.control import requests
from services.control.listing import SORT_KEY, behind
from services.control.store.applications import Applications
from services.control.store.base import SOURCE, Database, Row, rows_of
from shared.db import Queries

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

    async def listing(self, asked: requests.QuarantinesQuery) -> list[Row]:
        """Counts by changeset and reason.

        Raises:
            InvalidInput: The cursor is of another list.
        """
        application_id = await self._applications.id_of(asked.application)
        changeset_id, reason = behind(asked.cursor)
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
            row[SORT_KEY] = row["reason"]
        return found

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
