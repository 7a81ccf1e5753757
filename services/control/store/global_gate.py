"""The gate that everything passes."""

from __future__ import annotations

from typing import Final

from services.control.acting import about
from services.control.store.base import Connection, Database, Row, one
from shared.db import Queries

QUERIES: Final = Queries.load("services.control.store", "global_gate.sql")


class GlobalGate:
    """Whether anything may be granted at all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, connection: Connection | None = None) -> Row:
        """Whether anything may be granted at all: ``open``, ``reason``, ``policy_version``."""
        place = self._database.pool if connection is None else connection
        return one(await place.fetchrow(QUERIES["global_gate"]))

    async def set(self, *, is_open: bool, reason: str, by: str) -> Row:
        """Halt everything, or let everything go on; nothing is changed where it is so already.

        A halt takes back what no node has staged yet, in the same transaction.
        """
        async with self._database.change() as connection:
            gate = await self.get(connection)
            if gate["open"] != is_open:
                about("gates/global")
                await connection.execute(QUERIES["set_global_gate"], is_open, reason)
                what = f"{'opened' if is_open else 'halted'}: {reason}"
                await self._database.policy_changed(connection, "gates/global", what, by)
                if not is_open:
                    await connection.execute(QUERIES["recall_everything"], "everything halted")
                gate = await self.get(connection)
            return gate
