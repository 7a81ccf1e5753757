"""All of update_check's SQL: the snapshot, grants and last contacts."""

from __future__ import annotations

import functools
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from services.update_check.configuration import (
    ApplicationView,
    ArchRollouts,
    Configuration,
    GroupView,
    Named,
    NodeOrder,
    RolloutView,
)
from services.update_check.path_secrets import PathSecret
from services.update_check.standing import NodeKey, OpenAttempt
from shared.db.queries import Queries
from shared.domain.policy import TO_BOOT_S, Expedition, Order, Policy
from shared.domain.rollout import SERVING, Purpose, RolloutState
from shared.domain.scheme import VersionScheme
from shared.domain.selector import selecting_facts
from shared.domain.version import Version, is_newer, parse
from shared.domain.windows import Windows
from shared.omaha.response import TOKEN, Package, UpdateAnswer

QUERIES = Queries.load("services.update_check")

_DEFAULTS = Policy()
_NO_VERSION = Version((0, 0, 0, 0), (), is_release=True, build=())

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
        watched: Whether somebody watches polls.
    """

    open: bool
    policy_version: int
    head_seq: int
    log_age_s: float
    analysis_age_s: float
    analysis_lag_s: float
    watched: bool = False


@dataclass(frozen=True, slots=True)
class NodeRows:
    """What the database holds of single nodes that differ from "nothing is going on"."""

    attempts: dict[NodeKey, OpenAttempt]
    quarantined: dict[NodeKey, frozenset[uuid.UUID]]
    cloned: set[NodeKey]
    imported: dict[NodeKey, Mapping[str, str]]


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
    """``status`` is ``granted``, ``repeated`` or the reason for a refusal, as ``fleet.grant_v2`` says it."""

    status: str
    attempt_id: uuid.UUID | None
    token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedPoll:
    """One poll as it is shown. Texts are the nodes' words, cut short."""

    at: datetime
    dialect: str
    answer: str
    address: str | None = None
    application: str | None = None
    machine_id: str | None = None
    version: str | None = None
    group_name: str | None = None
    detail: str | None = None


class FrozenPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What offers depend on of the policy that a rollout froze; what that does not name has the policy's default."""

    retry_after_s: float = _DEFAULTS.retry_after_s
    probation_s: float = _DEFAULTS.probation_s
    silence_deadline_s: float = _DEFAULTS.silence_deadline_s
    windows: Windows = _DEFAULTS.windows
    order: Order | None = None
    failure_domain: str | None = None
    download_rate: int | None = None
    ondemand_jumps_waves: bool = False
    expedition: Expedition = _DEFAULTS.expedition


async def read_gates(connection: Connection) -> Gates:
    """The look of every second: one row, three primary keys."""
    row = await connection.fetchrow(QUERIES["gates"])
    if row is None:
        raise RuntimeError("control.global_gate or event_log.head has no row: run `uneventful migrate`")
    return Gates(*row)


async def read_configuration(
    connection: Connection, distribution_url: str, former: Configuration | None = None
) -> Configuration:
    """Everything that ``decide`` reads, except single nodes; call in a REPEATABLE READ transaction.

    Args:
        connection: Where to read.
        distribution_url: What payload URLs begin with.
        former: What was read before: what only changes with the policy version is taken from it while that is the same.
    """
    gates = await read_gates(connection)
    rollouts = await _read_rollouts(connection, distribution_url)
    if former is not None and former.policy_version == gates.policy_version:
        named = former.named
    else:
        named = await _read_named(connection)
    groups: defaultdict[uuid.UUID, list[GroupView]] = defaultdict(list)
    for row in await connection.fetch(QUERIES["groups"]):
        application_id, group_id = row["application_id"], row["group_id"]
        groups[application_id].append(
            GroupView(
                group_id=group_id,
                name=row["name"],
                selector={name: tuple(values) for name, values in row["selector"].items()},
                updates_enabled=row["updates_enabled"],
                poll_interval_s=max(1, round(row["poll_interval_s"])),
                rollouts={
                    arch: arch_rollouts(views, named.dead_ends.get((application_id, arch), frozenset()))
                    for arch, views in rollouts.get(group_id, {}).items()
                },
                pinned_version=row["pinned_version"],
            )
        )
    applications = [
        _application(row, groups[row["application_id"]], named)
        for row in await connection.fetch(QUERIES["applications"])
    ]
    return Configuration.of(gates.policy_version, applications, is_open=gates.open, named=named)


