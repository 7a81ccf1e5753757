"""Channels: named pointers to changesets."""

from __future__ import annotations

import uuid
from typing import Final

from services.control import requests
from services.control.acting import about
from services.control.store.applications import Applications
from services.control.store.approvals import four_eyes
from services.control.store.base import Connection, Database, Made, Row, lock_channel, rows_of
from services.control.store.changesets import Changesets
from services.control.store.rollouts import Rollouts
from shared.db import Queries
from shared.domain.policy import Action
from shared.errors import Conflict, InvalidInput, NotFound
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "channels.sql")


class Channels:
    """Named pointers to changesets, one per arch."""

    def __init__(
        self, database: Database, applications: Applications, changesets: Changesets, rollouts: Rollouts
    ) -> None:
        self._database = database
        self._applications = applications
        self._changesets = changesets
        self._rollouts = rollouts

    async def add(self, asked: requests.NewChannel) -> Made:
        """Add a channel that points nowhere yet.

        Raises:
            NotFound: There is no such application.
        """
        application_id = (await self._applications.get(asked.application))["application_id"]
        key = (application_id, asked.name, asked.arch)
        async with self._database.plain() as connection:
            added = await connection.fetchval(QUERIES["add_channel"], self._database.ids.uuid7(), *key)
            known = added or await connection.fetchval(QUERIES["channel_by_name"], *key)
            about(f"channels/{known}")
            return Made(await self.get(known, connection), new=added is not None)

    async def get(self, channel_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One channel.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["channel"], channel_id)
        if row is None:
            raise NotFound(f"there is no channel {channel_id}")
        return dict(row)

    async def listing(self, asked: requests.ChannelsQuery) -> list[Row]:
        """Channels, the oldest first."""
        application_id = await self._applications.id_of(asked.application)
        found = await self._database.pool.fetch(
            QUERIES["channels"], asked.cursor, asked.limit, application_id, asked.name, asked.arch
        )
        return rows_of(found)

    async def history(self, channel_id: uuid.UUID, limit: int) -> list[Row]:
        """What a channel pointed to, the newest first.

        Raises:
            NotFound: There is no such channel.
        """
        await self.get(channel_id)
        return rows_of(await self._database.pool.fetch(QUERIES["history"], channel_id, limit))

    async def promote(self, channel_id: uuid.UUID, changeset_id: uuid.UUID, *, reason: str | None, by: str) -> Row:
        """Point a channel to a changeset and start a rollout in every group that follows it, in one transaction.

        Groups that have this changeset as their last rollout, active or completed, keep it. So the same promotion
        twice changes nothing.

        Returns:
            ``channel``, and ``rollouts``: the ids of those that this call started.

        Raises:
            NotFound: There is no such channel or changeset.
            Conflict: The changeset is of another application or arch, not published, or halted.
        """
        async with self._database.change() as connection:
            row = await lock_channel(connection, channel_id)
            if row is None:
                raise NotFound(f"there is no channel {channel_id}")
            channel = dict(row)
            changeset = await self._changesets.get(changeset_id, connection)
            _check_promotable(channel, changeset)
            groups = rows_of(await connection.fetch(QUERIES["followers"], channel["application_id"], channel["name"]))
            await self._rollouts.lock_gates(connection, groups, [changeset_id])
            changeset = await self._changesets.get(changeset_id, connection)
            gate = changeset["gate"]
            if gate is not None and gate["state"] != "open":
                raise Conflict(
                    f"changeset {changeset['version']} is {gate['state']}: {gate['reason']}. "
                    f"Resume it first: `uneventful changeset resume {changeset_id} --reason ...`",
                    details={"gate": gate["state"], "changeset_id": changeset_id},
                )
            policies = [group["policy"] for group in groups]
            subject = f"channels/{channel_id}"
            await four_eyes(self._database, connection, Action.PROMOTE, policies, subject, reason=reason)
            previous = channel["changeset_id"]
            if previous != changeset_id:
                await connection.execute(QUERIES["point_channel"], channel_id, changeset_id)
                await connection.execute(QUERIES["add_history"], channel_id, changeset_id, by)
                data = types.ChannelPromoted(
                    channel_id=str(channel_id),
                    name=channel["name"],
                    application_id=str(channel["application_id"]),
                    arch=channel["arch"],
                    changeset_id=str(changeset_id),
                    version=changeset["version"],
                    by=by,
                    previous_changeset_id=None if previous is None else str(previous),
                )
                await append(connection, [self._database.event(data, f"channels/{channel_id}")])
            channel["changeset_id"] = changeset_id
            started = [
                rollout_id
                for group in groups
                if (
                    rollout_id := await self._rollouts.roll_out(
                        connection, group, channel, changeset, reason=reason, by=by
                    )
                )
            ]
            if started or previous != changeset_id:
                await self._database.raise_policy_version(connection)
            return {"channel": await self.get(channel_id, connection), "rollouts": started}

    async def to_follow(self, connection: Connection, application: Row, name: str) -> list[Row]:
        """The channels of a name, one per arch, which a group of the application is to follow.

        Raises:
            InvalidInput: There is none.
        """
        channels = rows_of(await connection.fetch(QUERIES["channels_followed"], application["application_id"], name))
        if not channels:
            raise InvalidInput(
                f"{application['name']} has no channel {name!r}: add it with `uneventful channel add`",
                details={"field": "channel"},
            )
        return channels


def _check_promotable(channel: Row, changeset: Row) -> None:
    if changeset["application_id"] != channel["application_id"]:
        raise Conflict(f"changeset {changeset['version']} is of {changeset['application']}, the channel is not")
    if changeset["arch"] != channel["arch"]:
        raise Conflict(f"changeset {changeset['version']} is for {changeset['arch']}, the channel {channel['arch']}")
    if changeset["state"] == "draft":
        raise Conflict(f"changeset {changeset['version']} is a draft: publish it first")
    if changeset["state"] != "published":
        raise Conflict(f"changeset {changeset['version']} is {changeset['state']}: promote another")
