"""Nodes and their quarantines."""

from __future__ import annotations

import uuid
from typing import Final

from services.control import requests
from services.control.store.applications import Applications
from services.control.store.base import SOURCE, Connection, Database, Row, rows_of, value_of
from shared.db import Queries
from shared.errors import NotFound

QUERIES: Final = Queries.load("services.control.store", "nodes.sql")


class Nodes:
    """Single machines with their history."""

    def __init__(self, database: Database, applications: Applications) -> None:
        self._database = database
        self._applications = applications

    async def listing(self, asked: requests.NodesQuery) -> list[Row]:
        """Nodes, by id."""
        application_id = await self._applications.id_of(asked.application)
        return rows_of(
            await self._database.pool.fetch(
                QUERIES["nodes"],
                asked.cursor,
                asked.limit,
                application_id,
                asked.group,
                asked.version,
                asked.machine,
                value_of(asked.state),
                asked.cloned,
            )
        )

    async def get(self, node_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One node with its facts, its attempts and its quarantines.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["node"], node_id)
        if row is None:
            raise NotFound(f"there is no node {node_id}")
        return {
            **dict(row),
            "attempts": rows_of(await place.fetch(QUERIES["attempts_of_node"], node_id)),
            "quarantines": rows_of(await place.fetch(QUERIES["quarantines_of_node"], node_id)),
        }

    async def lift_quarantine(self, node_id: uuid.UUID, changeset_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Let a changeset be offered to a node again; nothing is changed where it is not quarantined.

        Raises:
            NotFound: There is no such node.
        """
        async with self._database.change() as connection:
            node = await self.get(node_id, connection)
            lifted = await connection.fetchval(
                QUERIES["lift_quarantine"], node_id, changeset_id, reason, by, self._database.ids.uuid7(), SOURCE
            )
            if not lifted:
                return node
            await self._database.raise_policy_version(connection)
            return await self.get(node_id, connection)
