"""What dialects read and write beside the snapshot: releases, manifests, single attempts, enrolment, floods."""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from services.update_check.cincinnati import Release, pullspec_of
from services.update_check.flood import FloodGuard
from services.update_check.keeper import postgres_is_away
from services.update_check.native import AttemptStanding, Payload, Signature
from shared.db.queries import Queries

QUERIES: Final = Queries.load("services.update_check", "dialects.sql")


@dataclass(frozen=True, slots=True)
class Details:
    """What an agent needs of a changeset beside its version; immutable once it is published."""

    manifest: str | None
    signatures: tuple[Signature, ...]
    payloads: tuple[Payload, ...]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What came of enrolling: ``enrolled``, ``again``, ``taken`` or ``refused``."""

    status: str
    group_id: uuid.UUID | None
    group_name: str | None


async def read_releases(pool: asyncpg.Pool[Any], application_id: uuid.UUID, arch: str) -> tuple[Release, ...]:
    """Every published changeset of an application and arch."""
    return tuple(
        Release(
            version=row["version"],
            checksum=row["sha256"],
            pullspec=pullspec_of(row["source"]),
            channels=frozenset(row["channels"]),
            barrier_reason=(row["floor_reason"] or "") if row["floor"] else None,
            deadend_reason=(row["dead_end_reason"] or "") if row["dead_end"] else None,
            published_s=row["published_s"],
        )
        for row in await pool.fetch(QUERIES["releases"], application_id, arch, timeout=5)
    )


async def read_details(pool: asyncpg.Pool[Any], changeset_id: uuid.UUID) -> Details:
    """A changeset's manifest, its signatures and its files, the main one first."""
    async with pool.acquire(timeout=5) as connection:
        row = await connection.fetchrow(QUERIES["manifest"], changeset_id)
        files = await connection.fetch(QUERIES["files"], changeset_id)
    manifest = None if row is None else row["manifest"]
    return Details(
        manifest=None if manifest is None else base64.b64encode(manifest).decode(),
        signatures=tuple(
            Signature(key_id=signature["key_id"], signature=signature["signature"])
            for signature in (() if row is None else row["signatures"])
        ),
        payloads=tuple(
            Payload(
                name=file["name"],
                role=file["role"],
                required=file["required"],
                sha256=file["sha256"],
                size=file["size"],
            )
            for file in files
        ),
    )


async def read_attempt(pool: asyncpg.Pool[Any], token: str, node_id: uuid.UUID) -> AttemptStanding | None:
    """An attempt of a node, by its token; None where the node has none of that token."""
    row = await pool.fetchrow(QUERIES["attempt"], token, node_id, timeout=5)
    return None if row is None else AttemptStanding(*row)


async def recall_told(pool: asyncpg.Pool[Any], token: str, node_id: uuid.UUID, reason: str) -> None:
    """End the attempt that a node is about to be told to let go of: what it says of it afterwards is no evidence."""
    await pool.execute(QUERIES["recall_told"], token, node_id, reason, timeout=5)


async def enrol(  # what the function takes
    pool: asyncpg.Pool[Any],
    *,
    application_id: uuid.UUID,
    enrolment_sha256: bytes,
    machine_id: str,
    token_id: uuid.UUID,
    token_sha256: bytes,
    address: str | None,
    event_id: uuid.UUID,
) -> Enrolment:
    """Give a machine its own token; committed with its event when this returns."""
    row = await pool.fetchrow(
        QUERIES["enrol"],
        application_id,
        enrolment_sha256,
        machine_id,
        token_id,
        token_sha256,
        address,
        event_id,
        timeout=5,
    )
    if row is None:
        raise RuntimeError("control.enrol_node_v1 always returns a row")
    return Enrolment(*row)


async def tell_floods(pool: asyncpg.Pool[Any], guard: FloodGuard, at: datetime) -> None:
    """Write down what was dropped, and tell the ledger of it; while Postgres is away it is remembered."""
    floods = guard.drain()
    if not floods:
        return
    try:
        await pool.execute(
            QUERIES["flooded"],
            [flood.application_id for flood in floods],
            [flood.kind.value for flood in floods],
            [flood.source for flood in floods],
            [flood.dropped for flood in floods],
            at,
            timeout=10,
        )
    except Exception as error:
        if not postgres_is_away(error):
            raise
        guard.put_back(floods)
