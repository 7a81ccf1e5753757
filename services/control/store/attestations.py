"""Results of release tests, attached to changesets."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from services.control.attestation import AttestedVerdict, Result
from services.control.store.base import Connection, Database, Row, one, rows_of
from services.control.store.keys import Keys
from shared.db import Queries
from shared.domain.manifest import Signature, attestation_statement, is_signed
from shared.errors import Conflict, InvalidInput, NotFound
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "attestations.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A release test's report as it was read.

    Attributes:
        sha256: Of the bytes that were sent; a signature is over a statement that holds it.
        artefact_sha256: Of the full report, where what was sent is only a summary of it.
    """

    name: str
    verdict: AttestedVerdict
    summary: str
    sha256: str
    results: Sequence[Result] = ()
    link: str | None = None
    artefact_sha256: str | None = None
    signature: Signature | None = None


class Attestations:
    """Results of release tests; the last one of each name counts."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database = database
        self._keys = keys

    async def add(self, changeset_id: uuid.UUID, report: Report, *, by: str) -> Row:
        """Attach a report.

        Raises:
            NotFound: There is no such changeset.
            Conflict: It is a draft, which may still change, or withdrawn.
            InvalidInput: The signature is none of a trusted tester over this report, test and release.
        """
        async with self._database.plain() as connection:
            changeset = await connection.fetchrow(QUERIES["attested_changeset"], changeset_id)
            if changeset is None:
                raise NotFound(f"there is no changeset {changeset_id}")
            if changeset["state"] == "draft":
                raise Conflict(
                    f"changeset {changeset['version']} is a draft: publish it first, for what is tested must not change"
                )
            if changeset["state"] != "published":
                raise Conflict(f"changeset {changeset['version']} is {changeset['state']}: attest another")
            signature = None if report.signature is None else await self._check(connection, dict(changeset), report)
            added = one(
                await connection.fetchrow(
                    QUERIES["add_attestation"],
                    self._database.ids.uuid7(),
                    changeset_id,
                    report.name,
                    report.verdict.value,
                    report.summary,
                    report.link,
                    report.artefact_sha256 or report.sha256,
                    [msgspec.to_builtins(result) for result in report.results],
                    signature,
                    by,
                )
            )
            data = types.ChangesetAttested(
                changeset_id=str(changeset_id),
                attestation_id=str(added["attestation_id"]),
                name=report.name,
                verdict=report.verdict.value,
                by=by,
                summary=report.summary[:4096],
                link=report.link,
                artefact_sha256=added["artefact_sha256"],
                signed_by=None if report.signature is None else report.signature.key_id,
            )
            subject = f"changesets/{changeset_id}"
            await append(connection, [self._database.event(data, subject, correlation_id=str(changeset_id))])
            return {**added, "counts": True}

    async def _check(self, connection: Connection, changeset: Row, report: Report) -> dict[str, Any]:
        signature = report.signature
        if signature is None:
            raise AssertionError
        tester = await self._keys.attester(connection, signature.key_id)
        if tester is None:
            raise InvalidInput(
                f"the report is signed by {signature.key_id}, which is no trusted tester's key: an admin trusts it "
                "with `uneventful keys trust`"
            )
        statement = attestation_statement(
            application=changeset["application"],
            version=changeset["version"],
            arch=changeset["arch"],
            name=report.name,
            artefact_sha256=report.sha256,
        )
        if not is_signed(statement, signature, tester["public_key"]):
            raise InvalidInput(
                f"the signature is none of {tester['name']} for test {report.name!r} of {changeset['version']} "
                f"({changeset['arch']}) with this report"
            )
        return {**msgspec.to_builtins(signature), "attester": tester["name"], "report_sha256": report.sha256}

    async def listing(self, changeset_id: uuid.UUID, limit: int) -> list[Row]:
        """All of a changeset, the newest first; ``counts`` marks the last of each name."""
        return rows_of(await self._database.pool.fetch(QUERIES["attestations"], changeset_id, limit))

    async def verdicts(self, connection: Connection, changeset_id: uuid.UUID) -> dict[str, str]:
        """The verdict that counts, by the test's name."""
        rows = await connection.fetch(QUERIES["latest_verdicts"], changeset_id)
        return {row["name"]: row["verdict"] for row in rows}
