"""Applications."""

from __future__ import annotations

import uuid
from typing import Final

import msgspec

from services.control import releasing, requests
from services.control.acting import about
from services.control.listing import place_of
from services.control.store.base import Connection, Database, Made, Row, ids_of, rows_of
from shared.db import Queries
from shared.domain.scheme import VersionScheme
from shared.errors import Conflict, NotFound

QUERIES: Final = Queries.load("services.control.store", "applications.sql")


class Applications:
    """What nodes take updates of."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, asked: requests.NewApplication) -> Made:
        """Add an application.

        Raises:
            Conflict: The name has another omaha id, or the omaha id another name, or it is there with other settings.
        """
        omaha_id = None if asked.omaha_id is None else asked.omaha_id.strip("{}").lower()
        given = {
            "product": asked.product,
            "version_scheme": asked.version_scheme.value,
            "observe_only": asked.observe_only,
        }
        async with self._database.plain() as connection:
            row = await connection.fetchrow(
                QUERIES["add_application"], self._database.ids.uuid7(), asked.name, omaha_id, *given.values()
            )
            if row is not None:
                about(f"applications/{row['application_id']}")
                return Made(dict(row), new=True)
            found = await connection.fetch(QUERIES["application_named"], asked.name, omaha_id or "")
        for known in found:
            if known["name"] == asked.name and known["omaha_id"] == omaha_id:
                if any(known[name] != value for name, value in given.items()):
                    raise Conflict(
                        f"there is an application {asked.name} already, with other settings: "
                        "change them with `uneventful app set`"
                    )
                return Made(dict(known), new=False)
        taken = ", ".join(f"{known['name']} (omaha id {known['omaha_id'] or 'none'})" for known in found)
        raise Conflict(
            f"the name or the omaha id is taken: {taken}", details={"items": ids_of(found, "application_id")}
        )

    async def get(self, reference: str, connection: Connection | None = None) -> Row:
        """One application by name, id or omaha id.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["application_named"], reference, reference.strip("{}"))
        if row is None:
            raise NotFound(f"there is no application {reference!r}: add it with `uneventful app add`")
        return dict(row)

    async def change(self, reference: str, asked: requests.ApplicationPatch, *, by: str) -> Row:
        """Change what is given; nothing is changed, and nothing told, where it is so already.

        Raises:
            NotFound: There is no such application.
            Conflict: A changeset of it has a version that the new scheme cannot read.
        """
        async with self._database.change() as connection:
            known = await self.get(reference, connection)
            given = {
                name: value
                for name, value in msgspec.structs.asdict(asked).items()
                if value is not msgspec.UNSET and value != known[name]
            }
            if "version_scheme" in given:
                given["version_scheme"] = given["version_scheme"].value
                for row in await connection.fetch(QUERIES["versions_of"], known["application_id"]):
                    fault = releasing.fault_of_version(VersionScheme(given["version_scheme"]), row["version"])
                    if fault is not None:
                        raise Conflict(f"{known['name']} has a changeset that does not fit: {fault}")
            if not given:
                return known
            changed = known | given
            await connection.execute(
                QUERIES["change_application"],
                known["application_id"],
                changed["product"],
                changed["version_scheme"],
                changed["observe_only"],
            )
            said = ", ".join(f"{name} is {value}" for name, value in given.items())
            subject = f"applications/{known['application_id']}"
            await self._database.policy_changed(connection, subject, f"application {known['name']}: {said}", by)
            return changed

    async def listing(self, asked: requests.ApplicationsQuery) -> list[Row]:
        """Applications, the oldest first unless asked otherwise."""
        place = place_of(asked)
        return rows_of(
            await self._database.pool.fetch(
                QUERIES["applications"], place.after, asked.limit, place.sort, place.key, place.descending
            )
        )

    async def id_of(self, reference: str | None) -> uuid.UUID | None:
        """The id of the application that a filter names; None where it names none.

        Raises:
            NotFound: There is no such application.
        """
        return None if reference is None else (await self.get(reference))["application_id"]
