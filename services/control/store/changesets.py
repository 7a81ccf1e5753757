"""Changesets: drafts, publishing, and their gates."""

from __future__ import annotations

import base64
import uuid
from typing import Final

import msgspec

from services.control import publishing, releasing, requests
from services.control.acting import about
from services.control.listing import SortOrder, place_of
from services.control.store.applications import Applications
from services.control.store.approvals import four_eyes, policies_of_changeset
from services.control.store.base import SOURCE, Connection, Database, Made, Row, gate_of, one, rows_of, value_of
from services.control.store.keys import Keys
from shared.db import Queries
from shared.domain.manifest import manifest_document
from shared.domain.policy import Action
from shared.domain.scheme import VersionScheme
from shared.errors import Conflict, InvalidInput, NotFound
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "changesets.sql")
CONTENT: Final = (
    "kind",
    "notes",
    "source",
    "components",
    "packages",
    "floor",
    "floor_reason",
    "dead_end",
    "dead_end_reason",
    "minimum_version",
)
"""What an operator says of a changeset, in the order of the queries."""
_SIGNED: Final = ("application", "version", "arch", "kind", "components", "packages", "minimum_version")
_GATE_FIELDS: Final = ("gate_state", "braked_reason", "gate_reason", "evidence", "resumes", "gate_changed_at")


