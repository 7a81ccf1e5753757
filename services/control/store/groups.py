"""Groups: nodes under one policy."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from services.control import placement, publishing, requests
from services.control.acting import dry_running
from services.control.listing import place_of
from services.control.store.applications import Applications
from services.control.store.base import Connection, Database, Made, Row, lock_group, rows_of
from services.control.store.changesets import Changesets
from services.control.store.channels import Channels
from services.control.store.rollouts import Rollouts
from shared.db import Queries
from shared.domain.policy_words import explain
from shared.domain.selector import GroupChoice, is_catch_all, selecting_facts, shadows
from shared.errors import Conflict, InvalidInput, NotFound

QUERIES: Final = Queries.load("services.control.store", "groups.sql")
MAX_GROUPS: Final = 1_000
"""Groups of an application; every poll may try them all."""
MAX_NAMED: Final = 100_000
"""Nodes that the groups of an application name one by one; update_check keeps them in memory."""
_KEPT: Final = ("channel_name", "pinned_version", "selector", "policy", "updates_enabled", "owner", "contact")


class Groups:
    """Nodes under one policy, which follow a channel or are pinned to a version."""

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
        """Add a group; its rollouts start at once, and the nodes that belong to it come to it.

        Raises:
            NotFound: There is no such application.
            InvalidInput: There is no such channel, nothing to follow, or the policy is not usable.
            Conflict: The name or the position is taken, or no node would ever come to that position.
        """
        publishing.read_policy(asked.policy)
        policy = publishing.merge_policy({}, asked.policy)
        _check_following(asked.channel, asked.pinned_version)
        if asked.explicit_only and asked.selector:
            raise InvalidInput("a group with explicit_only has no selector", details={"field": "selector"})
        selector = placement.stored_selector(asked.selector, explicit_only=asked.explicit_only)
        async with self._database.change() as connection:
            application = await self._applications.get(asked.application, connection)
            application_id = application["application_id"]
            given: Row = {
                "channel_name": asked.channel,
                "pinned_version": asked.pinned_version,
                "selector": selector,
                "policy": policy,
                "updates_enabled": asked.updates_enabled,
                "owner": asked.owner,
                "contact": asked.contact,
            }
            known = await connection.fetchrow(QUERIES["group_by_name"], application_id, asked.name)
            if known is not None:
                await self._check_same(connection, known, given, asked)
                return Made(await self.get(known["group_id"], connection), new=False)
            await self._check_channel(connection, application, asked.channel)
            position = await self._position_for(connection, application_id, asked, selector)
            group: Row = {
                "group_id": self._database.ids.uuid7(),
                "application_id": application_id,
                "name": asked.name,
                "position": position,
                **given,
            }
            await self._rollouts.check_gates(connection, application_id, group)
            await connection.execute(QUERIES["add_group"], *group.values())
            await self._name_nodes(connection, group, asked.nodes, ())
            await self._assign(connection, application_id)
            await self._follow(connection, group, by=by)
            await self._database.policy_changed(connection, f"groups/{group['group_id']}", "group added", by)
            return Made(await self.get(group["group_id"], connection), new=True)

    async def _check_same(
        self, connection: Connection, known: Mapping[str, Any], given: Row, asked: requests.NewGroup
    ) -> None:
        same = all(known[name] == given[name] for name in _KEPT) and asked.position in (None, known["position"])
        if same and asked.nodes:
            named = await connection.fetch(QUERIES["named_nodes"], known["group_id"], None, MAX_NAMED)
            same = {row["machine_id"] for row in named} == set(asked.nodes)
        if not same:
            raise Conflict(
                f"there is a group {asked.name!r} already, with other content: change it with `uneventful group set`",
                details={"group_id": known["group_id"]},
            )

    async def _position_for(
        self,
        connection: Connection,
        application_id: uuid.UUID,
        asked: requests.NewGroup,
        selector: Mapping[str, Sequence[str]],
    ) -> int:
        """Where a new group goes; those behind it may have been moved back."""
        groups = rows_of(await connection.fetch(QUERIES["groups_in_order"], application_id))
        if len(groups) >= MAX_GROUPS:
            raise Conflict(f"an application has at most {MAX_GROUPS} groups: delete one first")
        if asked.position is None:
            positions = [(row["position"], is_catch_all(row["selector"])) for row in groups]
            position, moves = placement.fitting_position(positions, before_catch_all=not is_catch_all(selector))
            if moves:
                await connection.execute(QUERIES["move_back"], application_id, position)
            return position
        _check_free(groups, asked.position, None)
        _check_reachable(groups, asked.position, selector, None)
        return asked.position

    async def change(self, group_id: uuid.UUID, patch: requests.GroupPatch, *, by: str) -> Row:
        """Change what the patch gives; a rollout that runs keeps the policy that it was started with.

        A group that gets something else to follow gets those rollouts at once; its active rollouts of archs for which
        there is nothing are aborted. Nodes that belong elsewhere now move in the same transaction; of a dry run it is
        said which.

        Raises:
            NotFound: There is no such group.
            InvalidInput: There is no such channel, nothing is left to follow, or the policy is not usable.
            Conflict: The position is taken or no node comes to it, or no group would take every node any more.
        """
        async with self._database.change() as connection:
            before, group, changed = await self._apply(connection, group_id, patch)
            shown = await self._shown(connection, group["application_id"], group_id) if dry_running() else None
            if changed:
                if changed & {"selector", "position", "nodes"}:
                    await self._assign(connection, group["application_id"])
                if changed & {"channel_name", "pinned_version"}:
                    await self._follow(connection, group, by=by)
                what = ", ".join(name.removesuffix("_name") for name in [*before, "nodes"] if name in changed)
                await self._database.policy_changed(connection, f"groups/{group_id}", what, by)
            return await self.get(group_id, connection) if shown is None else shown

    async def _apply(
        self, connection: Connection, group_id: uuid.UUID, patch: requests.GroupPatch
    ) -> tuple[Row, Row, set[str]]:
        """Write what a patch changes of the group and of what it names; the row before, after, and what changed."""
        row = await lock_group(connection, group_id)
        if row is None:
            raise NotFound(f"there is no group {group_id}")
        before = dict(row)
        group = _patched(before, patch)
        _check_following(group["channel_name"], group["pinned_version"])
        changed = {name for name in group if group[name] != before[name]}
        groups = rows_of(await connection.fetch(QUERIES["groups_in_order"], group["application_id"]))
        if "position" in changed:
            _check_free(groups, group["position"], group_id)
            _check_reachable(groups, group["position"], group["selector"], group_id)
        if "selector" in changed:
            others = [choice for choice in placement.choices(groups) if choice.group_id != group_id]
            if is_catch_all(before["selector"]) and not placement.has_catch_all(others):
                raise Conflict(
                    f"group {group['name']} is the only one that takes every node: an application ends with such a "
                    "group; add another one first, or let a new group before it have the selector"
                )
        if "channel_name" in changed:
            application = await self._applications.get(str(group["application_id"]), connection)
            await self._check_channel(connection, application, group["channel_name"])
        if changed & {"policy", "channel_name", "pinned_version"}:
            await self._rollouts.check_gates(connection, group["application_id"], group)
        if changed:
            await connection.execute(
                QUERIES["set_group"], group_id, group["position"], *(group[name] for name in _KEPT)
            )
        if await self._name_nodes(connection, group, patch.add_nodes, patch.remove_nodes):
            changed.add("nodes")
        return before, group, changed

    async def _name_nodes(self, connection: Connection, group: Row, add: Sequence[str], remove: Sequence[str]) -> int:
        both = sorted(set(add) & set(remove))
        if both:
            raise InvalidInput(f"{both[0]!r} is to be added and removed: say one of them")
        moved: int = 0
        if remove:
            moved += await connection.fetchval(QUERIES["unname_nodes"], group["group_id"], list(remove))
        if add:
            moved += await connection.fetchval(
                QUERIES["name_nodes"], group["application_id"], group["group_id"], list(add)
            )
            if await connection.fetchval(QUERIES["count_named"], group["application_id"]) > MAX_NAMED:
                raise Conflict(f"groups name at most {MAX_NAMED} nodes one by one: use a selector")
        return moved

    async def preview(self, group_id: uuid.UUID, patch: requests.GroupPatch) -> Row:
        """Which nodes a change would move, without changing anything.

        Raises:
            UneventfulError: What `change` would raise.
        """
        async with self._database.main.acquire() as connection, _undone(connection):
            before, _, _ = await self._apply(connection, group_id, patch)
            return await self._shown(connection, before["application_id"], group_id)

    async def order(self, asked: requests.GroupOrder, *, by: str) -> Row:
        """Have an application's groups tried in another order; says which nodes that moves.

        Raises:
            NotFound: There is no such application.
            InvalidInput: The groups named are not exactly those that there are.
            Conflict: A group would be behind one that takes every node.
        """
        async with self._database.change() as connection:
            application = await self._applications.get(asked.application, connection)
            application_id = application["application_id"]
            groups = rows_of(await connection.fetch(QUERIES["groups_in_order"], application_id))
            order = _in_order(groups, asked.groups)
            by_id = {row["group_id"]: row for row in groups}
            _check_order([by_id[group_id] for group_id in order])
            await connection.execute(QUERIES["set_order"], order)
            shown = await self._shown(connection, application_id, None)
            await self._assign(connection, application_id)
            await self._database.policy_changed(connection, f"applications/{application_id}", "order of groups", by)
            return shown

    async def delete(self, group_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Delete a group without active rollouts; its nodes move to where they belong then. Says which.

        Raises:
            NotFound: There is no such group.
            Conflict: It is the last one, the only one that takes every node, still has an active rollout or nodes in
                flight, or a gate waits for it.
        """
        async with self._database.change() as connection:
            row = await lock_group(connection, group_id)
            if row is None:
                raise NotFound(f"there is no group {group_id}")
            await self._check_deletable(connection, row)
            await connection.execute(QUERIES["delete_rollouts"], group_id)
            await connection.execute(QUERIES["delete_group"], group_id)
            shown = await self._shown(connection, row["application_id"], group_id, gone=row["name"])
            await self._assign(connection, row["application_id"])
            what = f"group {row['name']} deleted: {reason}"
            await self._database.policy_changed(connection, f"groups/{group_id}", what, by)
            return shown

    async def _check_deletable(self, connection: Connection, group: Row) -> None:
        name, group_id = group["name"], group["group_id"]
        groups = rows_of(await connection.fetch(QUERIES["groups_in_order"], group["application_id"]))
        if len(groups) == 1:
            raise Conflict(f"group {name} is the application's last one: an application with nodes keeps one")
        others = [choice for choice in placement.choices(groups) if choice.group_id != group_id]
        if is_catch_all(group["selector"]) and not placement.has_catch_all(others):
            raise Conflict(f"group {name} is the only one that takes every node: add another one first")
        active = await self._rollouts.active(connection, [group_id])
        if active:
            raise Conflict(
                f"group {name} has an active rollout, {active[0]['rollout_id']}: abort it first, "
                f"`uneventful rollout abort {active[0]['rollout_id']} --reason ...`"
            )
        flying = await connection.fetchval(QUERIES["open_attempts_of_group"], group_id)
        if flying:
            raise Conflict(f"{flying} nodes of group {name} are in the middle of an update: wait for them")
        waiting = await connection.fetch(QUERIES["waited_on"], group["application_id"], name)
        if waiting:
            raise Conflict(f"the gates of group {waiting[0]['name']} wait for group {name}: change those first")

    # Who belongs where

    async def _stocks(
        self, connection: Connection, application_id: uuid.UUID, groups: Sequence[GroupChoice]
    ) -> placement.Placement:
        found = await connection.fetch(QUERIES["stocks"], application_id, list(selecting_facts(groups)))
        return placement.place(
            groups, [placement.Stock(row["key"], row["named"], row["group_id"], row["nodes"]) for row in found]
        )

    async def _assign(
        self, connection: Connection, application_id: uuid.UUID, node_ids: Sequence[uuid.UUID] | None = None
    ) -> int:
        """Put the known nodes where they belong; polls would, one by one. Returns how many moved."""
        groups = placement.choices(await connection.fetch(QUERIES["groups_in_order"], application_id))
        placed = await self._stocks(connection, application_id, groups)
        keys = placed.by_key()
        moved: int = await connection.fetchval(
            QUERIES["assign_groups"],
            application_id,
            list(placed.facts),
            list(keys),
            list(keys.values()),
            None if node_ids is None else list(node_ids),
        )
        return moved

    async def assign(self, connection: Connection, application_id: uuid.UUID, node_ids: Sequence[uuid.UUID]) -> int:
        """Put some nodes where they belong, since what is known of them changed. Returns how many moved."""
        return await self._assign(connection, application_id, node_ids)

    async def _shown(
        self, connection: Connection, application_id: uuid.UUID, group_id: uuid.UUID | None, *, gone: str | None = None
    ) -> Row:
        """What moves between the groups as this transaction has them and the rows of nodes as they still are."""
        rows = rows_of(await connection.fetch(QUERIES["groups_in_order"], application_id))
        groups = placement.choices(rows)
        names = {row["group_id"]: row["name"] for row in rows}
        placed = await self._stocks(connection, application_id, groups)
        called = names if gone is None or group_id is None else {**names, group_id: gone}
        moves = [
            {"from_group": called.get(before), "to_group": called.get(after), "nodes": nodes}
            for (before, after), nodes in sorted(placed.moves().items(), key=lambda item: -item[1])
        ]
        none: list[placement.Stock] = []
        leaving = none if group_id is None else placed.leaving(group_id)
        coming = none if group_id is None else placed.coming(group_id)
        return {
            "group_id": group_id,
            "moving": placed.moving,
            "moves": moves,
            "leaving": await self._some(connection, application_id, placed.facts, leaving),
            "coming": await self._some(connection, application_id, placed.facts, coming),
            "warnings": placement.warnings_of(groups, names),
        }

    async def _some(
        self,
        connection: Connection,
        application_id: uuid.UUID,
        facts: Sequence[str],
        stocks: Sequence[placement.Stock],
    ) -> Row:
        machines: list[str] = []
        if stocks:
            found = await connection.fetch(
                QUERIES["stocked_machines"],
                application_id,
                list(facts),
                [stock.key for stock in stocks],
                [stock.named for stock in stocks],
                [stock.group_id for stock in stocks],
                placement.SHOWN,
            )
            machines = [row["machine_id"] for row in found]
        return {"nodes": sum(stock.nodes for stock in stocks), "machines": machines}

    # What it follows

    async def _check_channel(self, connection: Connection, application: Row, name: str | None) -> None:
        if name is not None:
            await self._channels.to_follow(connection, application, name)

    async def _follow(self, connection: Connection, group: Row, *, by: str) -> None:
        """Make the group's active rollouts those of what it is pinned to, else of its channel."""
        if group["pinned_version"] is not None:
            await self._rollouts.follow_pin(connection, group, by=by)
            return
        application = await self._applications.get(str(group["application_id"]), connection)
        channels = await self._channels.to_follow(connection, application, group["channel_name"])
        pointed = [channel for channel in channels if channel["changeset_id"] is not None]
        await self._rollouts.lock_gates(connection, [group], [channel["changeset_id"] for channel in pointed])
        archs = {channel["arch"] for channel in pointed}
        reason = f"the group follows {group['channel_name']}"
        for rollout in await self._rollouts.active(connection, [group["group_id"]]):
            if rollout["arch"] not in archs:
                await self._rollouts.transition(connection, rollout["rollout_id"], "aborted", reason, by)
        for channel in pointed:
            changeset = await self._changesets.get(channel["changeset_id"], connection)
            if changeset["state"] == "published":
                await self._rollouts.roll_out(connection, group, channel, changeset, reason=reason, by=by)

    # Looking

    async def get(self, group_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One group with the policy in force for its next rollout, in words too, and what is odd about its place.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["group"], group_id)
        if row is None:
            raise NotFound(f"there is no group {group_id}")
        rows = rows_of(await place.fetch(QUERIES["groups_in_order"], row["application_id"]))
        names = {other["group_id"]: other["name"] for other in rows}
        shown = _group(dict(row))
        return {
            **shown,
            "policy_explained": explain(publishing.read_policy(row["policy"])),
            "nodes": await place.fetchval(QUERIES["nodes_in_group"], group_id),
            "warnings": placement.warnings_of(placement.choices(rows), names),
        }

    async def listing(self, asked: requests.GroupsQuery) -> list[Row]:
        """Groups, the oldest first."""
        application_id = await self._applications.id_of(asked.application)
        place = place_of(asked)
        found = await self._database.pool.fetch(
            QUERIES["groups"],
            place.after,
            asked.limit,
            application_id,
            asked.name,
            asked.channel,
            asked.owner,
            place.sort,
            place.key,
            place.descending,
        )
        return [_group(row) for row in rows_of(found)]

    async def named(self, group_id: uuid.UUID, asked: requests.NamedNodesQuery) -> list[Row]:
        """The machines that a group names, by their id.

        Raises:
            NotFound: There is no such group.
        """
        await self.get(group_id)
        return rows_of(await self._database.pool.fetch(QUERIES["named_nodes"], group_id, asked.cursor, asked.limit))


