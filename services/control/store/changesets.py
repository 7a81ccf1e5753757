"""Changesets: drafts, publishing, and their gates."""

from __future__ import annotations

import uuid
from typing import Final

from services.control import publishing, requests
from services.control.acting import about
from services.control.store.applications import Applications
from services.control.store.approvals import four_eyes, policies_of_changeset
from services.control.store.base import SOURCE, Connection, Database, Made, Row, gate_of, one, rows_of, value_of
from shared.db import Queries
from shared.domain.policy import Action
from shared.errors import Conflict, NotFound
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "changesets.sql")
_GATE_FIELDS: Final = ("gate_state", "braked_reason", "gate_reason", "evidence", "resumes", "gate_changed_at")


class Changesets:
    """Immutable, versioned releases, and the gates that their grants pass."""

    def __init__(self, database: Database, applications: Applications) -> None:
        self._database = database
        self._applications = applications

    async def add(self, asked: requests.NewChangeset) -> Made:
        """Add a draft.

        Raises:
            NotFound: There is no such application.
            Conflict: The version exists for that arch with another kind or other notes.
        """
        application_id = (await self._applications.get(asked.application))["application_id"]
        async with self._database.plain() as connection:
            added = await connection.fetchval(
                QUERIES["add_changeset"],
                self._database.ids.uuid7(),
                application_id,
                asked.version,
                asked.arch,
                asked.kind.value,
                asked.notes,
            )
            if added is not None:
                about(f"changesets/{added}")
                return Made(await self.get(added, connection), new=True)
            known = one(
                await connection.fetchrow(QUERIES["changeset_by_version"], application_id, asked.version, asked.arch)
            )
        if (known["kind"], known["notes"]) != (asked.kind.value, asked.notes):
            raise Conflict(
                f"there is a changeset {asked.version} for {asked.arch} already, with another kind or other notes; "
                "a changeset never changes: choose another version",
                details={"changeset_id": known["changeset_id"]},
            )
        return Made(await self.get(known["changeset_id"]), new=False)

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

    async def listing(self, asked: requests.ChangesetsQuery) -> list[Row]:
        """Changesets with their gates, the newest first."""
        application_id = await self._applications.id_of(asked.application)
        found = await self._database.pool.fetch(
            QUERIES["changesets"],
            asked.cursor,
            asked.limit,
            application_id,
            asked.version,
            asked.arch,
            value_of(asked.state),
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
            Conflict: It has not exactly one main payload, or that is not first; or it is withdrawn.
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

    async def _locked(self, connection: Connection, changeset_id: uuid.UUID) -> Row:
        row = await connection.fetchrow(QUERIES["lock_changeset"], changeset_id)
        if row is None:
            raise NotFound(f"there is no changeset {changeset_id}")
        return dict(row)


def _changeset(row: Row) -> Row:
    gate = gate_of(row, "pace")
    return {name: value for name, value in row.items() if name not in _GATE_FIELDS and name != "pace"} | {"gate": gate}
