"""Groups: nodes under one policy."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final

import msgspec

from services.control import publishing, requests
from services.control.store.applications import Applications
from services.control.store.base import Connection, Database, Made, Row, lock_group, rows_of
from services.control.store.changesets import Changesets
from services.control.store.channels import Channels
from services.control.store.rollouts import Rollouts
from shared.db import Queries
from shared.errors import Conflict, NotFound

QUERIES: Final = Queries.load("services.control.store", "groups.sql")


class Groups:
    """Nodes under one policy, which follow a channel."""

    def __init__(
        self,
        database: Database,
        applications: Applications,
        changesets: Changesets,
        channels: Channels,
        rollouts: Rollouts,
    ) -> None:
        self._database = database
        self._applications = applications
        self._changesets = changesets
        self._channels = channels
        self._rollouts = rollouts

    async def add(self, asked: requests.NewGroup, *, by: str) -> Made:
        """Add a group; where its channel has a changeset, its rollout starts at once.

        Raises:
            NotFound: There is no such application.
            InvalidInput: There is no such channel, or the policy is not usable.
            Conflict: The name or the position is taken.
        """
        publishing.read_policy(asked.policy)
        policy = publishing.merge_policy({}, asked.policy)
        selector = {name: list(values) for name, values in asked.selector.items()}
        async with self._database.change() as connection:
            application = await self._applications.get(asked.application, connection)
            application_id = application["application_id"]
            known = await connection.fetchrow(QUERIES["group_by_name"], application_id, asked.name)
            if known is not None:
                given = (asked.channel, selector, policy, asked.updates_enabled)
                there = (known["channel_name"], known["selector"], known["policy"], known["updates_enabled"])
                if given != there or asked.position not in (None, known["position"]):
                    raise Conflict(
                        f"there is a group {asked.name!r} already, with other content: change it with "
                        "`uneventful group set`",
                        details={"group_id": known["group_id"]},
                    )
                return Made(await self.get(known["group_id"], connection), new=False)
            channels = await self._channels.to_follow(connection, application, asked.channel)
            position = asked.position
            if position is None:
                position = 1 + await connection.fetchval(QUERIES["last_position"], application_id)
            await self._check_position(connection, application_id, position)
            group: Row = {
                "group_id": self._database.ids.uuid7(),
                "application_id": application_id,
                "name": asked.name,
                "position": position,
                "channel_name": asked.channel,
                "selector": selector,
                "policy": policy,
                "updates_enabled": asked.updates_enabled,
            }
            await self._rollouts.check_gates(connection, application_id, group)
            await connection.execute(QUERIES["add_group"], *group.values())
            await self._follow(connection, group, channels, by=by)
            await self._database.policy_changed(connection, f"groups/{group['group_id']}", "group added", by)
            return Made(await self.get(group["group_id"], connection), new=True)

    async def change(self, group_id: uuid.UUID, patch: requests.GroupPatch, *, by: str) -> Row:
        """Change what the patch gives; a rollout that runs keeps the policy that it was started with.

        A group that gets another channel gets that channel's rollouts at once; its active rollouts of archs for which
        the new channel has nothing are aborted.

        Raises:
            NotFound: There is no such group.
            InvalidInput: There is no such channel, or the policy is not usable.
            Conflict: The position is taken.
        """
        async with self._database.change() as connection:
            row = await lock_group(connection, group_id)
            if row is None:
                raise NotFound(f"there is no group {group_id}")
            before = dict(row)
            group = dict(row)
            if patch.policy is not msgspec.UNSET:
                group["policy"] = publishing.merge_policy(before["policy"], patch.policy)
            if patch.selector is not msgspec.UNSET:
                group["selector"] = {name: list(values) for name, values in patch.selector.items()}
            if patch.updates_enabled is not msgspec.UNSET:
                group["updates_enabled"] = patch.updates_enabled
            if patch.position is not msgspec.UNSET and patch.position != before["position"]:
                await self._check_position(connection, group["application_id"], patch.position)
                group["position"] = patch.position
            if patch.channel is not msgspec.UNSET:
                group["channel_name"] = patch.channel
            changed = [name for name in group if group[name] != before[name]]
            if changed:
                application = await self._applications.get(str(group["application_id"]), connection)
                channels = await self._channels.to_follow(connection, application, group["channel_name"])
                if {"policy", "channel_name"} & set(changed):
                    await self._rollouts.check_gates(connection, group["application_id"], group)
                await connection.execute(
                    QUERIES["set_group"],
                    group_id,
                    group["position"],
                    group["channel_name"],
                    group["selector"],
                    group["policy"],
                    group["updates_enabled"],
                )
                if "channel_name" in changed:
                    await self._follow(connection, group, channels, by=by)
                what = ", ".join(name.removesuffix("_name") for name in changed)
                await self._database.policy_changed(connection, f"groups/{group_id}", what, by)
            return await self.get(group_id, connection)

    async def _check_position(self, connection: Connection, application_id: uuid.UUID, position: int) -> None:
        taken = await connection.fetchval(QUERIES["position_taken"], application_id, position)
        if taken is not None:
            raise Conflict(f"position {position} is taken by group {taken!r}: choose another")

    async def _follow(self, connection: Connection, group: Row, channels: Sequence[Row], *, by: str) -> None:
        """Make the group's active rollouts those of its channel."""
        pointed = [channel for channel in channels if channel["changeset_id"] is not None]
        await self._rollouts.lock_gates(connection, [group], [channel["changeset_id"] for channel in pointed])
        archs = {channel["arch"] for channel in pointed}
        for rollout in await self._rollouts.active(connection, [group["group_id"]]):
            if rollout["arch"] not in archs:
                reason = f"the group follows {group['channel_name']} now"
                await self._rollouts.transition(connection, rollout["rollout_id"], "aborted", reason, by)
        for channel in pointed:
            changeset = await self._changesets.get(channel["changeset_id"], connection)
            if changeset["state"] == "published":
                reason = f"the group follows {channel['name']}"
                await self._rollouts.roll_out(connection, group, channel, changeset, reason=reason, by=by)

    async def get(self, group_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One group with the policy in force for its next rollout.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["group"], group_id)
        if row is None:
            raise NotFound(f"there is no group {group_id}")
        return _group(dict(row))

    async def listing(self, asked: requests.GroupsQuery) -> list[Row]:
        """Groups, the oldest first."""
        application_id = await self._applications.id_of(asked.application)
        found = await self._database.pool.fetch(
            QUERIES["groups"], asked.cursor, asked.limit, application_id, asked.name, asked.channel
        )
        return [_group(row) for row in rows_of(found)]


def _group(row: Row) -> Row:
    return {**row, "effective_policy": msgspec.to_builtins(publishing.read_policy(row["policy"]))}