def _application(row: asyncpg.Record, groups: Sequence[GroupView], named: Named) -> ApplicationView:
    by_id = {group.group_id: group for group in groups}
    return ApplicationView(
        application_id=row["application_id"],
        name=row["name"],
        omaha_id=row["omaha_id"],
        groups=tuple(groups),
        selecting_facts=selecting_facts(groups),
        named={
            machine_id: by_id[group_id]
            for machine_id, group_id in named.machines.get(row["application_id"], {}).items()
            if group_id in by_id
        },
        observe_only=row["observe_only"],
        scheme=VersionScheme(row["version_scheme"]),
    )


async def _read_named(connection: Connection) -> Named:
    machines: defaultdict[uuid.UUID, dict[str, uuid.UUID]] = defaultdict(dict)
    for row in await connection.fetch(QUERIES["group_nodes"]):
        machines[row["application_id"]][row["machine_id"]] = row["group_id"]
    dead_ends: defaultdict[tuple[uuid.UUID, str], set[str]] = defaultdict(set)
    for row in await connection.fetch(QUERIES["dead_ends"]):
        dead_ends[row["application_id"], row["arch"]].add(row["version"])
    return Named(
        machines=machines,
        dead_ends={key: frozenset(versions) for key, versions in dead_ends.items()},
        path_secrets={
            row["token_sha256"]: PathSecret(
                application_id=row["application_id"],
                machine_id=row["machine_id"],
                expires_at=row["expires_at"],
                revoked=row["revoked"],
            )
            for row in await connection.fetch(QUERIES["path_secrets"])
        },
    )


async def _read_rollouts(
    connection: Connection, distribution_url: str
) -> dict[uuid.UUID, dict[str, list[RolloutView]]]:
    """By group and arch, newest first."""
    rows = await connection.fetch(QUERIES["rollouts"])
    changeset_ids = list({row["changeset_id"] for row in rows})
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
    holds: defaultdict[uuid.UUID, list[tuple[tuple[str, str], ...]]] = defaultdict(list)
    for row in await connection.fetch(QUERIES["holds"], changeset_ids):
        holds[row["changeset_id"]].append(tuple(sorted(row["segment"].items())))
    excluded: defaultdict[uuid.UUID, set[str]] = defaultdict(set)
    for row in await connection.fetch(QUERIES["exclusions"], [row["rollout_id"] for row in rows]):
        excluded[row["rollout_id"]].add(row["machine_id"])
    views: defaultdict[uuid.UUID, dict[str, list[RolloutView]]] = defaultdict(dict)
    answers: dict[uuid.UUID, UpdateAnswer] = {}
    for row in rows:
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
        views[row["group_id"]].setdefault(row["arch"], []).append(
            _rollout(
                row,
                answers[changeset_id],
                holds=tuple(holds.get(changeset_id, ())),
                excluded=frozenset(excluded.get(row["rollout_id"], ())),
            )
        )
    return views


def _rollout(
    row: asyncpg.Record,
    answer: UpdateAnswer,
    *,
    holds: tuple[tuple[tuple[str, str], ...], ...],
    excluded: frozenset[str],
) -> RolloutView:
    policy = _policy(row["policy"])
    pace_cap, only_machines = row["pace_cap"], row["only_machines"]
    always_open = policy.windows == _DEFAULTS.windows or (row["expedited"] and policy.expedition.skip_windows)
    return RolloutView(
        rollout_id=row["rollout_id"],
        changeset_id=row["changeset_id"],
        group_id=row["group_id"],
        arch=row["arch"],
        version=row["version"],
        state=row["state"],
        group_pace=row["pace"] if pace_cap is None else min(row["pace"], pace_cap),
        gate_state=row["gate_state"],
        braked_reason=row["braked_reason"],
        changeset_pace=row["changeset_pace"],
        suspended=row["suspended"],
        retry_after_s=policy.retry_after_s,
        answer=answer,
        purpose=Purpose(row["purpose"]),
        leaves_version=row["leaves_version"],
        only_machines=None if only_machines is None else frozenset(only_machines),
        fraction=row["fraction"],
        order=None
        if policy.order is None
        else NodeOrder(policy.order.fact, {value: stage for stage, value in enumerate(policy.order.values)}),
        order_stage=row["order_stage"],
        windows=None if always_open else policy.windows,
        holds=holds,
        excluded=excluded,
        pace_cap=pace_cap,
        probation_s=policy.probation_s,
        silence_s=policy.silence_deadline_s,
        expected_s=TO_BOOT_S + policy.probation_s,
        ondemand_jumps_waves=policy.ondemand_jumps_waves,
        download_rate=policy.download_rate,
        failure_domain=policy.failure_domain,
        minimum_version=row["minimum_version"],
    )


