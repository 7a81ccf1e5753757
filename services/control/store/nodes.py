"""Nodes: listed, explained, described, gone, forgotten."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from services.control import node_why, publishing, requests
from services.control.completion import SILENT_AFTER
from services.control.listing import place_of
from services.control.standstill import Standstill
from services.control.store.applications import Applications
from services.control.store.base import SOURCE, Connection, Database, Row, one, rows_of, value_of
from services.control.store.groups import Groups
from services.control.store.rollouts import Rollouts
from shared.db import Queries
from shared.domain.hold import Segment
from shared.domain.identity import node_id_for
from shared.domain.version import is_newer
from shared.errors import InvalidInput, NotFound

QUERIES: Final = Queries.load("services.control.store", "nodes.sql")
STAGED_LONG: Final = timedelta(days=7)
"""A node that got its update so long ago and has not rebooted into it is stuck."""
SHOWN: Final = 100
"""So many machine ids are shown of a number of nodes."""
SWEEP_BATCH: Final = 500
_END: Final = (1 << 63) - 1
_KINDS: Final = ("staged", "silent", "stranded", "parked")


class Nodes:
    """Single machines with their history."""

    def __init__(self, database: Database, applications: Applications, groups: Groups, rollouts: Rollouts) -> None:
        self._database = database
        self._applications = applications
        self._groups = groups
        self._rollouts = rollouts

    # Looking

    def _stuck_since(self) -> tuple[datetime, datetime, list[str]]:
        """What `fleet.stuck_v1` asks: silent since, granted before, and the answers that leave nothing to offer."""
        now = self._database.clock.now()
        return now - SILENT_AFTER, now - STAGED_LONG, list(node_why.STRANDED)

    async def listing(self, asked: requests.NodesQuery) -> list[Row]:
        """A page of nodes.

        Raises:
            InvalidInput: A fact is asked for with two values, or the cursor is of another list.
            NotFound: There is no such application.
        """
        application_id = await self._applications.id_of(asked.application)
        place = place_of(asked)
        kinds = [kind for kind in _KINDS if asked.stuck or getattr(asked, kind)]
        values = (
            place.after,
            asked.limit,
            application_id,
            asked.group,
            asked.version,
            asked.machine,
            value_of(asked.state),
            asked.cloned,
            asked.arch,
            asked.alias,
            asked.prefix,
            value_of(asked.dialect),
            asked.gone,
            asked.quarantined,
            asked.quarantined_for,
            _facts_of(asked.fact),
            kinds or None,
            *self._stuck_since(),
        )
        pool = self._database.pool
        # By id the primary key has the order; that is how most lists are asked for.
        if asked.sort is requests.NodeSort.NODE_ID and not place.descending:
            return rows_of(await pool.fetch(QUERIES["nodes"], *values))
        return rows_of(await pool.fetch(QUERIES["nodes_sorted"], *values, place.sort, place.descending, place.key))

    async def get(self, node_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One node with its facts, its attempts and its quarantines.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["node"], node_id, *self._stuck_since())
        if row is None:
            raise NotFound(f"there is no node {node_id}")
        return {
            **dict(row),
            "attempts": rows_of(await place.fetch(QUERIES["attempts_of_node"], node_id)),
            "quarantines": rows_of(await place.fetch(QUERIES["quarantines_of_node"], node_id)),
        }

    async def history(self, node_id: uuid.UUID, asked: requests.NodeHistoryQuery) -> list[Row]:
        """What the ledger has of a node, the newest first; of one that was forgotten too."""
        found = await self._database.pool.fetch(
            QUERIES["history_of_node"], str(node_id), asked.cursor or _END, asked.limit
        )
        return [
            {
                "seq": row["seq"],
                "recorded_at": row["recorded_at"],
                "type": row["type"],
                "what": node_why.history_line(row["type"], row["data"]),
                "version": row["data"].get("version"),
                "boot_id": row["data"].get("boot_id"),
                "attempt_id": row["data"].get("attempt_id"),
                "changeset_id": row["data"].get("changeset_id"),
                "reason": row["data"].get("reason"),
            }
            for row in found
        ]

    async def why(self, node_id: uuid.UUID) -> Row:
        """Why a node did not get an update: what its last poll was answered, and what keeps it now.

        Raises:
            NotFound: There is no such node.
        """
        now = self._database.clock.now()
        node = await self.get(node_id)
        standing = one(await self._database.pool.fetchrow(QUERIES["standing"], node_id))
        rollout, facts = await self._serving(node)
        attempt = None
        if standing["attempt_state"] is not None:
            attempt = (
                standing["attempt_state"],
                standing["attempt_version"],
                standing["attempt_since"],
                standing["attempt_parked"],
            )
        found = node_why.findings(
            node_why.NodeFacts(
                version=node["version"],
                arch=node["arch"],
                facts={name: str(value) for name, value in node["known_facts"].items()},
                last_contact_at=node["last_contact_at"],
                gone_at=node["gone_at"],
                cloned=node["cloned"],
                group=node["group_name"],
                updates_enabled=bool(standing["updates_enabled"]),
                follows=standing["follows"],
                observe_only=bool(standing["observe_only"]),
                everything_open=standing["everything_open"],
                attempt=attempt,
                rollout=facts,
            ),
            now,
        )
        answered_at = node["last_answer_at"]
        return {
            "node_id": node_id,
            "machine_id": node["machine_id"],
            "version": node["version"],
            "group_name": node["group_name"],
            "summary": node_why.summary(found, None if facts is None else facts.version),
            "findings": [{"reason": str(item.reason), "sentence": item.sentence} for item in found],
            "answer": node["last_answer"],
            "answer_means": node_why.answer_means(node["last_answer"]),
            "answered_at": answered_at,
            "answer_age_s": None if answered_at is None else max(0.0, (now - answered_at).total_seconds()),
            "rollout_id": None if rollout is None else rollout["rollout_id"],
            "to_version": None if facts is None else facts.version,
            "wave_position": None if facts is None else facts.position,
        }

    async def _serving(self, node: Row) -> tuple[Row | None, node_why.RolloutFacts | None]:
        """The rollout that is for a node, with what decides about the node in it."""
        pool = self._database.pool
        candidates = rows_of(await pool.fetch(QUERIES["rollout_of_node"], node["node_id"]))
        row = _pick(candidates, node["version"])
        if row is None:
            return None, None
        rollout = await self._rollouts.get(row["rollout_id"])
        policy = publishing.read_policy(row["policy"])
        holds = await pool.fetch(QUERIES["holds_of_changeset"], row["changeset_id"])
        return row, node_why.RolloutFacts(
            version=row["version"],
            state=rollout["shown"],
            standstill=None if rollout["standstill"] is None else Standstill(rollout["standstill"]),
            explanation=rollout["explanation"],
            fraction=row["fraction"],
            position=row["position"],
            order=None if policy.order is None else (policy.order.fact, policy.order.values),
            order_stage=row["order_stage"],
            quarantined=row["quarantined"],
            excluded=row["excluded"],
            holds=[(Segment.of(hold["segment"]), hold["reason"]) for hold in holds],
            failures=row["failures"],
            max_attempts=policy.max_attempts,
            in_flight=f"{rollout['changeset_in_flight']} of {rollout['gate']['pace']} of the changeset, "
            f"{rollout['group_in_flight']} of {rollout['pace']} in the group",
        )

    async def staged_but_halted(self, asked: requests.StagedButHaltedQuery) -> list[Row]:
        """By changeset: nodes that will boot it at their next reboot although it is not offered any more."""
        application_id = await self._applications.id_of(asked.application)
        return rows_of(
            await self._database.pool.fetch(
                QUERIES["staged_but_halted"], application_id, asked.group, asked.changeset, SHOWN
            )
        )

    # Changing

    async def lift_quarantine(self, node_id: uuid.UUID, changeset_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Let a changeset be offered to a node again; nothing is changed where it is not quarantined.

        Raises:
            NotFound: There is no such node.
        """
        async with self._database.change() as connection:
            node = await self.get(node_id, connection)
            lifted = await connection.fetchval(
                QUERIES["lift_quarantine"], node_id, changeset_id, reason, by, self._database.ids.uuid7(), SOURCE
            )
            if not lifted:
                return node
            await self._database.raise_policy_version(connection)
            return await self.get(node_id, connection)

    async def gone(self, node_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """A node was taken away on purpose: what it had open counts as started and as nothing else.

        Raises:
            NotFound: There is no such node.
        """
        async with self._database.plain() as connection:
            await self.get(node_id, connection)
            await self._gone(connection, [node_id], reason=reason, by=by)
            return await self.get(node_id, connection)

    async def gone_many(self, asked: requests.NodesGone, *, by: str) -> Row:
        """The same of many machines, in one transaction; those that were never heard of are told.

        Raises:
            NotFound: There is no such application.
        """
        async with self._database.plain() as connection:
            application = await self._applications.get(asked.application, connection)
            known = await connection.fetch(QUERIES["node_ids"], application["application_id"], list(asked.machines))
            ids = [row["node_id"] for row in known]
            went = await self._gone(connection, ids, reason=asked.reason, by=by)
            unknown = sorted(set(asked.machines) - {row["machine_id"] for row in known})
            return {
                "gone": went,
                "already": len(ids) - went,
                "unknown": len(unknown),
                "unknown_machines": unknown[:SHOWN],
            }

    async def _gone(self, connection: Connection, ids: Sequence[uuid.UUID], *, reason: str, by: str) -> int:
        event_ids = [self._database.ids.uuid7() for _ in ids]
        return len(await connection.fetch(QUERIES["gone"], list(ids), event_ids, reason, by, SOURCE))

    async def forget(self, node_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Strike a node from the fleet: its attempts stay, for they are evidence, and so do its quarantines.

        Should it ask again, it is a new node.

        Raises:
            NotFound: There is no such node.
        """
        async with self._database.plain() as connection:
            node = await self.get(node_id, connection)
            await connection.fetchval(QUERIES["forget"], node_id, self._database.ids.uuid7(), reason, by, SOURCE)
            return {"node_id": node_id, "machine_id": node["machine_id"], "forgotten": True}

    async def name(self, node_id: uuid.UUID, asked: requests.NodeName, *, by: str) -> Row:
        """Give a node the name that people use.

        Raises:
            NotFound: There is no such node.
        """
        async with self._database.change() as connection:
            node = await self.get(node_id, connection)
            no_facts: dict[str, str | None] = {}
            said = (node_id, asked.alias or "", no_facts)
            if await self._describe(connection, node["application_id"], [said], reason=asked.reason, by=by):
                await self._database.raise_policy_version(connection)
            return await self.get(node_id, connection)

    async def import_facts(self, asked: requests.NodesImport, *, by: str) -> Row:
        """Say of many machines what they do not tell themselves, in one transaction; groups follow.

        Raises:
            NotFound: There is no such application.
            InvalidInput: A machine comes twice.
        """
        machines = [item.machine for item in asked.nodes]
        if len(set(machines)) != len(machines):
            twice = next(machine for machine in machines if machines.count(machine) > 1)
            raise InvalidInput(f"{twice!r} comes twice: say all of a machine at once", details={"field": "nodes"})
        async with self._database.change() as connection:
            application = await self._applications.get(asked.application, connection)
            application_id = application["application_id"]
            known = {row["machine_id"] for row in await connection.fetch(QUERIES["node_ids"], application_id, machines)}
            said = [
                (node_id_for(application_id, item.machine), item.alias, item.facts)
                for item in asked.nodes
                if item.machine in known
            ]
            changed, moved = await self._describe(connection, application_id, said, reason=asked.reason, by=by) or (
                0,
                0,
            )
            if changed:
                await self._database.raise_policy_version(connection)
            unknown = sorted(set(machines) - known)
            return {
                "changed": changed,
                "unchanged": len(said) - changed,
                "moved": moved,
                "unknown": len(unknown),
                "unknown_machines": unknown[:SHOWN],
            }

    async def _describe(
        self,
        connection: Connection,
        application_id: uuid.UUID,
        said: Sequence[tuple[uuid.UUID, str | None, Mapping[str, str | None]]],
        *,
        reason: str,
        by: str,
    ) -> tuple[int, int] | None:
        """Write names and facts; how many nodes that changed and how many it moved, None where it changed nothing."""
        changed = await connection.fetch(
            QUERIES["describe"],
            [node_id for node_id, _, _ in said],
            [alias for _, alias, _ in said],
            [dict(facts) for _, _, facts in said],
            [self._database.ids.uuid7() for _ in said],
            reason,
            by,
            SOURCE,
        )
        if not changed:
            return None
        ids = [row["node_id"] for row in changed]
        return len(ids), await self._groups.assign(connection, application_id, ids)

    async def sweep(self, retention_days: int) -> tuple[int, int]:
        """Have nodes be back that polled since they were gone, and the stale be gone, a batch of them.

        Args:
            retention_days: Silent for longer and nothing under way means gone; 0: never.

        Returns:
            How many are back, and how many went.
        """
        async with self._database.plain() as connection:
            back: int = await connection.fetchval(QUERIES["returned"])
        if not retention_days:
            return back, 0
        since = self._database.clock.now() - timedelta(days=retention_days)
        async with self._database.plain() as connection:
            stale = [row["node_id"] for row in await connection.fetch(QUERIES["stale"], since, SWEEP_BATCH)]
            went = await self._gone(connection, stale, reason="retention", by=SOURCE) if stale else 0
        return back, went


def _facts_of(pairs: Sequence[str]) -> dict[str, str] | None:
    facts: dict[str, str] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if facts.setdefault(name, value) != value:
            raise InvalidInput(f"the fact {name} is asked for with two values", details={"field": "fact"})
    return facts or None


def _pick(candidates: Sequence[Row], version: str) -> Row | None:
    """The update of a group, or the smallest floor that a node takes on the way to it."""
    updates = [row for row in candidates if row["purpose"] == "update"]
    if not updates:
        return None
    update = updates[0]
    floors = [
        row
        for row in candidates
        if row["purpose"] == "floor"
        and is_newer(row["version"], version)
        and is_newer(update["version"], row["version"])
    ]
    smallest = None
    for floor in floors:
        if smallest is None or is_newer(smallest["version"], floor["version"]):
            smallest = floor
    return smallest or update
