"""Makes a small world in the database: an application, a published changeset, a group, a running rollout."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any

import asyncpg

from shared.domain.policy import Policy, freeze

OMAHA_ID = "e96281a6-d1af-4bde-9a0a-97b76e56dc57"
"""Flatcar's application id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The ids of what :func:`make_world` made."""

    application_id: uuid.UUID
    changeset_id: uuid.UUID
    group_id: uuid.UUID
    rollout_id: uuid.UUID
    version: str
    sha256: str


async def make_world(
    connection: asyncpg.Connection[Any],
    *,
    version: str = "3033.2.1",
    arch: str = "amd64",
    pace: int = 10,
    group_pace: int | None = None,
    state: str = "running",
    policy: dict[str, object] | None = None,
    payload: bytes = b"payload",
    fleet_size: int = 1000,
    supersede: bool = True,
    purpose: str = "update",
    leaves_version: str | None = None,
) -> World:
    """Insert one of each, ready to be offered; ``pace`` is the changeset's and, unless given, the group's.

    Called again, it adds a changeset and a rollout to the same application and group, in place of the rollout before
    (or, without ``supersede``, beside it).
    """
    application_id = await connection.fetchval(
        "INSERT INTO control.applications (application_id, name, omaha_id) VALUES ($1, 'flatcar', $2) "
        "ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING application_id",
        uuid.uuid4(),
        OMAHA_ID,
    )
    changeset_id = uuid.uuid4()
    await connection.execute(
        "INSERT INTO control.changesets (changeset_id, application_id, version, arch, kind, state, published_at) "
        "VALUES ($1, $2, $3, $4, 'image', 'published', now())",
        changeset_id,
        application_id,
        version,
        arch,
    )
    sha256 = hashlib.sha256(payload).hexdigest()
    await connection.execute(
        "INSERT INTO control.payloads (changeset_id, position, role, name, sha256, sha1_base64, size) "
        "VALUES ($1, 0, 'main', 'update.gz', $2, 'I6DGNAOrJRUxPbCuLw+AITfiVMo=', $3)",
        changeset_id,
        sha256,
        len(payload),
    )
    group_id = await connection.fetchval(
        "INSERT INTO control.groups (group_id, application_id, name, position, channel_name, policy) "
        "VALUES ($1, $2, 'everyone', 1, 'stable', $3) "
        "ON CONFLICT (application_id, name) DO UPDATE SET name = excluded.name RETURNING group_id",
        uuid.uuid4(),
        application_id,
        policy or {},
    )
    await connection.execute(
        "INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, $2)", changeset_id, pace
    )
    await connection.execute(
        "SELECT control.transition_rollout_v1(rollout_id, 'superseded', 'test', 'test', gen_random_uuid(), 'test') "
        "FROM control.rollouts WHERE group_id = $1 AND arch = $2 "
        "AND $3 AND state NOT IN ('aborted', 'superseded')",
        group_id,
        arch,
        supersede,
    )
    rollout_id = uuid.uuid4()
    parameters = freeze(Policy(), fleet_size=fleet_size, group_size=fleet_size)
    await connection.execute(
        "INSERT INTO control.rollouts (rollout_id, group_id, changeset_id, application_id, arch, state, pace, policy, "
        "parameters, running_since, purpose, leaves_version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, "
        "CASE WHEN $6 <> 'created' THEN now() END, $10, $11)",
        rollout_id,
        group_id,
        changeset_id,
        application_id,
        arch,
        state,
        pace if group_pace is None else group_pace,
        policy or {},
        parameters,
        purpose,
        leaves_version,
    )
    await connection.fetchval("SELECT control.raise_policy_version_v1()")
    return World(
        application_id=application_id,
        changeset_id=changeset_id,
        group_id=group_id,
        rollout_id=rollout_id,
        version=version,
        sha256=sha256,
    )


async def pretend_analysis_keeps_up(connection: asyncpg.Connection[Any]) -> None:
    """Say that the log and the analysis are alive, where a test runs neither."""
    await connection.execute("UPDATE event_log.head SET recorded_at = clock_timestamp() + interval '1 hour'")
    await connection.execute(
        "INSERT INTO event_log.followers (name, seq, moved_at) VALUES ('rollback_analysis', 0, "
        "clock_timestamp() + interval '1 hour') ON CONFLICT (name) DO UPDATE SET moved_at = excluded.moved_at"
    )