def _group(row: Row) -> Row:
    explicit_only = [] in row["selector"].values()
    return {
        **row,
        "selector": {} if explicit_only else row["selector"],
        "explicit_only": explicit_only,
        "effective_policy": msgspec.to_builtins(publishing.read_policy(row["policy"])),
    }


def _patched(before: Row, patch: requests.GroupPatch) -> Row:
    """A group's row as a patch makes it."""
    group = dict(before)
    if patch.policy is not msgspec.UNSET:
        group["policy"] = publishing.merge_policy(before["policy"], patch.policy)
    explicit_only = patch.explicit_only is True
    if explicit_only and patch.selector:
        raise InvalidInput("a group with explicit_only has no selector", details={"field": "selector"})
    if patch.selector is not msgspec.UNSET or explicit_only:
        selector = {} if patch.selector is msgspec.UNSET else patch.selector
        group["selector"] = placement.stored_selector(selector, explicit_only=explicit_only)
    elif patch.explicit_only is False and [] in before["selector"].values():
        raise InvalidInput("say which nodes it is to have instead: give a selector", details={"field": "selector"})
    given = {
        "position": patch.position,
        "channel_name": patch.channel,
        "pinned_version": patch.pinned_version,
        "updates_enabled": patch.updates_enabled,
        "owner": patch.owner,
        "contact": patch.contact,
    }
    group |= {name: value for name, value in given.items() if value is not msgspec.UNSET}
    return group