class Changesets:
    """Immutable, versioned releases, and the gates that their grants pass."""

    def __init__(self, database: Database, applications: Applications, keys: Keys) -> None:
        self._database = database
        self._applications = applications
        self._keys = keys

    async def add(self, asked: requests.NewChangeset) -> Made:
        """Add a draft.

        Raises:
            NotFound: There is no such application.
            InvalidInput: A version is none of the application's scheme, or a flag has no reason.
            Conflict: The version exists for that arch with another content.
        """
        application = await self._applications.get(asked.application)
        wanted = {name: value for name, value in msgspec.structs.asdict(asked).items() if name != "application"}
        wanted["kind"] = asked.kind.value
        releasing.check_changeset(VersionScheme(application["version_scheme"]), wanted)
        content = {name: wanted[name] for name in CONTENT}
        key = (application["application_id"], asked.version, asked.arch)
        async with self._database.plain() as connection:
            added = await connection.fetchval(
                QUERIES["add_changeset"], self._database.ids.uuid7(), *key, *content.values()
            )
            if added is not None:
                about(f"changesets/{added}")
                return Made(await self.get(added, connection), new=True)
            known = one(await connection.fetchrow(QUERIES["changeset_by_version"], *key))
            other = [name for name, value in content.items() if known[name] != value]
            if other:
                raise Conflict(
                    f"there is a changeset {asked.version} for {asked.arch} already, with another {other[0]}: "
                    "change it while it is a draft, or choose another version",
                    details={"changeset_id": known["changeset_id"], "fields": other},
                )
            return Made(await self.get(known["changeset_id"], connection), new=False)

    async def change(self, changeset_id: uuid.UUID, asked: requests.ChangesetPatch) -> Row:
        """Change a draft.

        Raises:
            NotFound: There is no such changeset.
            InvalidInput: As for `add`.
            Conflict: It is published: what was tested never changes.
        """
        async with self._database.plain() as connection:
            known = await self._locked(connection, changeset_id)
            given = {name: value for name, value in msgspec.structs.asdict(asked).items() if value is not msgspec.UNSET}
            if "kind" in given:
                given["kind"] = given["kind"].value
            changed = known | given
            if all(known[name] == value for name, value in given.items()):
                return await self.get(changeset_id, connection)
            if known["state"] != "draft":
                raise Conflict(
                    f"changeset {known['version']} is {known['state']} and cannot change any more: choose another "
                    "version (a floor or a dead end is declared by `uneventful changeset mark`)"
                )
            releasing.check_changeset(VersionScheme(known["version_scheme"]), changed)
            await connection.execute(QUERIES["change_draft"], changeset_id, *(changed[name] for name in CONTENT))
            return await self.get(changeset_id, connection)

    async def mark(self, changeset_id: uuid.UUID, asked: requests.Mark, *, by: str) -> Row:
        """Declare a published changeset a floor or a dead end, or no longer; nothing changes where it is so already.

        Upstream declares them after the fact, when a later release needs something that an older one lacks. Neither
        changes what is installed, so the manifest does not carry them and stays as it was signed.

        Raises:
            NotFound: There is no such changeset.
            InvalidInput: Nothing is asked for.
            Conflict: It is a draft.
        """
        if asked.floor is None and asked.dead_end is None:
            raise InvalidInput("say which mark is meant: floor or dead_end")
        async with self._database.change() as connection:
            known = await self._locked(connection, changeset_id)
            if known["state"] == "draft":
                raise Conflict(
                    f"changeset {known['version']} is a draft: change it, `uneventful changeset set --floor WHY`"
                )
            floor = None if asked.floor == known["floor"] else asked.floor
            dead_end = None if asked.dead_end == known["dead_end"] else asked.dead_end
            if floor is not None or dead_end is not None:
                await connection.execute(QUERIES["mark_changeset"], changeset_id, floor, dead_end, asked.reason)
                data = types.ChangesetMarked(
                    changeset_id=str(changeset_id),
                    version=known["version"],
                    arch=known["arch"],
                    reason=asked.reason,
                    by=by,
                    floor=floor,
                    dead_end=dead_end,
                )
                subject = f"changesets/{changeset_id}"
                await append(connection, [self._database.event(data, subject, correlation_id=str(changeset_id))])
                await self._database.raise_policy_version(connection)
            return await self.get(changeset_id, connection)

    async def diff(self, before_id: uuid.UUID, after_id: uuid.UUID) -> Row:
        """How two changesets differ: components, packages, payloads.

        Raises:
            NotFound: One of them is not there.
            InvalidInput: They are of two applications.
        """
        before, after = await self.get(before_id), await self.get(after_id)
        if before["application_id"] != after["application_id"]:
            raise InvalidInput(f"{before['version']} and {after['version']} are of two applications: name two of one")
        named = ("changeset_id", "version", "arch")
        return {
            "before": {name: before[name] for name in named},
            "after": {name: after[name] for name in named},
            "components": releasing.changes(before["components"], after["components"]),
            "packages": releasing.changes(before["packages"], after["packages"]),
            "payloads": releasing.payload_changes(before["payloads"], after["payloads"]),
        }

    async def manifest(self, changeset_id: uuid.UUID) -> Row:
        """What was signed at publishing, and by which keys.

        Raises:
            NotFound: There is no such changeset, or it has none, since it is a draft or older than manifests.
        """
        row = await self._database.pool.fetchrow(QUERIES["manifest"], changeset_id)
        if row is None:
            raise NotFound(f"there is no changeset {changeset_id}")
        if row["manifest"] is None:
            why = "is a draft: publish it first" if row["state"] == "draft" else "was published without one"
            raise NotFound(f"changeset {row['version']} has no manifest: it {why}")
        return {
            "changeset_id": changeset_id,
            "document": base64.b64encode(row["manifest"]).decode(),
            "manifest": msgspec.json.decode(row["manifest"]),
            "signatures": row["signatures"],
        }

    async def get(self, changeset_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One changeset with its gate and payloads.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["changeset"], changeset_id)
        if row is None:
            raise NotFound(f"there is no changeset {changeset_id}")
        return {
            **_changeset(dict(row)),
            "payloads": rows_of(await place.fetch(QUERIES["payloads"], changeset_id)),
        }

    async def application_id_of(self, reference: str | None) -> uuid.UUID | None:
        """The id of the application that a filter names, as `Applications.id_of` finds it."""
        return await self._applications.id_of(reference)

    async def listing(self, asked: requests.ChangesetsQuery) -> list[Row]:
        """Changesets with their gates, the newest first."""
        application_id = await self._applications.id_of(asked.application)
        place = place_of(asked, usually=SortOrder.DESC)
        found = await self._database.pool.fetch(
            QUERIES["changesets"],
            place.after,
            asked.limit,
            application_id,
            asked.version,
            asked.arch,
            value_of(asked.state),
            place.sort,
            place.key,
            place.descending,
        )
        return [_changeset(row) for row in rows_of(found)]

    async def add_payload(self, changeset_id: uuid.UUID, asked: requests.NewPayload) -> Made:
        """Add a payload to a draft.

        Raises:
            NotFound: There is no such changeset.
            Conflict: It is published, or the position or the name is taken by another payload.
        """
        async with self._database.plain() as connection:
            changeset = await self._locked(connection, changeset_id)
            present = rows_of(await connection.fetch(QUERIES["payloads"], changeset_id))
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
                    return Made(await self.get(changeset_id, connection), new=False)
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
            return Made(await self.get(changeset_id, connection), new=True)

    async def publish(self, changeset_id: uuid.UUID, *, by: str) -> Row:
        """Make a changeset immutable and fit to be promoted; nothing is changed where it is so already.

        Raises:
            NotFound: There is no such changeset.
            Conflict: It has not exactly one main payload, or that is not first; or it is withdrawn; or keys are in
                force and none of them is here to sign it.
        """
        async with self._database.plain() as connection:
            changeset = await self._locked(connection, changeset_id)
            if changeset["state"] == "withdrawn":
                raise Conflict(f"changeset {changeset['version']} was withdrawn for good: choose another version")
            if changeset["state"] == "draft":
                payloads = rows_of(await connection.fetch(QUERIES["payloads"], changeset_id))
                publishing.check_publishable(
                    [
                        publishing.Part(position=item["position"], role=item["role"], name=item["name"])
                        for item in payloads
                    ]
                )
                published_at = self._database.clock.now()
                document = manifest_document(
                    payloads=payloads,
                    published_at=published_at,
                    **{name: changeset[name] for name in _SIGNED},
                )
                signatures = await self._keys.sign(connection, document)
                await connection.execute(QUERIES["publish_changeset"], changeset_id, published_at, document, signatures)
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
                await append(connection, [self._database.event(data, subject, correlation_id=str(changeset_id))])
            return await self.get(changeset_id, connection)

    async def halt(self, changeset_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """No more of a changeset for anyone; nothing is changed where it is halted already.

        Raises:
            NotFound: There is no such changeset.
            Conflict: It is a draft, or its gate is shut for another cause.
        """
        async with self._database.plain() as connection:
            changeset = await self._locked(connection, changeset_id)
            if changeset["state"] == "draft":
                raise Conflict(f"changeset {changeset['version']} is a draft: no node can have it, so nothing to halt")
            await connection.execute(QUERIES["ensure_shut_gate"], changeset_id)
            event_id = self._database.ids.uuid7()
            await connection.fetchval(QUERIES["halt_changeset"], changeset_id, reason, by, event_id, SOURCE)
            halted = await self.get(changeset_id, connection)
            if halted["gate"]["state"] != "halted":
                raise Conflict(f"changeset {halted['version']} is {halted['gate']['state']} already")
            return halted

    async def resume(self, changeset_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Let a halted changeset go on; nothing is changed where it is not halted.

        Raises:
            NotFound: There is no such changeset.
            Conflict: Its gate is shut for another cause than a halt.
        """
        async with self._database.change() as connection:
            await self._locked(connection, changeset_id)
            policies = await policies_of_changeset(connection, changeset_id)
            await four_eyes(
                self._database, connection, Action.RESUME, policies, f"changesets/{changeset_id}", reason=reason
            )
            await connection.fetchval(QUERIES["resume_changeset"], changeset_id, reason, by, self._database.ids.uuid7())
            resumed = await self.get(changeset_id, connection)
            if resumed["gate"] is not None and resumed["gate"]["state"] != "open":
                raise Conflict(f"changeset {resumed['version']} is {resumed['gate']['state']}: it cannot be resumed")
            return resumed

    async def withdraw(self, changeset_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Take a changeset back for good; nothing is changed where it is withdrawn already.

        Returns:
            ``changeset``, who holds it (as `holders`), and the channels that still point to it.

        Raises:
            NotFound: There is no such changeset.
        """
        async with self._database.change() as connection:
            changeset = await self.get(changeset_id, connection)
            held = await self._holders(connection, changeset, 100)
            await connection.fetchval(
                QUERIES["withdraw_changeset"], changeset_id, reason, by, self._database.ids.uuid7()
            )
            channels = rows_of(await connection.fetch(QUERIES["pointing_channels"], changeset_id))
            return {"changeset": await self.get(changeset_id, connection), "holders": held, "channels": channels}

    async def holders(self, changeset_id: uuid.UUID, limit: int) -> Row:
        """The nodes that run a changeset, have it staged, or are on the way to it: counted, the first ones named.

        Raises:
            NotFound: There is no such changeset.
        """
        async with self._database.pool.acquire() as connection:
            return await self._holders(connection, await self.get(changeset_id, connection), limit)

    async def _holders(self, connection: Connection, changeset: Row, limit: int) -> Row:
        key = (changeset["changeset_id"], changeset["application_id"], changeset["version"], changeset["arch"])
        counts = one(await connection.fetchrow(QUERIES["count_holders"], *key))
        groups = await connection.fetch(QUERIES["holding_groups"], *key[1:])
        nodes = await connection.fetch(QUERIES["holders"], *key, limit)
        return {**counts, "groups": rows_of(groups), "nodes": rows_of(nodes)}

    async def _locked(self, connection: Connection, changeset_id: uuid.UUID) -> Row:
        row = await connection.fetchrow(QUERIES["lock_changeset"], changeset_id)
        if row is None:
            raise NotFound(f"there is no changeset {changeset_id}")
        return dict(row)


def _changeset(row: Row) -> Row:
    gate = gate_of(row, "pace")
    return {name: value for name, value in row.items() if name not in _GATE_FIELDS and name != "pace"} | {"gate": gate}
