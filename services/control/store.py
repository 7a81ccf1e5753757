"""All SQL of control: every change is one transaction, with its events."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec

from services.control import completion, publishing, requests, standstill
from services.control.tokens import Role
from shared.clock import Clock
from shared.db import Queries
from shared.domain import version as versions
from shared.domain.policy import freeze
from shared.errors import Conflict, Fault, InvalidInput, NotFound, Unavailable
from shared.events import NewEvent, new_event, types
from shared.ids import IdSource
from shared.ledger import LedgerEntry, VerifyResult, append, head, read, verify_chain

SOURCE: Final = "control"
QUERIES: Final = Queries.load("services.control")
ACTIVE: Final = frozenset({"created", "running", "paused", "halted"})

Row: TypeAlias = dict[str, Any]
Connection: TypeAlias = "asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]"


@dataclass(frozen=True, slots=True)
class Made:
    """A thing as it is now, and whether this call made it."""

    item: Row
    new: bool


class Store:
    """Control's view of the database.

    Every change of what update_check decides by locks the global gate first: changes are made one after the other, and
    a grant is either committed before or sees the change.

    Args:
        pool: From `shared.db.create_pool`.
        ids: Makes the ids of rows and events.
        clock: Gives the events' times.
    """

    def __init__(self, pool: asyncpg.Pool[Any], *, ids: IdSource, clock: Clock) -> None:
        self._pool = pool
        self._ids = ids
        self._clock = clock
        self._verifying = asyncio.Lock()

    async def ping(self) -> None:
        """Raises what keeps Postgres from answering."""
        await self._pool.execute(QUERIES["ping"])

    @contextlib.asynccontextmanager
    async def _change(self) -> AsyncIterator[Connection]:
        """A transaction that is alone among operators' changes, with no grant half done."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.fetchrow(QUERIES["lock_global_gate"])
            yield connection

    def _event(self, data: types.EventData, subject: str, **more: Any) -> NewEvent:
        return new_event(data, ids=self._ids, clock=self._clock, source=SOURCE, subject=subject, **more)

    async def _policy_changed(self, connection: Connection, subject: str, what: str, by: str) -> None:
        raised = await connection.fetchval(QUERIES["raise_policy_version"])
        data = types.PolicyChanged(policy_version=raised, subject=subject, what=what, by=by)
        await append(connection, [self._event(data, subject)])

    # Tokens

    async def token(self, hashed: bytes) -> tuple[str, Role] | None:
        """Whom a token belongs to and what it may do, by its hash."""
        row = await self._pool.fetchrow(QUERIES["token"], hashed)
        return None if row is None else (row["name"], Role(row["role"]))

    async def add_token(self, name: str, hashed: bytes, role: Role, *, replace: bool) -> None:
        """Keep a token's hash.

        Raises:
            Conflict: There is a token of that name, and ``replace`` is not set.
        """
        query = QUERIES["replace_token" if replace else "add_token"]
        if await self._pool.fetchval(query, name, hashed, role.value) is None:
            raise Conflict(f"there is a token named {name!r} already: choose another name, or replace it")

    # The global gate

    async def global_gate(self) -> Row:
        """Whether anything may be granted at all: ``open``, ``reason``, ``policy_version``."""
        return _one(await self._pool.fetchrow(QUERIES["global_gate"]))

    async def set_global_gate(self, *, is_open: bool, reason: str, by: str) -> Row:
        """Halt everything, or let everything go on; nothing is changed where it is so already."""
        async with self._change() as connection:
            gate = _one(await connection.fetchrow(QUERIES["global_gate"]))
            if gate["open"] != is_open:
                await connection.execute(QUERIES["set_global_gate"], is_open, reason)
                what = f"{'opened' if is_open else 'halted'}: {reason}"
                await self._policy_changed(connection, "gates/global", what, by)
                gate = _one(await connection.fetchrow(QUERIES["global_gate"]))
            return gate

    # Applications

    async def add_application(self, asked: requests.NewApplication) -> Made:
        """Add an application.

        Raises:
            Conflict: The name has another omaha id, or the omaha id another name.
        """
        omaha_id = None if asked.omaha_id is None else asked.omaha_id.strip("{}").lower()
        row = await self._pool.fetchrow(QUERIES["add_application"], self._ids.uuid7(), asked.name, omaha_id)
        if row is not None:
            return Made(dict(row), new=True)
        found = await self._pool.fetch(QUERIES["application_named"], asked.name, omaha_id or "")
        for known in found:
            if known["name"] == asked.name and known["omaha_id"] == omaha_id:
                return Made(dict(known), new=False)
        taken = ", ".join(f"{known['name']} (omaha id {known['omaha_id'] or 'none'})" for known in found)
        raise Conflict(f"the name or the omaha id is taken: {taken}", details={"items": _ids(found, "application_id")})

    async def application(self, reference: str, connection: Connection | None = None) -> Row:
        """One application by name, id or omaha id.

        Raises:
            NotFound: There is none.
        """
        place = self._pool if connection is None else connection
        row = await place.fetchrow(QUERIES["application_named"], reference, reference.strip("{}"))
        if row is None:
            raise NotFound(f"there is no application {reference!r}: add it with `uneventful app add`")
        return dict(row)

    async def applications(self, page: requests.Page) -> list[Row]:
        """Applications, the oldest first."""
        return _rows(await self._pool.fetch(QUERIES["applications"], page.cursor, page.limit))

    async def _application_id(self, reference: str | None) -> uuid.UUID | None:
        return None if reference is None else (await self.application(reference))["application_id"]

    # Changesets

    async def add_changeset(self, asked: requests.NewChangeset) -> Made:
        """Add a draft.

        Raises:
            NotFound: There is no such application.
            Conflict: The version exists for that arch with another kind or other notes.
        """
        application_id = (await self.application(asked.application))["application_id"]
        added = await self._pool.fetchval(
            QUERIES["add_changeset"],
            self._ids.uuid7(),
            application_id,
            asked.version,
            asked.arch,
            asked.kind.value,
            asked.notes,
        )
        if added is not None:
            return Made(await self.changeset(added), new=True)
        known = _one(
            await self._pool.fetchrow(QUERIES["changeset_by_version"], application_id, asked.version, asked.arch)
        )
        if (known["kind"], known["notes"]) != (asked.kind.value, asked.notes):
            raise Conflict(
                f"there is a changeset {asked.version} for {asked.arch} already, with another kind or other notes; "
                "a changeset never changes: choose another version",
                details={"changeset_id": known["changeset_id"]},
            )
        return Made(await self.changeset(known["changeset_id"]), new=False)

    async def changeset(self, changeset_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One changeset with its gate and payloads.

        Raises:
            NotFound: There is none.
        """
        place = self._pool if connection is None else connection
        row = await place.fetchrow(QUERIES["changeset"], changeset_id)
        if row is None:
            raise NotFound(f"there is no changeset {changeset_id}")
        return {
            **_changeset(dict(row)),
            "payloads": _rows(await place.fetch(QUERIES["payloads"], changeset_id)),
        }

    async def changesets(self, asked: requests.ChangesetsQuery) -> list[Row]:
        """Changesets with their gates, the newest first."""
        application_id = await self._application_id(asked.application)
        found = await self._pool.fetch(
            QUERIES["changesets"],
            asked.cursor,
            asked.limit,
            application_id,
            asked.version,
            asked.arch,
            _value(asked.state),
        )
        return [_changeset(row) for row in _rows(found)]

    async def add_payload(self, changeset_id: uuid.UUID, asked: requests.NewPayload) -> Made:
        """Add a payload to a draft.

        Raises:
            NotFound: There is no such changeset.
            Conflict: It is published, or the position or the name is taken by another payload.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            changeset = await self._locked_changeset(connection, changeset_id)
            present = _rows(await connection.fetch(QUERIES["payloads"], changeset_id))
            position = len(present) if asked.position is None else asked.position
            wanted: Row = {
                "role": asked.role.value,
                "name": asked.name,
                "sha256": asked.sha256,
                "sha1_base64": asked.sha1_base64,
                "size": asked.size,
                "required": asked.required,
            }
            for payload in present:
                same = all(payload[name] == value for name, value in wanted.items())
                if same and asked.position in (None, payload["position"]):
                    return Made(await self.changeset(changeset_id, connection), new=False)
                if payload["name"] == asked.name or payload["position"] == position:
                    raise Conflict(
                        f"position {payload['position']} holds {payload['name']} with digest {payload['sha256'][:12]}: "
                        "choose another name or position, or another version"
                    )
            if changeset["state"] != "draft":
                raise Conflict(f"changeset {changeset['version']} is {changeset['state']} and cannot change any more")
            await connection.execute(
                QUERIES["add_payload"],
                changeset_id,
                position,
                asked.role.value,
                asked.name,
                asked.sha256,
                asked.sha1_base64,
                asked.size,
                asked.required,
            )
            return Made(await self.changeset(changeset_id, connection), new=True)

    async def publish(self, changeset_id: uuid.UUID, *, by: str) -> Row:
        """Make a changeset immutable and fit to be promoted; nothing is changed where it is so already.

        Raises:
            NotFound: There is no such changeset.
            Conflict: It has not exactly one main payload, or that is not first; or it is withdrawn.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            changeset = await self._locked_changeset(connection, changeset_id)
            if changeset["state"] == "withdrawn":
                raise Conflict(f"changeset {changeset['version']} was withdrawn for good: choose another version")
            if changeset["state"] == "draft":
                payloads = _rows(await connection.fetch(QUERIES["payloads"], changeset_id))
                publishing.check_publishable(
                    [
                        publishing.Part(position=item["position"], role=item["role"], name=item["name"])
                        for item in payloads
                    ]
                )
                await connection.execute(QUERIES["publish_changeset"], changeset_id)
                data = types.ChangesetPublished(
                    changeset_id=str(changeset_id),
                    application_id=str(changeset["application_id"]),
                    version=changeset["version"],
                    arch=changeset["arch"],
                    kind=changeset["kind"],
                    payloads=tuple(
                        types.PayloadRef(sha256=item["sha256"], name=item["name"], size=item["size"], role=item["role"])
                        for item in payloads
                    ),
                    by=by,
                )
                subject = f"changesets/{changeset_id}"
                await append(connection, [self._event(data, subject, correlation_id=str(changeset_id))])
            return await self.changeset(changeset_id, connection)

    async def halt_changeset(self, changeset_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """No more of a changeset for anyone; nothing is changed where it is halted already.

        Raises:
            NotFound: There is no such changeset.
            Conflict: It is a draft, or its gate is shut for another cause.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            changeset = await self._locked_changeset(connection, changeset_id)
            if changeset["state"] == "draft":
                raise Conflict(f"changeset {changeset['version']} is a draft: no node can have it, so nothing to halt")
            await connection.execute(QUERIES["ensure_shut_gate"], changeset_id)
            event_id = self._ids.uuid7()
            await connection.fetchval(QUERIES["halt_changeset"], changeset_id, reason, by, event_id, SOURCE)
            halted = await self.changeset(changeset_id, connection)
            if halted["gate"]["state"] != "halted":
                raise Conflict(f"changeset {halted['version']} is {halted['gate']['state']} already")
            return halted

    async def resume_changeset(self, changeset_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Let a halted changeset go on; nothing is changed where it is not halted.

        Raises:
            NotFound: There is no such changeset.
            Conflict: Its gate is shut for another cause than a halt.
        """
        async with self._change() as connection:
            await self._locked_changeset(connection, changeset_id)
            await connection.fetchval(QUERIES["resume_changeset"], changeset_id, reason, by, self._ids.uuid7())
            resumed = await self.changeset(changeset_id, connection)
            if resumed["gate"] is not None and resumed["gate"]["state"] != "open":
                raise Conflict(f"changeset {resumed['version']} is {resumed['gate']['state']}: it cannot be resumed")
            return resumed

    async def _locked_changeset(self, connection: Connection, changeset_id: uuid.UUID) -> Row:
        row = await connection.fetchrow(QUERIES["lock_changeset"], changeset_id)
        if row is None:
            raise NotFound(f"there is no changeset {changeset_id}")
        return dict(row)

    # Channels

    async def add_channel(self, asked: requests.NewChannel) -> Made:
        """Add a channel that points nowhere yet.

        Raises:
            NotFound: There is no such application.
        """
        application_id = (await self.application(asked.application))["application_id"]
        key = (application_id, asked.name, asked.arch)
        added = await self._pool.fetchval(QUERIES["add_channel"], self._ids.uuid7(), *key)
        known = added or await self._pool.fetchval(QUERIES["channel_by_name"], *key)
        return Made(await self.channel(known), new=added is not None)

    async def channel(self, channel_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One channel.

        Raises:
            NotFound: There is none.
        """
        place = self._pool if connection is None else connection
        row = await place.fetchrow(QUERIES["channel"], channel_id)
        if row is None:
            raise NotFound(f"there is no channel {channel_id}")
        return dict(row)

    async def channels(self, asked: requests.ChannelsQuery) -> list[Row]:
        """Channels, the oldest first."""
        application_id = await self._application_id(asked.application)
        found = await self._pool.fetch(
            QUERIES["channels"], asked.cursor, asked.limit, application_id, asked.name, asked.arch
        )
        return _rows(found)

    async def history(self, channel_id: uuid.UUID, limit: int) -> list[Row]:
        """What a channel pointed to, the newest first.

        Raises:
            NotFound: There is no such channel.
        """
        await self.channel(channel_id)
        return _rows(await self._pool.fetch(QUERIES["history"], channel_id, limit))

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
        async with self._change() as connection:
            row = await connection.fetchrow(QUERIES["lock_channel"], channel_id)
            if row is None:
                raise NotFound(f"there is no channel {channel_id}")
            channel = dict(row)
            changeset = await self.changeset(changeset_id, connection)
            _check_promotable(channel, changeset)
            groups = _rows(await connection.fetch(QUERIES["followers"], channel["application_id"], channel["name"]))
            await self._lock_gates(connection, groups, [changeset_id])
            changeset = await self.changeset(changeset_id, connection)
            gate = changeset["gate"]
            if gate is not None and gate["state"] != "open":
                raise Conflict(
                    f"changeset {changeset['version']} is {gate['state']}: {gate['reason']}. "
                    f"Resume it first: `uneventful changeset resume {changeset_id} --reason ...`",
                    details={"gate": gate["state"], "changeset_id": changeset_id},
                )
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
                await append(connection, [self._event(data, f"channels/{channel_id}")])
            channel["changeset_id"] = changeset_id
            started = [
                rollout_id
                for group in groups
                if (rollout_id := await self._roll_out(connection, group, channel, changeset, reason=reason, by=by))
            ]
            if started or previous != changeset_id:
                await connection.fetchval(QUERIES["raise_policy_version"])
            return {"channel": await self.channel(channel_id, connection), "rollouts": started}

    async def _lock_gates(
        self, connection: Connection, groups: Sequence[Row], changeset_ids: Sequence[uuid.UUID]
    ) -> None:
        """Lock the gates of all changesets whose rollouts may be moved, in the order in which halts lock them."""
        active = await connection.fetch(QUERIES["active_rollouts"], [group["group_id"] for group in groups])
        wanted = {*changeset_ids, *(rollout["changeset_id"] for rollout in active)}
        await connection.fetch(QUERIES["lock_gates"], sorted(wanted))

    async def _roll_out(
        self,
        connection: Connection,
        group: Row,
        channel: Row,
        changeset: Row,
        *,
        reason: str | None,
        by: str,
        again: bool = False,
    ) -> uuid.UUID | None:
        """Give a group its rollout of a changeset, superseding the active one; None where it has it already.

        Args:
            connection: In a transaction that holds the global gate and the gates of the changesets concerned.
            group: Its row.
            channel: Its row.
            changeset: As `changeset` gives it.
            reason: Why; kept in the rollout.
            by: Who.
            again: Start one even if the last is completed.
        """
        arch = channel["arch"]
        last = await connection.fetchrow(QUERIES["last_rollout"], group["group_id"], arch)
        last_state = None if last is None else last["state"]
        kept = ACTIVE if again else ACTIVE | {"completed"}
        if last is not None and last["changeset_id"] == changeset["changeset_id"] and last_state in kept:
            return None
        if last is not None and last_state in ACTIVE:
            await self._move(connection, last["rollout_id"], "superseded", f"by {changeset['version']}", by)
        policy = publishing.read_policy(group["policy"])
        fleet_size = await connection.fetchval(QUERIES["fleet_size"], group["application_id"], arch)
        group_size = await connection.fetchval(QUERIES["group_size"], group["group_id"], arch)
        parameters = freeze(policy, fleet_size=max(1, fleet_size), group_size=max(1, group_size))
        rollout_id = self._ids.uuid7()
        frozen_policy = msgspec.to_builtins(policy)
        frozen = msgspec.to_builtins(parameters)
        await connection.execute(QUERIES["ensure_gate"], changeset["changeset_id"], parameters.hold_budget)
        await connection.execute(
            QUERIES["add_rollout"],
            rollout_id,
            group["group_id"],
            changeset["changeset_id"],
            channel["channel_id"],
            group["application_id"],
            arch,
            parameters.group_hold_budget,
            frozen_policy,
            frozen,
            reason,
        )
        data = types.RolloutCreated(
            rollout_id=str(rollout_id),
            group_id=str(group["group_id"]),
            group_name=group["name"],
            changeset_id=str(changeset["changeset_id"]),
            version=changeset["version"],
            arch=arch,
            application_id=str(group["application_id"]),
            parameters=msgspec.convert(frozen, types.RolloutParameters),
            channel_id=str(channel["channel_id"]),
            policy=frozen_policy,
        )
        created = self._event(
            data,
            f"rollouts/{rollout_id}",
            partition_key=str(changeset["changeset_id"]),
            correlation_id=str(rollout_id),
        )
        await append(connection, [created])
        gate = changeset["gate"]
        if gate is not None and gate["state"] == "halted":
            await self._move(connection, rollout_id, "halted", gate["reason"], by)
        else:
            await self._move(connection, rollout_id, "running", reason, by)
        return rollout_id

    async def _move(
        self, connection: Connection, rollout_id: uuid.UUID, to: str, reason: str | None, by: str
    ) -> str | None:
        before: str | None = await connection.fetchval(
            QUERIES["move_rollout"], rollout_id, to, reason, by, self._ids.uuid7(), SOURCE
        )
        return before

    # Groups

    async def add_group(self, asked: requests.NewGroup, *, by: str) -> Made:
        """Add a group; where its channel has a changeset, its rollout starts at once.

        Raises:
            NotFound: There is no such application.
            InvalidInput: There is no such channel, or the policy is not usable.
            Conflict: The name or the position is taken.
        """
        publishing.read_policy(asked.policy)
        policy = publishing.merge_policy({}, asked.policy)
        selector = {name: list(values) for name, values in asked.selector.items()}
        async with self._change() as connection:
            application = await self.application(asked.application, connection)
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
                return Made(await self.group(known["group_id"], connection), new=False)
            channels = await self._channels_to_follow(connection, application, asked.channel)
            position = asked.position
            if position is None:
                position = 1 + await connection.fetchval(QUERIES["last_position"], application_id)
            await self._check_position(connection, application_id, position)
            group: Row = {
                "group_id": self._ids.uuid7(),
                "application_id": application_id,
                "name": asked.name,
                "position": position,
                "channel_name": asked.channel,
                "selector": selector,
                "policy": policy,
                "updates_enabled": asked.updates_enabled,
            }
            await connection.execute(QUERIES["add_group"], *group.values())
            await self._follow(connection, group, channels, by=by)
            await self._policy_changed(connection, f"groups/{group['group_id']}", "group added", by)
            return Made(await self.group(group["group_id"], connection), new=True)

    async def change_group(self, group_id: uuid.UUID, patch: requests.GroupPatch, *, by: str) -> Row:
        """Change what the patch gives; a rollout that runs keeps the policy that it was started with.

        A group that gets another channel gets that channel's rollouts at once; its active rollouts of archs for which
        the new channel has nothing are aborted.

        Raises:
            NotFound: There is no such group.
            InvalidInput: There is no such channel, or the policy is not usable.
            Conflict: The position is taken.
        """
        async with self._change() as connection:
            row = await connection.fetchrow(QUERIES["lock_group"], group_id)
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
                application = await self.application(str(group["application_id"]), connection)
                channels = await self._channels_to_follow(connection, application, group["channel_name"])
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
                await self._policy_changed(connection, f"groups/{group_id}", what, by)
            return await self.group(group_id, connection)

    async def _channels_to_follow(self, connection: Connection, application: Row, name: str) -> list[Row]:
        channels = _rows(await connection.fetch(QUERIES["channels_followed"], application["application_id"], name))
        if not channels:
            raise InvalidInput(
                f"{application['name']} has no channel {name!r}: add it with `uneventful channel add`",
                details={"field": "channel"},
            )
        return channels

    async def _check_position(self, connection: Connection, application_id: uuid.UUID, position: int) -> None:
        taken = await connection.fetchval(QUERIES["position_taken"], application_id, position)
        if taken is not None:
            raise Conflict(f"position {position} is taken by group {taken!r}: choose another")

    async def _follow(self, connection: Connection, group: Row, channels: Sequence[Row], *, by: str) -> None:
        """Make the group's active rollouts those of its channel."""
        pointed = [channel for channel in channels if channel["changeset_id"] is not None]
        await self._lock_gates(connection, [group], [channel["changeset_id"] for channel in pointed])
        archs = {channel["arch"] for channel in pointed}
        for rollout in await connection.fetch(QUERIES["active_rollouts"], [group["group_id"]]):
            if rollout["arch"] not in archs:
                reason = f"the group follows {group['channel_name']} now"
                await self._move(connection, rollout["rollout_id"], "aborted", reason, by)
        for channel in pointed:
            changeset = await self.changeset(channel["changeset_id"], connection)
            if changeset["state"] == "published":
                reason = f"the group follows {channel['name']}"
                await self._roll_out(connection, group, channel, changeset, reason=reason, by=by)

    async def group(self, group_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One group with the policy in force for its next rollout.

        Raises:
            NotFound: There is none.
        """
        place = self._pool if connection is None else connection
        row = await place.fetchrow(QUERIES["group"], group_id)
        if row is None:
            raise NotFound(f"there is no group {group_id}")
        return _group(dict(row))

    async def groups(self, asked: requests.GroupsQuery) -> list[Row]:
        """Groups, the oldest first."""
        application_id = await self._application_id(asked.application)
        found = await self._pool.fetch(
            QUERIES["groups"], asked.cursor, asked.limit, application_id, asked.name, asked.channel
        )
        return [_group(row) for row in _rows(found)]

    # Rollouts

    async def rollouts(self, asked: requests.RolloutsQuery) -> list[Row]:
        """Rollouts with counts of their attempts by state, the newest first."""
        found = _rows(
            await self._pool.fetch(
                QUERIES["rollouts"],
                asked.cursor,
                asked.limit,
                _value(asked.state),
                asked.group,
                asked.changeset,
                asked.active,
            )
        )
        ids = [row["rollout_id"] for row in found]
        counts: dict[uuid.UUID, dict[str, int]] = {rollout_id: {} for rollout_id in ids}
        for count in await self._pool.fetch(QUERIES["attempts_by_state"], ids):
            counts[count["rollout_id"]][count["state"]] = count["attempts"]
        return [{**row, "attempts": counts[row["rollout_id"]]} for row in found]

    async def rollout(self, rollout_id: uuid.UUID) -> Row:
        """One rollout: counts, paces, the gate with its evidence, the last judgement, and why nothing happens.

        Raises:
            NotFound: There is none.
        """
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await connection.fetchrow(QUERIES["rollout"], rollout_id)
            if row is None:
                raise NotFound(f"there is no rollout {rollout_id}")
            rollout = dict(row)
            changeset_id, group_id = rollout["changeset_id"], rollout["group_id"]
            states = await connection.fetch(QUERIES["attempts_by_state"], [rollout_id])
            flying = _one(await connection.fetchrow(QUERIES["in_flight"], changeset_id, group_id, rollout_id))
            census = await self._census(connection, rollout, self._clock.now())
            pace = await connection.fetchrow(QUERIES["verdict"], changeset_id, ["pace"])
            halt = await connection.fetchrow(QUERIES["verdict"], changeset_id, ["halt"])
            evidence = await connection.fetchval(QUERIES["evidence"], changeset_id)
            everything = _one(await connection.fetchrow(QUERIES["global_gate"]))
        why = standstill.standstill(
            standstill.Situation(
                everything_open=everything["open"],
                gate_state=rollout["gate_state"],
                braked=rollout["braked_reason"] is not None,
                rollout_state=rollout["state"],
                updates_enabled=rollout["updates_enabled"],
                nodes=census["total"],
                left=census["left"],
                in_flight=flying["changeset"],
                pace=rollout["gate_pace"],
                group_in_flight=flying["group"],
                group_pace=rollout["pace"],
            )
        )
        return {
            **{name: rollout[name] for name in _ROLLOUT_FIELDS},
            "attempts": {state["state"]: state["attempts"] for state in states},
            "in_flight": flying["rollout"],
            "parked": flying["parked"],
            "group_in_flight": flying["group"],
            "changeset_in_flight": flying["changeset"],
            "nodes": census,
            "gate": _gate(rollout, "gate_pace"),
            "verdict": _verdict(pace),
            "halt_verdict": _verdict(halt),
            "evidence": evidence,
            "standstill": why,
            "explanation": None if why is None else standstill.EXPLANATIONS[why],
        }

    async def _census(self, connection: Connection, rollout: Mapping[str, Any], now: datetime) -> Row:
        """The group's nodes of the rollout's arch, counted by what they still need."""
        rows = await connection.fetch(
            QUERIES["nodes_by_version"],
            rollout["group_id"],
            rollout["arch"],
            rollout["changeset_id"],
            now - completion.SILENT_AFTER,
        )
        target = rollout["version"]
        others = [row for row in rows if row["version"] != target]
        return {
            "total": sum(row["nodes"] for row in rows),
            "on_target": sum(row["nodes"] for row in rows if row["version"] == target),
            # update_check offers only what is newer than what a node runs.
            "left": sum(row["updatable"] for row in others if versions.is_newer(target, row["version"])),
            "quarantined": sum(row["quarantined"] for row in others),
            "silent": sum(row["silent"] for row in others),
            "cloned": sum(row["cloned"] for row in rows),
        }

    async def move_rollout(self, rollout_id: uuid.UUID, to: requests.RolloutState, *, reason: str, by: str) -> Row:
        """Pause, halt, resume (``running``) or abort a rollout; nothing is changed where it is so already.

        A running rollout that the analysis has braked because its group is small goes on when it is resumed.

        Raises:
            NotFound: There is no such rollout.
            Conflict: Its state does not allow the move, or its changeset is halted.
        """
        resumes = to is requests.RolloutState.RUNNING
        context = self._change() if resumes else self._plain()
        async with context as connection:
            row = await connection.fetchrow(QUERIES["rollout"], rollout_id)
            if row is None:
                raise NotFound(f"there is no rollout {rollout_id}")
            await connection.fetch(QUERIES["lock_gates"], [row["changeset_id"]])
            row = _one(await connection.fetchrow(QUERIES["rollout"], rollout_id))
            if resumes:
                if row["gate_state"] != "open" and row["state"] in ACTIVE:
                    raise Conflict(
                        f"changeset {row['version']} is {row['gate_state']}: {row['gate_reason']}. Resume it: "
                        f"`uneventful changeset resume {row['changeset_id']} --reason ...`",
                        details={"gate": row["gate_state"], "changeset_id": row["changeset_id"]},
                    )
                if row["state"] == "running" and row["pace"] == 0:
                    await self._move(connection, rollout_id, "paused", reason, by)
                    row["state"] = "paused"
            if row["state"] != to.value:
                if await self._move(connection, rollout_id, to.value, reason, by) is None:
                    raise Conflict(f"the rollout is {row['state']}: it cannot become {to.value}")
                if resumes:
                    await connection.fetchval(QUERIES["raise_policy_version"])
        return await self.rollout(rollout_id)

    @contextlib.asynccontextmanager
    async def _plain(self) -> AsyncIterator[Connection]:
        async with self._pool.acquire() as connection, connection.transaction():
            yield connection

    async def complete_rollouts(self) -> list[uuid.UUID]:
        """Complete the running rollouts that have nothing left to do. Returns their ids."""
        return [
            candidate["rollout_id"]
            for candidate in await self._pool.fetch(QUERIES["running_rollouts"])
            if await self._is_complete(self._pool, candidate) and await self._complete(dict(candidate))
        ]

    async def _is_complete(self, place: asyncpg.Pool[Any] | Connection, rollout: Mapping[str, Any]) -> bool:
        async with contextlib.AsyncExitStack() as stack:
            connection = await stack.enter_async_context(place.acquire()) if isinstance(place, asyncpg.Pool) else place
            progress = _one(await connection.fetchrow(QUERIES["rollout_progress"], rollout["rollout_id"]))
            if progress["in_flight"]:
                return False
            census = await self._census(connection, rollout, self._clock.now())
        return completion.is_complete(
            completion.Remainder(
                left=census["left"] > 0,
                in_flight=progress["in_flight"],
                committed=progress["committed"],
                on_target=census["on_target"] > 0,
            )
        )

    async def _complete(self, rollout: Row) -> bool:
        async with self._plain() as connection:
            # Grants hold this lock until they commit: after it, a later statement sees what they granted.
            await connection.fetch(QUERIES["lock_gates"], [rollout["changeset_id"]])
            if not await self._is_complete(connection, rollout):
                return False
            return await self._move(connection, rollout["rollout_id"], "completed", None, SOURCE) is not None

    async def renew_rollouts(self) -> list[uuid.UUID]:
        """Start another rollout where nodes came to a group whose rollout of the channel's changeset is done."""
        renewed = []
        for candidate in await self._pool.fetch(QUERIES["completed_rollouts"]):
            async with self._pool.acquire() as connection:
                if (await self._census(connection, candidate, self._clock.now()))["left"] == 0:
                    continue
            rollout_id = await self._renew(dict(candidate))
            if rollout_id is not None:
                renewed.append(rollout_id)
        return renewed

    async def _renew(self, done: Row) -> uuid.UUID | None:
        async with self._change() as connection:
            row = await connection.fetchrow(QUERIES["lock_group"], done["group_id"])
            channel = await connection.fetchrow(QUERIES["lock_channel"], done["channel_id"]) if row else None
            if row is None or channel is None or channel["changeset_id"] != done["changeset_id"]:
                return None
            group = dict(row)
            if group["channel_name"] != channel["name"]:
                return None
            await self._lock_gates(connection, [group], [done["changeset_id"]])
            changeset = await self.changeset(done["changeset_id"], connection)
            last = await connection.fetchrow(QUERIES["last_rollout"], done["group_id"], done["arch"])
            if last is None or last["rollout_id"] != done["rollout_id"] or changeset["gate"]["state"] != "open":
                return None
            rollout_id = await self._roll_out(
                connection,
                group,
                dict(channel),
                changeset,
                reason="nodes came since",
                by=SOURCE,
                again=True,
            )
            await connection.fetchval(QUERIES["raise_policy_version"])
            return rollout_id

    # Nodes

    async def nodes(self, asked: requests.NodesQuery) -> list[Row]:
        """Nodes, by id."""
        application_id = await self._application_id(asked.application)
        return _rows(
            await self._pool.fetch(
                QUERIES["nodes"],
                asked.cursor,
                asked.limit,
                application_id,
                asked.group,
                asked.version,
                asked.machine,
                _value(asked.state),
                asked.cloned,
            )
        )

    async def node(self, node_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One node with its facts, its attempts and its quarantines.

        Raises:
            NotFound: There is none.
        """
        place = self._pool if connection is None else connection
        row = await place.fetchrow(QUERIES["node"], node_id)
        if row is None:
            raise NotFound(f"there is no node {node_id}")
        return {
            **dict(row),
            "attempts": _rows(await place.fetch(QUERIES["attempts_of_node"], node_id)),
            "quarantines": _rows(await place.fetch(QUERIES["quarantines_of_node"], node_id)),
        }

    async def lift_quarantine(self, node_id: uuid.UUID, changeset_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Let a changeset be offered to a node again; nothing is changed where it is not quarantined.

        Raises:
            NotFound: There is no such node.
        """
        async with self._change() as connection:
            node = await self.node(node_id, connection)
            lifted = await connection.fetchval(
                QUERIES["lift_quarantine"], node_id, changeset_id, reason, by, self._ids.uuid7(), SOURCE
            )
            if not lifted:
                return node
            await connection.fetchval(QUERIES["raise_policy_version"])
            return await self.node(node_id, connection)

    # The ledger

    async def events(self, asked: requests.EventsQuery) -> list[LedgerEntry]:
        """Ledger entries in the order of seq."""
        kind, _, key = (asked.subject or "").partition("/")
        async with self._pool.acquire() as connection:
            return await read(
                connection,
                after=asked.after,
                limit=asked.limit,
                types=asked.type or None,
                subject=asked.subject,
                # These keep their order by their own id, which is indexed.
                partition_key=key if kind in ("nodes", "changesets", "groups", "channels") else None,
                correlation_id=asked.correlation or (key if kind == "rollouts" else None),
            )

    async def event(self, seq: int) -> LedgerEntry:
        """The ledger entry of a seq.

        Raises:
            NotFound: There is none.
        """
        async with self._pool.acquire() as connection:
            found = await read(connection, after=seq - 1, limit=1, until=seq) if seq > 0 else []
        if not found:
            raise NotFound(f"the ledger has no entry {seq}")
        return found[0]

    async def ledger_head(self) -> tuple[int, bytes, datetime]:
        """The ledger's last seq, the hash there, and its ledger time."""
        async with self._pool.acquire() as connection:
            return await head(connection)

    async def verify(self, after: int) -> VerifyResult:
        """Verify the chain after a seq.

        Raises:
            NotFound: There is no such entry.
            Unavailable: Somebody has it verified already; it takes a connection for long, so one at a time.
        """
        if self._verifying.locked():
            raise Unavailable("the ledger is being verified already: wait for that", retry_after_s=10.0)
        async with self._verifying, self._pool.acquire() as connection:
            return await verify_chain(connection, after=after)


_GATE_FIELDS: Final = ("gate_state", "braked_reason", "gate_reason", "evidence", "resumes", "gate_changed_at")
_ROLLOUT_FIELDS: Final = (
    "rollout_id",
    "group_id",
    "group_name",
    "changeset_id",
    "version",
    "arch",
    "application_id",
    "application",
    "channel_id",
    "state",
    "pace",
    "reason",
    "policy",
    "parameters",
    "created_at",
    "changed_at",
)


def _check_promotable(channel: Row, changeset: Row) -> None:
    if changeset["application_id"] != channel["application_id"]:
        raise Conflict(f"changeset {changeset['version']} is of {changeset['application']}, the channel is not")
    if changeset["arch"] != channel["arch"]:
        raise Conflict(f"changeset {changeset['version']} is for {changeset['arch']}, the channel {channel['arch']}")
    if changeset["state"] == "draft":
        raise Conflict(f"changeset {changeset['version']} is a draft: publish it first")
    if changeset["state"] != "published":
        raise Conflict(f"changeset {changeset['version']} is {changeset['state']}: promote another")


def _gate(row: Mapping[str, Any], pace: str) -> Row | None:
    if row["gate_state"] is None:
        return None
    return {
        "state": row["gate_state"],
        "reason": row["gate_reason"],
        "braked_reason": row["braked_reason"],
        "pace": row[pace],
        "evidence": row["evidence"],
        "resumes": row["resumes"],
        "changed_at": row["gate_changed_at"],
    }


def _changeset(row: Row) -> Row:
    gate = _gate(row, "pace")
    return {name: value for name, value in row.items() if name not in _GATE_FIELDS and name != "pace"} | {"gate": gate}


def _group(row: Row) -> Row:
    return {**row, "effective_policy": msgspec.to_builtins(publishing.read_policy(row["policy"]))}


def _verdict(row: Mapping[str, Any] | None) -> Row | None:
    return None if row is None else dict(row)


def _value(state: requests.ChangesetState | requests.RolloutState | requests.NodeState | None) -> str | None:
    return None if state is None else state.value


def _rows(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [dict(record) for record in records]


def _one(record: Mapping[str, Any] | None) -> Row:
    if record is None:
        raise Fault("a row that must be there is missing: was the database migrated with `uneventful migrate`?")
    return dict(record)


def _ids(records: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return [str(record[name]) for record in records]
