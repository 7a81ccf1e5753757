"""Rollouts: one changeset to one group."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec

from services.control import completion, publishing, requests, standstill
from services.control.store.approvals import four_eyes, policies_of_rollout
from services.control.store.base import (
    SOURCE,
    Connection,
    Database,
    Row,
    gate_of,
    lock_channel,
    lock_group,
    one,
    rows_of,
    value_of,
)
from services.control.store.changesets import Changesets
from services.control.store.global_gate import GlobalGate
from shared.db import Queries
from shared.domain import version as versions
from shared.domain.policy import Action, freeze
from shared.errors import Conflict, NotFound
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "rollouts.sql")
ACTIVE: Final = frozenset({"created", "running", "paused", "halted"})
_ROLLOUT_FIELDS: Final = (
    "rollout_id",
    "group_id",
    "group_name",
    "changeset_id",
    "version",
    "arch",
    "application_id",
    "application",
    "channel_id",
    "state",
    "pace",
    "reason",
    "policy",
    "parameters",
    "created_at",
    "changed_at",
)


class Rollouts:
    """One changeset to one group: started, moved, completed and renewed."""

    def __init__(self, database: Database, gate: GlobalGate, changesets: Changesets) -> None:
        self._database = database
        self._gate = gate
        self._changesets = changesets

    async def listing(self, asked: requests.RolloutsQuery) -> list[Row]:
        """Rollouts with counts of their attempts by state, the newest first."""
        found = rows_of(
            await self._database.pool.fetch(
                QUERIES["rollouts"],
                asked.cursor,
                asked.limit,
                value_of(asked.state),
                asked.group,
                asked.changeset,
                asked.active,
            )
        )
        ids = [row["rollout_id"] for row in found]
        counts: dict[uuid.UUID, dict[str, int]] = {rollout_id: {} for rollout_id in ids}
        for count in await self._database.pool.fetch(QUERIES["attempts_by_state"], ids):
            counts[count["rollout_id"]][count["state"]] = count["attempts"]
        return [{**row, "attempts": counts[row["rollout_id"]]} for row in found]

    async def get(self, rollout_id: uuid.UUID) -> Row:
        """One rollout: counts, paces, the gate with its evidence, the last judgement, and why nothing happens.

        Raises:
            NotFound: There is none.
        """
        async with (
            self._database.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await connection.fetchrow(QUERIES["rollout"], rollout_id)
            if row is None:
                raise NotFound(f"there is no rollout {rollout_id}")
            rollout = dict(row)
            changeset_id, group_id = rollout["changeset_id"], rollout["group_id"]
            states = await connection.fetch(QUERIES["attempts_by_state"], [rollout_id])
            flying = one(await connection.fetchrow(QUERIES["in_flight"], changeset_id, group_id, rollout_id))
            census = await self._census(connection, rollout, self._database.clock.now())
            pace = await connection.fetchrow(QUERIES["verdict"], changeset_id, ["pace"])
            halt = await connection.fetchrow(QUERIES["verdict"], changeset_id, ["halt"])
            evidence = await connection.fetchval(QUERIES["evidence"], changeset_id)
            everything = await self._gate.get(connection)
        why = standstill.standstill(
            standstill.Situation(
                everything_open=everything["open"],
                gate_state=rollout["gate_state"],
                braked=rollout["braked_reason"] is not None,
                rollout_state=rollout["state"],
                updates_enabled=rollout["updates_enabled"],
                nodes=census["total"],
                left=census["left"],
                in_flight=flying["changeset"],
                pace=rollout["gate_pace"],
                group_in_flight=flying["group"],
                group_pace=rollout["pace"],
            )
        )
        return {
            **{name: rollout[name] for name in _ROLLOUT_FIELDS},
            "attempts": {state["state"]: state["attempts"] for state in states},
            "in_flight": flying["rollout"],
            "parked": flying["parked"],
            "group_in_flight": flying["group"],
            "changeset_in_flight": flying["changeset"],
            "nodes": census,
            "gate": gate_of(rollout, "gate_pace"),
            "verdict": _verdict(pace),
            "halt_verdict": _verdict(halt),
            "evidence": evidence,
            "standstill": why,
            "explanation": None if why is None else standstill.EXPLANATIONS[why],
        }

    async def _census(self, connection: Connection, rollout: Mapping[str, Any], now: datetime) -> Row:
        """The group's nodes of the rollout's arch, counted by what they still need."""
        rows = await connection.fetch(
            QUERIES["nodes_by_version"],
            rollout["group_id"],
            rollout["arch"],
            rollout["changeset_id"],
            now - completion.SILENT_AFTER,
        )
        target = rollout["version"]
        others = [row for row in rows if row["version"] != target]
        return {
            "total": sum(row["nodes"] for row in rows),
            "on_target": sum(row["nodes"] for row in rows if row["version"] == target),
            # update_check offers only what is newer than what a node runs.
            "left": sum(row["updatable"] for row in others if versions.is_newer(target, row["version"])),
            "quarantined": sum(row["quarantined"] for row in others),
            "silent": sum(row["silent"] for row in others),
            "cloned": sum(row["cloned"] for row in rows),
        }

    async def active(self, connection: Connection, group_ids: Sequence[uuid.UUID]) -> list[Row]:
        """The active rollouts of groups, the oldest first."""
        return rows_of(await connection.fetch(QUERIES["active_rollouts"], group_ids))

    async def lock_gates(
        self, connection: Connection, groups: Sequence[Row], changeset_ids: Sequence[uuid.UUID]
    ) -> None:
        """Lock the gates of all changesets whose rollouts may be moved, in the order in which halts lock them."""
        active = await self.active(connection, [group["group_id"] for group in groups])
        wanted = {*changeset_ids, *(rollout["changeset_id"] for rollout in active)}
        await connection.fetch(QUERIES["lock_gates"], sorted(wanted))

    async def roll_out(
        self,
        connection: Connection,
        group: Row,
        channel: Row,
        changeset: Row,
        *,
        reason: str | None,
        by: str,
        again: bool = False,
    ) -> uuid.UUID | None:
        """Give a group its rollout of a changeset, superseding the active one; None where it has it already.

        Args:
            connection: In a transaction that holds the global gate and the gates of the changesets concerned.
            group: Its row.
            channel: Its row.
            changeset: As `Changesets.get` gives it.
            reason: Why; kept in the rollout.
            by: Who.
            again: Start one even if the last is completed.
        """
        arch = channel["arch"]
        last = await connection.fetchrow(QUERIES["last_rollout"], group["group_id"], arch)
        last_state = None if last is None else last["state"]
        kept = ACTIVE if again else ACTIVE | {"completed"}
        if last is not None and last["changeset_id"] == changeset["changeset_id"] and last_state in kept:
            return None
        if last is not None and last_state in ACTIVE:
            await self.transition(connection, last["rollout_id"], "superseded", f"by {changeset['version']}", by)
        policy = publishing.read_policy(group["policy"])
        fleet_size = await connection.fetchval(QUERIES["fleet_size"], group["application_id"], arch)
        group_size = await connection.fetchval(QUERIES["group_size"], group["group_id"], arch)
        parameters = freeze(policy, fleet_size=max(1, fleet_size), group_size=max(1, group_size))
        rollout_id = self._database.ids.uuid7()
        frozen_policy = msgspec.to_builtins(policy)
        frozen = msgspec.to_builtins(parameters)
        await connection.execute(QUERIES["ensure_gate"], changeset["changeset_id"], parameters.hold_budget)
        await connection.execute(
            QUERIES["add_rollout"],
            rollout_id,
            group["group_id"],
            changeset["changeset_id"],
            channel["channel_id"],
            group["application_id"],
            arch,
            parameters.group_hold_budget,
            frozen_policy,
            frozen,
            reason,
        )
        data = types.RolloutCreated(
            rollout_id=str(rollout_id),
            group_id=str(group["group_id"]),
            group_name=group["name"],
            changeset_id=str(changeset["changeset_id"]),
            version=changeset["version"],
            arch=arch,
            application_id=str(group["application_id"]),
            parameters=msgspec.convert(frozen, types.RolloutParameters),
            channel_id=str(channel["channel_id"]),
            policy=frozen_policy,
        )
        created = self._database.event(
            data,
            f"rollouts/{rollout_id}",
            partition_key=str(changeset["changeset_id"]),
            correlation_id=str(rollout_id),
        )
        await append(connection, [created])
        gate = changeset["gate"]
        if gate is not None and gate["state"] == "halted":
            await self.transition(connection, rollout_id, "halted", gate["reason"], by)
        else:
            await self.transition(connection, rollout_id, "running", reason, by)
        return rollout_id

    async def transition(
        self, connection: Connection, rollout_id: uuid.UUID, to: str, reason: str | None, by: str
    ) -> str | None:
        """Move a rollout, with its event. Returns the state before, or None where the move is not allowed."""
        before: str | None = await connection.fetchval(
            QUERIES["move_rollout"], rollout_id, to, reason, by, self._database.ids.uuid7(), SOURCE
        )
        return before

    async def move(self, rollout_id: uuid.UUID, to: requests.RolloutState, *, reason: str, by: str) -> Row:
        """Pause, halt, resume (``running``) or abort a rollout; nothing is changed where it is so already.

        A running rollout that the analysis has braked because its group is small goes on when it is resumed.

        Raises:
            NotFound: There is no such rollout.
            Conflict: Its state does not allow the move, or its changeset is halted.
        """
        resumes = to is requests.RolloutState.RUNNING
        context = self._database.change() if resumes else self._database.plain()
        async with context as connection:
            row = await connection.fetchrow(QUERIES["rollout"], rollout_id)
            if row is None:
                raise NotFound(f"there is no rollout {rollout_id}")
            await connection.fetch(QUERIES["lock_gates"], [row["changeset_id"]])
            row = one(await connection.fetchrow(QUERIES["rollout"], rollout_id))
            if resumes:
                policies = await policies_of_rollout(connection, rollout_id)
                await four_eyes(
                    self._database, connection, Action.RESUME, policies, f"rollouts/{rollout_id}", reason=reason
                )
                if row["gate_state"] != "open" and row["state"] in ACTIVE:
                    raise Conflict(
                        f"changeset {row['version']} is {row['gate_state']}: {row['gate_reason']}. Resume it: "
                        f"`uneventful changeset resume {row['changeset_id']} --reason ...`",
                        details={"gate": row["gate_state"], "changeset_id": row["changeset_id"]},
                    )
                if row["state"] == "running" and row["pace"] == 0:
                    await self.transition(connection, rollout_id, "paused", reason, by)
                    row["state"] = "paused"
            if row["state"] != to.value:
                if await self.transition(connection, rollout_id, to.value, reason, by) is None:
                    raise Conflict(f"the rollout is {row['state']}: it cannot become {to.value}")
                if resumes:
                    await self._database.raise_policy_version(connection)
        return await self.get(rollout_id)

    async def complete_done(self) -> list[uuid.UUID]:
        """Complete the running rollouts that have nothing left to do. Returns their ids."""
        return [
            candidate["rollout_id"]
            for candidate in await self._database.pool.fetch(QUERIES["running_rollouts"])
            if await self._is_complete(self._database.pool, candidate) and await self._complete(dict(candidate))
        ]

    async def _is_complete(self, place: asyncpg.Pool[Any] | Connection, rollout: Mapping[str, Any]) -> bool:
        async with contextlib.AsyncExitStack() as stack:
            connection = await stack.enter_async_context(place.acquire()) if isinstance(place, asyncpg.Pool) else place
            progress = one(await connection.fetchrow(QUERIES["rollout_progress"], rollout["rollout_id"]))
            if progress["in_flight"]:
                return False
            census = await self._census(connection, rollout, self._database.clock.now())
        return completion.is_complete(
            completion.Remainder(
                left=census["left"] > 0,
                in_flight=progress["in_flight"],
                committed=progress["committed"],
                on_target=census["on_target"] > 0,
            )
        )

    async def _complete(self, rollout: Row) -> bool:
        async with self._database.plain() as connection:
            # Grants hold this lock until they commit: after it, a later statement sees what they granted.
            await connection.fetch(QUERIES["lock_gates"], [rollout["changeset_id"]])
            if not await self._is_complete(connection, rollout):
                return False
            return await self.transition(connection, rollout["rollout_id"], "completed", None, SOURCE) is not None

    async def renew_done(self) -> list[uuid.UUID]:
        """Start another rollout where nodes came to a group whose rollout of the channel's changeset is done."""
        renewed = []
        for candidate in await self._database.pool.fetch(QUERIES["completed_rollouts"]):
            async with self._database.pool.acquire() as connection:
                if (await self._census(connection, candidate, self._database.clock.now()))["left"] == 0:
                    continue
            rollout_id = await self._renew(dict(candidate))
            if rollout_id is not None:
                renewed.append(rollout_id)
        return renewed

    async def _renew(self, done: Row) -> uuid.UUID | None:
        async with self._database.change() as connection:
            row = await lock_group(connection, done["group_id"])
            channel = await lock_channel(connection, done["channel_id"]) if row else None
            if row is None or channel is None or channel["changeset_id"] != done["changeset_id"]:
                return None
            group = dict(row)
            if group["channel_name"] != channel["name"]:
                return None
            await self.lock_gates(connection, [group], [done["changeset_id"]])
            changeset = await self._changesets.get(done["changeset_id"], connection)
            last = await connection.fetchrow(QUERIES["last_rollout"], done["group_id"], done["arch"])
            if last is None or last["rollout_id"] != done["rollout_id"] or changeset["gate"]["state"] != "open":
                return None
            rollout_id = await self.roll_out(
                connection,
                group,
                dict(channel),
                changeset,
                reason="nodes came since",
                by=SOURCE,
                again=True,
            )
            await self._database.raise_policy_version(connection)
            return rollout_id


def _verdict(row: Mapping[str, Any] | None) -> Row | None:
    return None if row is None else dict(row)
