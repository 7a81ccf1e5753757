"""All of update_check's SQL: the snapshot, grants and last contacts."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from services.update_check.configuration import ApplicationView, Configuration, GroupView, RolloutView
from services.update_check.standing import NodeKey, OpenAttempt
from shared.db.queries import Queries
from shared.omaha.response import TOKEN, Package, UpdateAnswer

QUERIES = Queries.load("services.update_check")

Connection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"


@dataclass(frozen=True, slots=True)
class Gates:
    """What is looked at every second.

    Attributes:
        open: Whether the global gate is open.
        policy_version: Changes with the operators' word.
        head_seq: The ledger's newest seq.
        log_age_s: Seconds since the ledger's newest event; ticks keep it young.
        analysis_age_s: Seconds since the analysis moved its checkpoint.
        analysis_lag_s: Age of the first event that the analysis has not seen; 0 where it has seen all.
    """

    open: bool
    policy_version: int
    head_seq: int
    log_age_s: float
    analysis_age_s: float
    analysis_lag_s: float


@dataclass(frozen=True, slots=True)
class NodeRows:
    """What the database holds of single nodes that differ from "nothing is going on"."""

    attempts: dict[NodeKey, OpenAttempt]
    quarantined: dict[NodeKey, frozenset[uuid.UUID]]
    cloned: set[NodeKey]


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """A node that may be offered a rollout."""

    node_id: uuid.UUID
    attempt_id: uuid.UUID
    token: str
    event_id: uuid.UUID
    version: str
    boot_id: str
    at: datetime
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class GrantResult:
    """``status`` is ``granted``, ``repeated`` or the reason for a refusal, as ``fleet.grant_v1`` says it."""

    status: str
    attempt_id: uuid.UUID | None
    token: str | None


async def read_gates(connection: Connection) -> Gates:
    """The look of every second: one row, three primary keys."""
    row = await connection.fetchrow(QUERIES["gates"])
    if row is None:
        raise RuntimeError("control.global_gate or event_log.head has no row: run `uneventful migrate`")
    return Gates(*row)


async def read_configuration(connection: Connection, distribution_url: str) -> Configuration:
    """Everything that ``decide`` reads, except single nodes; call in a REPEATABLE READ transaction."""
    gates = await read_gates(connection)
    rollouts = await connection.fetch(QUERIES["rollouts"])
    changeset_ids = list({row["changeset_id"] for row in rollouts})
    packages: defaultdict[uuid.UUID, list[Package]] = defaultdict(list)
    for row in await connection.fetch(QUERIES["payloads"], changeset_ids):
        packages[row["changeset_id"]].append(
            Package(
                name=row["name"],
                sha1_base64=row["sha1_base64"],
                sha256_hex=row["sha256"],
                size=row["size"],
                required=row["required"],
            )
        )
    by_group: defaultdict[uuid.UUID, dict[str, RolloutView]] = defaultdict(dict)
    answers: dict[uuid.UUID, UpdateAnswer] = {}
    for row in rollouts:
        changeset_id = row["changeset_id"]
        if changeset_id not in answers:
            files = packages[changeset_id]
            answers[changeset_id] = UpdateAnswer(
                version=row["version"],
                packages=files,
                # One codebase for all packages, so it names the main payload: distribution finds the others of the
                # same changeset by their names.
                codebases=[f"{distribution_url.rstrip('/')}/payloads/{files[0].sha256_hex}/{TOKEN}/"],
            )
        by_group[row["group_id"]][row["arch"]] = RolloutView(
            rollout_id=row["rollout_id"],
            changeset_id=changeset_id,
            group_id=row["group_id"],
            version=row["version"],
            state=row["state"],
            group_pace=row["group_pace"],
            gate_state=row["gate_state"],
            braked_reason=row["braked_reason"],
            changeset_pace=row["changeset_pace"],
            suspended=row["suspended"],
            retry_after_s=row["retry_after_s"],
            answer=answers[changeset_id],
        )
    groups: defaultdict[uuid.UUID, list[GroupView]] = defaultdict(list)
    for row in await connection.fetch(QUERIES["groups"]):
        groups[row["application_id"]].append(
            GroupView(
                group_id=row["group_id"],
                name=row["name"],
                selector={name: tuple(values) for name, values in row["selector"].items()},
                updates_enabled=row["updates_enabled"],
                poll_interval_s=max(1, round(row["poll_interval_s"])),
                rollouts=by_group.get(row["group_id"], {}),
            )
        )
    applications = [
        ApplicationView(
            application_id=row["application_id"],
            name=row["name"],
            omaha_id=row["omaha_id"],
            groups=tuple(groups[row["application_id"]]),
            selecting_facts=tuple(sorted({name for g in groups[row["application_id"]] for name in g.selector})),
        )
        for row in await connection.fetch(QUERIES["applications"])
    ]
    return Configuration.of(gates.policy_version, applications, is_open=gates.open)


async def read_nodes(connection: Connection) -> NodeRows:
    """The nodes that something is going on with; call in the transaction in which the ledger's head was read."""
    quarantined: defaultdict[NodeKey, set[uuid.UUID]] = defaultdict(set)
    for row in await connection.fetch(QUERIES["quarantined"]):
        quarantined[row["application_id"], row["machine_id"]].add(row["changeset_id"])
    return NodeRows(
        attempts={
            (row["application_id"], row["machine_id"]): OpenAttempt(
                attempt_id=row["attempt_id"],
                changeset_id=row["changeset_id"],
                group_id=row["group_id"],
                state=row["state"],
                boot_id=row["boot_id"],
                parked=row["parked"],
            )
            for row in await connection.fetch(QUERIES["open_attempts"])
        },
        quarantined={key: frozenset(changesets) for key, changesets in quarantined.items()},
        cloned={(row["application_id"], row["machine_id"]) for row in await connection.fetch(QUERIES["cloned"])},
    )


async def grant(
    connection: Connection, rollout_id: uuid.UUID, policy_version: int, requests: Sequence[GrantRequest]
) -> list[GrantResult]:
    """Ask for offers of one rollout, in order; what is granted is committed with its event when this returns."""
    rows = await connection.fetch(
        QUERIES["grant"],
        rollout_id,
        policy_version,
        [r.node_id for r in requests],
        [r.attempt_id for r in requests],
        [r.token for r in requests],
        [r.event_id for r in requests],
        [r.version for r in requests],
        [r.boot_id for r in requests],
        [r.at for r in requests],
        [r.traceparent for r in requests],
    )
    return [GrantResult(status=row[1], attempt_id=row[2], token=row[3]) for row in rows]


async def write_contacts(
    connection: Connection,
    *,
    node_ids: list[uuid.UUID],
    group_ids: list[uuid.UUID | None],
    versions: list[str],
    boot_ids: list[str],
    times: list[datetime],
    awaited_every: timedelta,
) -> set[uuid.UUID]:
    """Write last contacts; returns the nodes whose rows disagree with their poll: pass these on as reports."""
    rows = await connection.fetch(QUERIES["contact"], node_ids, group_ids, versions, boot_ids, times, awaited_every)
    return {row[0] for row in rows}


async def count_contacts(connection: Connection, writer: str, contacts: dict[str, int]) -> None:
    """Add contacts of idle nodes, by site."""
    await connection.execute(QUERIES["count_contacts"], list(contacts), writer, list(contacts.values()))
