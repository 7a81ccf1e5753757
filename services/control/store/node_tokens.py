"""Node tokens: what nodes prove themselves with; and what came from those that flood."""

from __future__ import annotations

import uuid
from typing import Final

from services.control import requests
from services.control.acting import about
from services.control.store.applications import Applications
from services.control.store.base import Connection, Database, Row, rows_of, value_of
from shared.db import Queries
from shared.errors import InvalidInput, NotFound
from shared.fleet.node_tokens import NodeTokenKind, make_node_token, node_token_hash

QUERIES: Final = Queries.load("services.control.store", "node_tokens.sql")


class NodeTokens:
    """Enrolment tokens, nodes' own tokens and path secrets; only their hashes are kept."""

    def __init__(self, database: Database, applications: Applications) -> None:
        self._database = database
        self._applications = applications

    async def add(self, asked: requests.NewNodeToken, *, by: str) -> Row:
        """Make a token; ``token`` in the answer is shown this once.

        Raises:
            NotFound: There is no such application or group.
            InvalidInput: An enrolment token without a group or with a machine, or a path secret with a group.
        """
        kind = NodeTokenKind(asked.kind.value)
        if kind is NodeTokenKind.ENROLMENT and (asked.group is None or asked.machine is not None):
            raise InvalidInput("an enrolment token is of a group: give `group` and no `machine`")
        if kind is NodeTokenKind.PATH and asked.group is not None:
            raise InvalidInput("a path secret is of an application or of one machine: leave `group` out")
        token = make_node_token(kind)
        async with self._database.plain() as connection:
            application = await self._applications.get(asked.application, connection)
            group_id = None
            if asked.group is not None:
                group_id = await connection.fetchval(
                    QUERIES["group_of_application"], application["application_id"], asked.group
                )
                if group_id is None:
                    raise NotFound(f"{application['name']} has no group {asked.group!r}: see `uneventful group list`")
            token_id = self._database.ids.uuid7()
            await connection.execute(
                QUERIES["add_node_token"],
                token_id,
                application["application_id"],
                kind.value,
                group_id,
                asked.machine,
                node_token_hash(token),
                asked.expires_in_s,
                by,
            )
            about(f"node-tokens/{token_id}")
            if kind is NodeTokenKind.PATH:
                await self._database.raise_policy_version(connection)
            if kind is NodeTokenKind.PATH:
                # Path secrets are part of the snapshot that update_check answers by.
                await self._database.raise_policy_version(connection)
            return {**await self.get(token_id, connection), "token": token}

    async def get(self, token_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One token, without its secret.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["node_token"], token_id)
        if row is None:
            raise NotFound(f"there is no node token {token_id}")
        return dict(row)

    async def listing(self, asked: requests.NodeTokensQuery) -> list[Row]:
        """Tokens, the oldest first, without their secrets."""
        application_id = await self._applications.id_of(asked.application)
        return rows_of(
            await self._database.pool.fetch(
                QUERIES["node_tokens"],
                asked.cursor,
                asked.limit,
                application_id,
                value_of(asked.kind),
                asked.machine,
                asked.revoked,
            )
        )

    async def revoke(self, token_id: uuid.UUID) -> Row:
        """Take a token out of force for good; nothing is changed where it is.

        Raises:
            NotFound: There is none.
        """
        async with self._database.plain() as connection:
            await self.get(token_id, connection)
            await connection.execute(QUERIES["revoke_node_token"], token_id)
            # Path secrets are part of the snapshot that update_check decides by.
            await self._database.raise_policy_version(connection)
            return await self.get(token_id, connection)

    async def floods(self, asked: requests.FloodsQuery) -> list[Row]:
        """From where more reports came than are taken, the newest first."""
        application_id = await self._applications.id_of(asked.application)
        return rows_of(await self._database.pool.fetch(QUERIES["floods"], application_id, asked.limit))