@functools.lru_cache(maxsize=1024)
def _policy(encoded: str) -> FrozenPolicy:
    return msgspec.json.decode(encoded, type=FrozenPolicy)


def arch_rollouts(views: Iterable[RolloutView], dead_ends: frozenset[str]) -> ArchRollouts:
    """What a group rolls out to one arch, of its rollouts there, newest first."""
    by_purpose: dict[Purpose, list[RolloutView]] = {purpose: [] for purpose in Purpose}
    for view in views:
        by_purpose[view.purpose].append(view)
    updates = by_purpose[Purpose.UPDATE]
    update = updates[0] if updates else None
    former = None
    if update is not None and not _serves(update):
        former = next((view for view in updates[1:] if _serves(view)), None)
        if former is not None and not is_newer(update.version, former.version):
            # The channel went back: what it left is not given to anybody any more.
            former = None
    return ArchRollouts(
        update=update,
        former=former,
        floors=tuple(sorted(by_purpose[Purpose.FLOOR], key=_order)),
        # Of several for the same version the newest, which comes first.
        downgrades={
            view.leaves_version: view
            for view in reversed(by_purpose[Purpose.DOWNGRADE])
            if view.leaves_version is not None
        },
        drills=tuple(by_purpose[Purpose.DRILL]),
        dead_ends=dead_ends,
    )


def _serves(view: RolloutView) -> bool:
    return RolloutState(view.state) in SERVING


def _order(view: RolloutView) -> tuple[object, ...]:
    parsed = parse(view.version)
    return (_NO_VERSION if parsed is None else parsed).order


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
        imported=await read_imported(connection),
    )


async def read_imported(
    connection: Connection, node_ids: Sequence[uuid.UUID] | None = None
) -> dict[NodeKey, Mapping[str, str]]:
    """The facts that operators imported, of these nodes or of all, where they have some."""
    rows = await connection.fetch(QUERIES["imported"], node_ids)
    return {(row["application_id"], row["machine_id"]): row["facts"] for row in rows}


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
    answers: list[str | None],
    awaited_every: timedelta,
) -> dict[uuid.UUID, bool]:
    """Write last contacts and what each was answered.

    Returns:
        The nodes whose rows disagree with their poll, which are to be passed on as reports; whether each is known.
    """
    rows = await connection.fetch(
        QUERIES["contact"], node_ids, group_ids, versions, boot_ids, times, answers, awaited_every
    )
    return {row[0]: row[1] for row in rows}


async def count_contacts(connection: Connection, writer: str, contacts: dict[str, int]) -> None:
    """Add contacts of idle nodes, by site."""
    await connection.execute(QUERIES["count_contacts"], list(contacts), writer, list(contacts.values()))


async def write_watched_polls(connection: Connection, polls: Sequence[WatchedPoll]) -> None:
    """Show polls to those who watch."""
    await connection.execute(
        QUERIES["watched"],
        [poll.at for poll in polls],
        [poll.dialect for poll in polls],
        [poll.address for poll in polls],
        [poll.application for poll in polls],
        [poll.machine_id for poll in polls],
        [poll.version for poll in polls],
        [poll.group_name for poll in polls],
        [poll.answer for poll in polls],
        [poll.detail for poll in polls],
    )


async def forget_watched_polls(connection: Connection) -> bool:
    """Forget watched polls that are older than 5 minutes; tells whether any are left."""
    return bool(await connection.fetchval(QUERIES["forget_watched"]))
