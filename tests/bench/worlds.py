"""Rollouts with nodes in the middle of their update, made in bulk, with the events that say so."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
from fleets import FACTS
from sources import NEW_VERSION, OLD_VERSION, attempt_id, boot_id, machine_id

from shared.clock import SystemClock
from shared.domain.identity import node_id_for
from shared.domain.policy import Policy, freeze
from shared.events import new_event, types
from shared.ids import SystemIds
from shared.ledger import append

_SOURCE = "/uneventful/control"


@dataclass(frozen=True)
class Rollout:
    """What was made."""

    application_id: uuid.UUID
    group_id: uuid.UUID
    changeset_id: uuid.UUID
    rollout_id: uuid.UUID
    version: str


async def make_application(connection: asyncpg.Connection[Any], name: str, omaha_id: str | None) -> uuid.UUID:
    """An application."""
    application_id = uuid.uuid4()
    await connection.execute(
        "INSERT INTO control.applications (application_id, name, omaha_id) VALUES ($1, $2, $3)",
        application_id,
        name,
        omaha_id,
    )
    return application_id


async def make_rollout(
    connection: asyncpg.Connection[Any],
    application_id: uuid.UUID,
    *,
    group: str,
    selector: dict[str, list[str]],
    position: int,
    version: str = NEW_VERSION,
    nodes: int,
    pace: int,
) -> Rollout:
    """A group and a changeset that it takes, running, with the events that control would append."""
    ids, clock = SystemIds(), SystemClock()
    made = Rollout(application_id, uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), version)
    policy = Policy(concurrency=pace)
    builtins = msgspec.to_builtins(freeze(policy, fleet_size=nodes, group_size=nodes))
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO control.changesets (changeset_id, application_id, version, arch, kind, state, published_at) "
            "VALUES ($1, $2, $3, 'amd64', 'image', 'published', now())",
            made.changeset_id,
            application_id,
            version,
        )
        await connection.execute(
            "INSERT INTO control.payloads (changeset_id, position, role, name, sha256, sha1_base64, size) "
            "VALUES ($1, 0, 'main', 'update.gz', $2, 'I6DGNAOrJRUxPbCuLw+AITfiVMo=', 7)",
            made.changeset_id,
            hashlib.sha256(version.encode()).hexdigest(),
        )
        await connection.execute(
            "INSERT INTO control.groups (group_id, application_id, name, position, channel_name, selector) "
            "VALUES ($1, $2, $3, $4, 'stable', $5)",
            made.group_id,
            application_id,
            group,
            position,
            selector,
        )
        await connection.execute(
            "INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, $2)", made.changeset_id, pace
        )
        await connection.execute(
            "INSERT INTO control.rollouts (rollout_id, group_id, changeset_id, application_id, arch, state, pace, "
            "policy, parameters) VALUES ($1, $2, $3, $4, 'amd64', 'created', $5, $6, $7)",
            made.rollout_id,
            made.group_id,
            made.changeset_id,
            application_id,
            pace,
            {},
            builtins,
        )
        created = types.RolloutCreated(
            rollout_id=str(made.rollout_id),
            group_id=str(made.group_id),
            group_name=group,
            changeset_id=str(made.changeset_id),
            version=version,
            arch="amd64",
            application_id=str(application_id),
            parameters=msgspec.convert(builtins, types.RolloutParameters),
        )
        subject = f"rollouts/{made.rollout_id}"
        await append(connection, [new_event(created, ids=ids, clock=clock, source=_SOURCE, subject=subject)])
        await connection.fetchval(
            "SELECT control.transition_rollout_v1($1, 'running', 'bench', 'bench', gen_random_uuid(), $2)",
            made.rollout_id,
            _SOURCE,
        )
        await connection.fetchval("SELECT control.raise_policy_version_v1()")
    return made


async def add_offers(connection: asyncpg.Connection[Any], rollout: Rollout, numbers: range) -> None:
    """Nodes with these numbers, just offered the rollout: rows and events as ``fleet.grant_v2`` writes them."""
    now = datetime.now(UTC)
    nodes, attempts = [], []
    for number in numbers:
        machine, attempt = machine_id(number), uuid.UUID(attempt_id(number))
        node_id = node_id_for(rollout.application_id, machine)
        nodes.append(
            (
                node_id,
                rollout.application_id,
                machine,
                rollout.group_id,
                OLD_VERSION,
                "amd64",
                boot_id(number),
                now,
                FACTS,
                "127.0.0.1",
                attempt,
                now,
                now,
            )
        )
        attempts.append(
            (
                attempt,
                attempt.hex,
                node_id,
                rollout.application_id,
                rollout.changeset_id,
                rollout.rollout_id,
                rollout.group_id,
                "amd64",
                OLD_VERSION,
                rollout.version,
                "offered",
                boot_id(number),
                now,
                now,
            )
        )
    async with connection.transaction():
        await connection.copy_records_to_table(
            "nodes",
            schema_name="fleet",
            columns=(
                *("node_id", "application_id", "machine_id", "group_id", "version", "arch", "boot_id", "boot_seen_at"),
                *("facts", "address", "last_attempt_id", "first_seen_at", "last_contact_at"),
            ),
            records=nodes,
        )
        await connection.copy_records_to_table(
            "attempts",
            schema_name="fleet",
            columns=(
                *("attempt_id", "token", "node_id", "application_id", "changeset_id", "rollout_id", "group_id", "arch"),
                *("from_version", "to_version", "state", "boot_id", "granted_at", "changed_at"),
            ),
            records=attempts,
        )
        await connection.execute(
            """
            INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data,
                                         correlation_id)
            SELECT gen_random_uuid(), 'update.offered.v1', 'grant', 'nodes/' || a.node_id, a.node_id::text,
                   a.granted_at,
                   jsonb_build_object(
                       'node_id', a.node_id, 'machine_id', n.machine_id, 'application_id', a.application_id,
                       'attempt_id', a.attempt_id, 'rollout_id', a.rollout_id, 'changeset_id', a.changeset_id,
                       'group_id', a.group_id, 'arch', a.arch, 'from_version', a.from_version,
                       'to_version', a.to_version,
                       'version', a.from_version, 'boot_id', a.boot_id, 'state_after', 'offered', 'applied', true,
                       'source', 'grant', 'facts', n.facts),
                   a.attempt_id::text
              FROM fleet.attempts a JOIN fleet.nodes n USING (node_id)
             WHERE a.attempt_id = ANY ($1)
            """,
            [attempt[0] for attempt in attempts],
        )
