"""Channels: named pointers to changesets."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

import msgspec

from services.control import releasing, requests
from services.control.acting import about
from services.control.listing import place_of
from services.control.store.applications import Applications
from services.control.store.approvals import four_eyes
from services.control.store.attestations import Attestations
from services.control.store.base import Connection, Database, Made, Row, lock_channel, rows_of
from services.control.store.changesets import Changesets
from services.control.store.rollouts import Rollouts
from shared.db import Queries
from shared.domain.policy import Action
from shared.domain.scheme import VersionScheme
from shared.errors import Conflict, InvalidInput, NotFound
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "channels.sql")
_NO_NODES: Final = {"total": 0, "on_target": 0, "behind": 0, "ahead": 0, "unknown": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointing:
    """How and why a channel is pointed to something, as its history keeps it."""

    kind: str
    by: str
    reason: str | None
    override_reason: str | None = None


class Channels:
    """Named pointers to changesets, one per arch."""

    def __init__(
        self,
        database: Database,
        applications: Applications,
        changesets: Changesets,
        attestations: Attestations,
        rollouts: Rollouts,
    ) -> None:
        self._database = database
        self._applications = applications
        self._changesets = changesets
        self._attestations = attestations
        self._rollouts = rollouts

    async def add(self, asked: requests.NewChannel) -> Made:
        """Add a channel that points nowhere yet.

        Raises:
            NotFound: There is no such application.
            Conflict: It is there with another position or other demands than those that are given.
        """
        application_id = (await self._applications.get(asked.application))["application_id"]
        key = (application_id, asked.name, asked.arch)
        position = releasing.position_of(asked.name) if asked.position is msgspec.UNSET else asked.position
        demands = () if asked.required_attestations is msgspec.UNSET else asked.required_attestations
        async with self._database.plain() as connection:
            added = await connection.fetchval(
                QUERIES["add_channel"], self._database.ids.uuid7(), *key, position, list(dict.fromkeys(demands))
            )
            if added is not None:
                about(f"channels/{added}")
                return Made(await self.get(added, connection), new=True)
            known = await self.get(await connection.fetchval(QUERIES["channel_by_name"], *key), connection)
            if _given(asked, known):
                raise Conflict(
                    f"there is a channel {asked.name} for {asked.arch} already, with another position or demands: "
                    "change it with `uneventful channel set`"
                )
            return Made(known, new=False)

    async def change(self, channel_id: uuid.UUID, asked: requests.ChannelPatch, *, by: str) -> Row:
        """Change a channel's position or what it demands; what it points to stays.

        Raises:
            NotFound: There is no such channel.
        """
        async with self._database.change() as connection:
            if await lock_channel(connection, channel_id) is None:
                raise NotFound(f"there is no channel {channel_id}")
            known = await self.get(channel_id, connection)
            given = _given(asked, known)
            if given:
                changed = known | given
                await connection.execute(
                    QUERIES["change_channel"], channel_id, changed["position"], changed["required_attestations"]
                )
                said = ", ".join(f"{name} is {value}" for name, value in given.items())
                await self._database.policy_changed(
                    connection, f"channels/{channel_id}", f"channel {known['name']}: {said}", by
                )
            return await self.get(channel_id, connection)

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
        """Channels, the least stable first."""
        application_id = await self._applications.id_of(asked.application)
        place = place_of(asked)
        found = await self._database.pool.fetch(
            QUERIES["channels"],
            place.after,
            asked.limit,
            application_id,
            asked.name,
            asked.arch,
            place.sort,
            place.key,
            place.descending,
        )
        return rows_of(found)

    async def history(self, channel_id: uuid.UUID, limit: int) -> list[Row]:
        """What a channel pointed to, the newest first.

        Raises:
            NotFound: There is no such channel.
        """
        await self.get(channel_id)
        return rows_of(await self._database.pool.fetch(QUERIES["history"], channel_id, limit))

    async def promote(
        self, channel_id: uuid.UUID, asked: requests.Promotion, *, by: str, may_override: bool = False
    ) -> Row:
        """Point a channel to a changeset and start a rollout in every group that follows it, in one transaction.

        Groups that have this changeset as their last rollout, active or completed, keep it. So the same promotion
        twice changes nothing.

        Args:
            channel_id: The channel.
            asked: Which changeset, and why; with an override why attestations may be missing.
            by: Who.
            may_override: Whether they may promote what a channel's demands are against.

        Returns:
            ``channel``, and ``rollouts``: the ids of those that this call started.

        Raises:
            NotFound: There is no such channel or changeset.
            ApprovalWanted: Another pair of eyes is needed, since a group's policy wants it, or since an override was
                asked for by somebody who may not do it alone.
            Conflict: The changeset is of another application or arch, not published, halted, not attested as the
                channel demands, or less stable than it by the version scheme.
        """
        async with self._database.change() as connection:
            channel = await self._locked(connection, channel_id)
            changeset = await self._changesets.get(asked.changeset, connection)
            _check_promotable(channel, changeset)
            override = None
            if channel["changeset_id"] != asked.changeset:
                override = await self._check_demands(connection, channel, changeset, asked)
            pointing = Pointing(kind="promote", reason=asked.reason, override_reason=override, by=by)
            return await self._point(connection, channel, asked.changeset, pointing, may_override=may_override)

    async def rollback(self, channel_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Point a channel back to the nearest changeset of its history that is neither withdrawn nor halted.

        Nodes that run what the channel pointed to stay on it: nothing but a withdrawal takes them back.

        Returns:
            As `promote`.

        Raises:
            NotFound: There is no such channel.
            Conflict: There is nothing to go back to.
        """
        async with self._database.change() as connection:
            channel = await self._locked(connection, channel_id)
            refused = []
            for changeset_id in await self._predecessors(connection, channel_id):
                changeset = await self._changesets.get(changeset_id, connection)
                state = _shut(changeset)
                if state is None:
                    pointing = Pointing(kind="rollback", reason=reason, by=by)
                    return await self._point(connection, channel, changeset_id, pointing, may_override=False)
                refused.append(f"{changeset['version']} is {state}")
            said = f": {', '.join(refused)}" if refused else ", since nothing else was promoted to it"
            raise Conflict(f"there is nothing that channel {channel['name']} could go back to{said}")

    async def current(self, channel_id: uuid.UUID, distribution_url: str | None) -> Row:
        """What a channel points to, and the image that new nodes are to boot, with its payloads' URLs.

        Raises:
            NotFound: There is no such channel.
        """
        async with self._database.pool.acquire() as connection:
            channel = await self.get(channel_id, connection)
            ids = [channel["changeset_id"], *await self._predecessors(connection, channel_id)]
            rows = await connection.fetch(
                QUERIES["images"],
                [changeset_id for changeset_id in ids if changeset_id],
                channel["application_id"],
                channel["name"],
            )
            images = {row["changeset_id"]: releasing.Image(**row) for row in rows}
            choice = releasing.image_to_boot([images[changeset_id] for changeset_id in ids if changeset_id in images])
            image = None if choice.changeset_id is None else await self._changesets.get(choice.changeset_id, connection)
        return {
            "channel": channel,
            "reason": choice.reason,
            "image": None
            if image is None
            else {
                **{name: image[name] for name in ("changeset_id", "version", "arch", "kind")},
                "payloads": [
                    {
                        **{name: payload[name] for name in ("name", "role", "required", "sha256", "size")},
                        "url": _url(distribution_url, payload),
                    }
                    for payload in image["payloads"]
                ],
            },
        }

    async def drift(self, channel_id: uuid.UUID) -> Row:
        """How many nodes of the channel's groups are not on what it says.

        Raises:
            NotFound: There is no such channel.
        """
        channel = await self.get(channel_id)
        groups: dict[uuid.UUID, Row] = {}
        for row in await self._database.pool.fetch(
            QUERIES["drift"], channel["application_id"], channel["name"], channel["arch"]
        ):
            group = groups.setdefault(
                row["group_id"],
                {"group_id": row["group_id"], "group_name": row["group_name"], **_NO_NODES, "versions": {}},
            )
            if row["version"] is not None:
                group["versions"][row["version"]] = row["nodes"]
                group["total"] += row["nodes"]
                group[releasing.standing(channel["version"], row["version"])] += row["nodes"]
        return {
            "channel_id": channel_id,
            "name": channel["name"],
            "arch": channel["arch"],
            "version": channel["version"],
            **{name: sum(group[name] for group in groups.values()) for name in _NO_NODES},
            "groups": list(groups.values()),
        }

    async def _locked(self, connection: Connection, channel_id: uuid.UUID) -> Row:
        if await lock_channel(connection, channel_id) is None:
            raise NotFound(f"there is no channel {channel_id}")
        return await self.get(channel_id, connection)

    async def _predecessors(self, connection: Connection, channel_id: uuid.UUID) -> list[uuid.UUID]:
        history = await connection.fetch(QUERIES["pointed"], channel_id)
        return releasing.predecessors([row["changeset_id"] for row in history])

    async def _check_demands(
        self, connection: Connection, channel: Row, changeset: Row, asked: requests.Promotion
    ) -> str | None:
        """Refuse what the channel's demands are against. Returns the override's reason where one was needed."""
        application = await self._applications.get(str(channel["application_id"]), connection)
        verdicts = await self._attestations.verdicts(connection, asked.changeset)
        missing = releasing.missing_tests(channel["required_attestations"], verdicts)
        unstable = releasing.fault_of_stability(
            VersionScheme(application["version_scheme"]), changeset["version"], channel["position"]
        )
        if not missing and unstable is None:
            return None
        said = []
        if missing:
            said.append(
                f"channel {channel['name']} demands attestations that have not passed: {releasing.said_of(missing)}"
            )
        if unstable is not None:
            said.append(unstable)
        details = {"missing": [msgspec.to_builtins(test) for test in missing], "less_stable": unstable is not None}
        if asked.override_reason is None or (unstable is not None and not asked.force_scheme):
            how = "--override-reason TEXT" + (" --force-scheme" if unstable is not None else "")
            hint = f"An approver may promote it all the same: `uneventful channel promote ... {how}`"
            if missing:
                hint = f"Attach them, `uneventful changeset attest {changeset['version']} --name ...`. {hint}"
            raise Conflict(f"{'; '.join(said)}. {hint}", details=details)
        return asked.override_reason

    async def _approved(
        self, connection: Connection, groups: list[Row], subject: str, how: Pointing, *, may_override: bool
    ) -> str | None:
        """Stop here unless this may be done alone, or is approved. Returns who approved an override."""
        policies = [group["policy"] for group in groups]
        approved_by = None
        if how.override_reason is not None:
            wanted = policies if may_override else [*policies, {"four_eyes": [Action.OVERRIDE_ATTESTATIONS.value]}]
            approved_by = await four_eyes(
                self._database, connection, Action.OVERRIDE_ATTESTATIONS, wanted, subject, reason=how.override_reason
            )
        if approved_by is None:
            # A request brings one approval: who allowed the override has allowed the promotion too.
            await four_eyes(self._database, connection, Action.PROMOTE, policies, subject, reason=how.reason)
        return approved_by if how.override_reason is None or approved_by is not None else how.by

    async def _point(
        self, connection: Connection, channel: Row, changeset_id: uuid.UUID, how: Pointing, *, may_override: bool
    ) -> Row:
        channel_id = channel["channel_id"]
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
        approved_by = await self._approved(connection, groups, f"channels/{channel_id}", how, may_override=may_override)
        previous = channel["changeset_id"]
        if previous != changeset_id:
            await connection.execute(QUERIES["point_channel"], channel_id, changeset_id)
            await connection.execute(
                QUERIES["add_history"],
                channel_id,
                changeset_id,
                how.by,
                how.kind,
                how.reason,
                how.override_reason,
                approved_by,
            )
            data = types.ChannelPromoted(
                channel_id=str(channel_id),
                name=channel["name"],
                application_id=str(channel["application_id"]),
                arch=channel["arch"],
                changeset_id=str(changeset_id),
                version=changeset["version"],
                by=how.by,
                previous_changeset_id=None if previous is None else str(previous),
                kind=how.kind,
                reason=how.reason,
                override_reason=how.override_reason,
                approved_by=approved_by,
            )
            await append(connection, [self._database.event(data, f"channels/{channel_id}")])
        channel["changeset_id"] = changeset_id
        started = [
            rollout_id
            for group in groups
            if (
                rollout_id := await self._rollouts.roll_out(
                    connection, group, channel, changeset, reason=how.reason, by=how.by
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


def _given(asked: requests.NewChannel | requests.ChannelPatch, known: Row) -> Row:
    """What is given and is not so already."""
    given: Row = {}
    if asked.position is not msgspec.UNSET and asked.position != known["position"]:
        given["position"] = asked.position
    if asked.required_attestations is not msgspec.UNSET:
        demands = list(dict.fromkeys(asked.required_attestations))
        if demands != known["required_attestations"]:
            given["required_attestations"] = demands
    return given


def _shut(changeset: Row) -> str | None:
    """Why a channel cannot point to a changeset; None where it can."""
    if changeset["state"] != "published":
        return str(changeset["state"])
    gate = changeset["gate"]
    return None if gate is None or gate["state"] == "open" else str(gate["state"])


def _url(base: str | None, payload: Row) -> str | None:
    return None if base is None else f"{base.rstrip('/')}/payloads/{payload['sha256']}/{payload['name']}"


def _check_promotable(channel: Row, changeset: Row) -> None:
    if changeset["application_id"] != channel["application_id"]:
        raise Conflict(f"changeset {changeset['version']} is of {changeset['application']}, the channel is not")
    if changeset["arch"] != channel["arch"]:
        raise Conflict(f"changeset {changeset['version']} is for {changeset['arch']}, the channel {channel['arch']}")
    if changeset["state"] == "draft":
        raise Conflict(f"changeset {changeset['version']} is a draft: publish it first")
    if changeset["state"] != "published":
        raise Conflict(f"changeset {changeset['version']} is {changeset['state']}: promote another")