@contextlib.asynccontextmanager
async def _undone(connection: Connection) -> AsyncIterator[None]:
    """A transaction that is taken back at its end."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


def _check_following(channel: str | None, pinned_version: str | None) -> None:
    if channel is None and pinned_version is None:
        raise InvalidInput(
            "the group would follow nothing: give it a channel or a pinned_version", details={"field": "channel"}
        )


def _check_free(groups: Sequence[Row], position: int, group_id: uuid.UUID | None) -> None:
    for row in groups:
        if row["position"] == position and row["group_id"] != group_id:
            raise Conflict(f"position {position} is taken by group {row['name']!r}: choose another")


def _check_reachable(
    groups: Sequence[Row], position: int, selector: Mapping[str, Sequence[str]], group_id: uuid.UUID | None
) -> None:
    """A selector must not stand where no node comes to it; a second catch-all, or one that names its nodes, may."""
    if is_catch_all(selector) or [] in selector.values():
        return
    for row in groups:
        if row["group_id"] != group_id and row["position"] < position and is_catch_all(row["selector"]):
            raise Conflict(
                f"position {position} is behind group {row['name']!r} at {row['position']}, which takes every node: "
                "no node would come to it; choose a position before that, or none"
            )


def _check_order(groups: Sequence[Row]) -> None:
    """No group may be put behind one that takes every node, those aside that take every node too."""
    names = {row["group_id"]: row["name"] for row in groups}
    choices = placement.choices(groups)
    for shadow in shadows(choices):
        choice = next(item for item in choices if item.group_id == shadow.group_id)
        if not is_catch_all(choice.selector):
            raise Conflict(
                f"group {names[shadow.group_id]} would be behind {names[shadow.behind]}, which takes every node: "
                "no node would come to it"
            )


def _in_order(groups: Sequence[Row], asked: Sequence[str]) -> list[uuid.UUID]:
    """The ids of groups that are named by name or id: each exactly once."""
    known = {row["name"]: row["group_id"] for row in groups} | {str(row["group_id"]): row["group_id"] for row in groups}
    unknown = [reference for reference in asked if reference not in known]
    if unknown:
        raise InvalidInput(f"the application has no group {unknown[0]!r}", details={"field": "groups"})
    order = [known[reference] for reference in asked]
    missing = [row["name"] for row in groups if row["group_id"] not in order]
    if missing or len(set(order)) != len(order):
        said = f"{missing[0]!r} is missing" if missing else "one is named twice"
        raise InvalidInput(f"name every group of the application once: {said}", details={"field": "groups"})
    return order
