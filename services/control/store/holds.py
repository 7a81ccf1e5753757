"""Holds: no more of a changeset for the nodes of a segment."""

from __future__ import annotations

import uuid
from typing import Final

from services.control import requests
from services.control.acting import about
from services.control.store.applications import Applications
from services.control.store.approvals import four_eyes, policies_of_changeset
from services.control.store.base import SOURCE, Connection, Database, Made, Row, one, rows_of
from shared.db import Queries
from shared.domain.policy import Action
from shared.errors import Conflict, NotFound

QUERIES: Final = Queries.load("services.control.store", "holds.sql")


class Holds:
    """Segments that are held, by operators and by the analysis."""

    def __init__(self, database: Database, applications: Applications) -> None:
        self._database = database
        self._applications = applications

    async def add(self, changeset_id: uuid.UUID, asked: requests.NewHold, *, by: str) -> Made:
        """Hold a segment of a changeset; the same segment held twice is one hold. Says how many nodes it covers.

        Raises:
            NotFound: There is no such changeset.
            Conflict: It is a draft or withdrawn.
        """
        async with self._database.change() as connection:
            row = await connection.fetchrow(QUERIES["changeset_to_hold"], changeset_id)
            if row is None:
                raise NotFound(f"there is no changeset {changeset_id}")
            if row["state"] != "published":
                raise Conflict(
                    f"changeset {row['version']} is {row['state']}: it is offered to nobody, so nothing to hold"
                )
            await connection.execute(QUERIES["ensure_shut_gate"], changeset_id)
            wanted = self._database.ids.uuid7()
            hold_id = await connection.fetchval(
                QUERIES["hold_segment"],
                wanted,
                changeset_id,
                asked.segment,
                asked.reason,
                by,
                self._database.ids.uuid7(),
                SOURCE,
            )
            about(f"changesets/{changeset_id}")
            return Made(await self.get(hold_id, connection), new=hold_id == wanted)

    async def get(self, hold_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One hold with how many nodes it covers now.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["hold"], hold_id)
        if row is None:
            raise NotFound(f"there is no hold {hold_id}")
        covers = await place.fetchrow(
            QUERIES["covered"],
            row["application_id"],
            row["arch"],
            row["version"],
            row["segment"],
            row["changeset_id"],
        )
        return {**dict(row), "covers": one(covers)}

    async def listing(self, asked: requests.HoldsQuery) -> list[Row]:
        """Holds, the newest first."""
        application_id = await self._applications.id_of(asked.application)
        return rows_of(
            await self._database.pool.fetch(
                QUERIES["holds"], asked.cursor, asked.limit, application_id, asked.changeset, asked.in_force
            )
        )

    async def release(self, hold_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Let a segment be offered the changeset again; nothing is changed where that is so already.

        Raises:
            NotFound: There is no such hold.
            ApprovalWanted: A policy wants another one to allow it.
        """
        async with self._database.change() as connection:
            hold = await self.get(hold_id, connection)
            if hold["released_at"] is None:
                policies = await policies_of_changeset(connection, hold["changeset_id"])
                await four_eyes(
                    self._database, connection, Action.RELEASE_HOLD, policies, f"holds/{hold_id}", reason=reason
                )
                await connection.fetchval(
                    QUERIES["release_hold"], hold_id, reason, by, self._database.ids.uuid7(), SOURCE
                )
            return await self.get(hold_id, connection)
