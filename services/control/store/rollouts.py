"""Rollouts: one changeset to one group."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog

from services.control import conduct, publishing, requests, standstill
from services.control.listing import SortOrder, place_of
from services.control.store.base import (
    SOURCE,
    Connection,
    Database,
    Row,
    gate_of,
    lock_group,
    one,
    rows_of,
    value_of,
)
from services.control.store.changesets import Changesets
from services.control.store.conducting import Conducting, Findings
from services.control.store.global_gate import GlobalGate
from shared.db import Queries
from shared.domain import version as versions
from shared.domain.gate import GatedGroup, impossible
from shared.domain.policy import freeze
from shared.domain.rollout import ACTIVE, Purpose, RolloutState, shown
from shared.errors import InvalidInput, NotFound, UneventfulError
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "rollouts.sql")
_log = structlog.get_logger()
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
    "purpose",
    "leaves_version",
    "only_machines",
    "pace",
    "pace_cap",
    "reason",
    "policy",
    "group_owner",
    "group_contact",
    "severity",
    "staged_but_halted",
    "parameters",
    "created_at",
    "changed_at",
    "running_since",
    "starts_at",
    "wave",
    "wave_since",
    "fraction",
    "order_stage",
    "approved_by",
    "approved_at",
    "expedited_by",
    "expedited_at",
    "expedite_reason",
)


class Rollouts:
    """One changeset to one group: created and conducted; what operators do to it is `Steering`'s.

    Attributes:
        conducting: How a rollout stands, and its steps.
    """

    def __init__(self, database: Database, gate: GlobalGate, changesets: Changesets) -> None:
        self._database = database
        self._gate = gate
        self._changesets = changesets
        self.conducting = Conducting(database)

    # Looking

    async def listing(self, asked: requests.RolloutsQuery) -> list[Row]:
        """Rollouts with counts of their attempts by state, the newest first."""
        place = place_of(asked, usually=SortOrder.DESC)
        found = rows_of(
            await self._database.pool.fetch(
                QUERIES["rollouts"],
                place.after,
                asked.limit,
                value_of(asked.state),
                asked.group,
                asked.changeset,
                asked.active,
                value_of(asked.purpose),
                await self._changesets.application_id_of(asked.application),
                place.sort,
                place.key,
                place.descending,
            )
        )
        ids = [row["rollout_id"] for row in found]
        counts: dict[uuid.UUID, dict[str, int]] = {rollout_id: {} for rollout_id in ids}
        for count in await self._database.pool.fetch(QUERIES["attempts_by_state"], ids):
            counts[count["rollout_id"]][count["state"]] = count["attempts"]
        for row in found:
            row["shown"] = shown_of(row, held=row.pop("held"))
            row["attempts"] = counts[row["rollout_id"]]
        return found

    async def get(self, rollout_id: uuid.UUID) -> Row:
        """One rollout: counts, paces, gates, waves, the last judgement, and why nothing happens and until when.

        Raises:
            NotFound: There is none.
        """
        now = self._database.clock.now()
        async with (
            self._database.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await self.look(connection, rollout_id, now)

    async def look(self, connection: Connection, rollout_id: uuid.UUID, now: datetime) -> Row:
        """As `get`, within a snapshot of the caller's.

        Raises:
            NotFound: There is none.
        """
        row = await connection.fetchrow(QUERIES["rollout"], rollout_id)
        if row is None:
            raise NotFound(f"there is no rollout {rollout_id}")
        rollout = dict(row)
        changeset_id, group_id = rollout["changeset_id"], rollout["group_id"]
        states = await connection.fetch(QUERIES["attempts_by_state"], [rollout_id])
        flying = one(await connection.fetchrow(QUERIES["in_flight"], changeset_id, group_id, rollout_id))
        conducted = await self.conducting.read(connection, rollout_id)
        situation = await self.conducting.look(connection, conducted)
        census = await self.conducting.census(connection, conducted, now)
        history = await self.conducting.history(connection, conducted, census["left"])
        pace = await connection.fetchrow(QUERIES["verdict"], changeset_id, ["pace"])
        halt = await connection.fetchrow(QUERIES["verdict"], changeset_id, ["halt"])
        evidence = await connection.fetchval(QUERIES["evidence"], changeset_id)
        excluded = await connection.fetch(QUERIES["exclusions"], rollout_id)
        everything = await self._gate.get(connection)
        wave = conduct.wave_verdict(situation, now)
        why = standstill.standstill(
            standstill.Situation(
                everything_open=everything["open"],
                gate_state=rollout["gate_state"],
                braked=rollout["braked_reason"] is not None,
                rollout_state=rollout["state"],
                updates_enabled=rollout["updates_enabled"],
                window_open=situation.opening.open
                or not conduct.windows_matter(situation.policy, expedited=situation.expedited),
                nodes=census["total"],
                left=census["left"],
                wave_left=_wave_left(situation, census),
                in_flight=flying["changeset"],
                pace=rollout["gate_pace"],
                group_in_flight=flying["group"],
                group_pace=_group_pace(rollout),
            )
        )
        waiting = standstill.waiting(why, situation, wave, now)
        return {
            **{name: rollout[name] for name in _ROLLOUT_FIELDS},
            "shown": shown_of(rollout, held=situation.held),
            "attempts": {state["state"]: state["attempts"] for state in states},
            "in_flight": flying["rollout"],
            "parked": flying["parked"],
            "group_in_flight": flying["group"],
            "changeset_in_flight": flying["changeset"],
            "nodes": census,
            "gate": gate_of(rollout, "gate_pace"),
            "gates": [msgspec.to_builtins(gate) for gate in situation.gates] or rollout["gates"],
            "waits_for": list(waiting.waits_for),
            "until": waiting.until,
            "window": msgspec.to_builtins(situation.opening),
            "excluded": rows_of(excluded),
            "eta": None if history is None or why in standstill.ENDED else conduct.eta(history, now),
            "verdict": _verdict(pace),
            "halt_verdict": _verdict(halt),
            "evidence": evidence,
            "standstill": why,
            "explanation": None if why is None else standstill.explain(why, waiting),
        }

    # Creating

    async def active(self, connection: Connection, group_ids: Sequence[uuid.UUID]) -> list[Row]:
        """The active rollouts of groups, the oldest first."""
        return rows_of(await connection.fetch(QUERIES["active_rollouts"], group_ids))

    async def lock_gates(
        self, connection: Connection, groups: Sequence[Row], changeset_ids: Sequence[uuid.UUID]
    ) -> None:
        """Lock the gates of all changesets whose rollouts may be moved, in the order in which halts lock them."""
        await self.conducting.lock_gates(connection, [group["group_id"] for group in groups], changeset_ids)

    async def roll_out(
        self,
        connection: Connection,
        group: Row,
        channel: Row | None,
        changeset: Row,
        *,
        reason: str | None,
        by: str,
    ) -> uuid.UUID | None:
        """Give a group its rollout of a changeset, superseding the active one; None where it has it already.

        Args:
            connection: In a transaction that holds the global gate and the gates of the changesets concerned.
            group: Its row.
            channel: Its row; None for a group that is pinned to the changeset's version.
            changeset: As `Changesets.get` gives it.
            reason: Why; kept in the rollout.
            by: Who.
        """
        arch = changeset["arch"]
        pinned = group.get("pinned_version")
        if pinned is not None and pinned != changeset["version"]:
            return None
        last = await connection.fetchrow(QUERIES["last_rollout"], group["group_id"], arch)
        if last is not None:
            state = RolloutState(last["state"])
            kept = state in ACTIVE or state is RolloutState.COMPLETED
            if kept and last["changeset_id"] == changeset["changeset_id"]:
                return None
            if state in ACTIVE:
                await self._supersede(connection, last["rollout_id"], changeset["version"], by)
        for floor in await connection.fetch(QUERIES["floors_of_group"], group["group_id"], arch):
            if not versions.is_newer(changeset["version"], floor["version"]):
                await self._supersede(connection, floor["rollout_id"], changeset["version"], by)
        channel_id = None if channel is None else channel["channel_id"]
        return await self.create(
            connection, group, changeset, purpose=Purpose.UPDATE, channel_id=channel_id, reason=reason, by=by
        )

    async def follow_pin(self, connection: Connection, group: Row, *, by: str) -> list[uuid.UUID]:
        """Make the group's active updates those of the version that it is pinned to.

        Its updates of archs that the version was not published for are aborted.

        Args:
            connection: In a transaction that holds the global gate.
            group: Its row, with ``pinned_version``.
            by: Who.

        Returns:
            The rollouts that this call started.
        """
        version = group["pinned_version"]
        found = await connection.fetch(QUERIES["changesets_of_version"], group["application_id"], version)
        await self.lock_gates(connection, [group], [row["changeset_id"] for row in found])
        archs = {row["arch"] for row in found}
        reason = f"the group is pinned to {version}"
        for rollout in await self.active(connection, [group["group_id"]]):
            if rollout["arch"] not in archs and rollout["purpose"] == Purpose.UPDATE.value:
                await self.transition(connection, rollout["rollout_id"], RolloutState.ABORTED, reason, by)
        started = []
        for row in found:
            changeset = await self._changesets.get(row["changeset_id"], connection)
            rollout_id = await self.roll_out(connection, group, None, changeset, reason=reason, by=by)
            if rollout_id is not None:
                started.append(rollout_id)
        return started

    async def check_gates(self, connection: Connection, application_id: uuid.UUID, group: Row) -> None:
        """Refuse gates that can never open, of the group as it is to be or of one that waits for it.

        Args:
            connection: In the transaction that is to write the group.
            application_id: Whose groups.
            group: ``name``, ``channel_name``, ``pinned_version`` and ``policy`` as they are to be.

        Raises:
            InvalidInput: A gate could never open; the message says why.
        """
        groups = {
            row["name"]: _gated(row) for row in await connection.fetch(QUERIES["groups_of_application"], application_id)
        }
        known = groups.get(group["name"])
        channel = group["channel_name"]
        position = next((other.channel_position for other in groups.values() if other.channel == channel), None)
        if position is None and channel is not None:
            position = await connection.fetchval(QUERIES["channel_position"], application_id, channel)
        groups[group["name"]] = _gated(
            {**group, "nodes": {} if known is None else known.nodes, "channel_position": position}
        )
        fault = impossible(group["name"], groups)
        if fault is not None:
            raise InvalidInput(f"{fault}; such a gate never opens", details={"field": "policy"})

    async def create(
        self,
        connection: Connection,
        group: Row,
        changeset: Row,
        *,
        purpose: Purpose,
        reason: str | None,
        by: str,
        channel_id: uuid.UUID | None = None,
        leaves_version: str | None = None,
        only_machines: Sequence[str] | None = None,
        then_changeset_id: uuid.UUID | None = None,
    ) -> uuid.UUID:
        """Give a group a rollout and let it go as far as it may.

        Args:
            connection: In a transaction that holds the global gate and the gates of the changesets concerned.
            group: Its row.
            changeset: As `Changesets.get` gives it.
            purpose: Why it is there.
            reason: Why, in words; kept in the rollout.
            by: Who.
            channel_id: The channel that brought it.
            leaves_version: The version that its nodes leave.
            only_machines: The machines that it is for; None for the whole group.
            then_changeset_id: Where the node of a drill goes afterwards.

        Returns:
            Its id.
        """
        arch = changeset["arch"]
        policy = conduct.policy_for(purpose, publishing.read_policy(group["policy"]))
        fleet_size = await connection.fetchval(QUERIES["fleet_size"], group["application_id"], arch)
        group_size = await connection.fetchval(QUERIES["group_size"], group["group_id"], arch)
        parameters = conduct.parameters_for(
            policy, freeze(policy, fleet_size=max(1, fleet_size), group_size=max(1, group_size))
        )
        rollout_id = self._database.ids.uuid7()
        frozen_policy = msgspec.to_builtins(policy)
        frozen = msgspec.to_builtins(parameters)
        await connection.execute(QUERIES["ensure_gate"], changeset["changeset_id"], parameters.hold_budget)
        await connection.execute(
            QUERIES["add_rollout"],
            rollout_id,
            group["group_id"],
            changeset["changeset_id"],
            channel_id,
            group["application_id"],
            arch,
            parameters.group_hold_budget,
            frozen_policy,
            frozen,
            reason,
            purpose.value,
            leaves_version,
            only_machines,
            then_changeset_id,
            conduct.first_fraction(policy, expedited=False),
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
            channel_id=None if channel_id is None else str(channel_id),
            policy=frozen_policy,
            purpose=purpose.value,
            leaves_version=leaves_version,
        )
        created = self._database.event(
            data,
            f"rollouts/{rollout_id}",
            partition_key=str(changeset["changeset_id"]),
            correlation_id=str(rollout_id),
        )
        await append(connection, [created])
        # Read again: a changeset without a gate could be halted until `ensure_gate` locked its row.
        gate = await self.conducting.read(connection, rollout_id)
        if gate["gate_state"] == "halted":
            await self.transition(connection, rollout_id, RolloutState.HALTED, gate["gate_reason"], by)
        else:
            await self.advance(connection, rollout_id)
        await self._database.raise_policy_version(connection)
        return rollout_id

    async def _supersede(self, connection: Connection, rollout_id: uuid.UUID, version: str, by: str) -> None:
        await self.transition(connection, rollout_id, RolloutState.SUPERSEDED, f"by {version}", by)

    async def transition(
        self, connection: Connection, rollout_id: uuid.UUID, to: RolloutState | str, reason: str | None, by: str
    ) -> str:
        """Move a rollout, with its event. Returns the state before.

        Raises:
            Conflict: The move is not allowed from where it stands.
        """
        return await self.conducting.transition(connection, rollout_id, RolloutState(to), reason, by)

    # Conducting

    async def conduct_all(self) -> list[tuple[uuid.UUID, conduct.Step]]:
        """Take every step that a rollout can take by itself, and create those that stand beside updates.

        A rollout that cannot be judged is told in the log and does not keep the others.

        Returns:
            The rollouts that moved, each with its step.
        """
        taken = await self._take_steps()
        for created in [
            *await self._follow_pins(),
            *await self._create_floors(),
            *await self._create_downgrades(),
        ]:
            taken.append((created, conduct.Move(RolloutState.CREATED)))
        return taken

    async def _take_steps(self) -> list[tuple[uuid.UUID, conduct.Step]]:
        taken: list[tuple[uuid.UUID, conduct.Step]] = []
        waiting = deque(
            (row["rollout_id"], row["group_id"]) for row in await self._database.pool.fetch(QUERIES["to_conduct"])
        )
        first = True
        while (found := await self._next_that_wants(waiting, at_once=first)) is not None:
            # What was found before may be otherwise after a step: those that follow are looked at anew.
            first = False
            try:
                taken += await self._conduct(*found)
            except UneventfulError as fault:
                _tell_not_conducted(found[0], fault)
        return taken

    async def _next_that_wants(
        self, waiting: deque[tuple[uuid.UUID, uuid.UUID]], *, at_once: bool
    ) -> tuple[uuid.UUID, uuid.UUID] | None:
        """Take rollouts (and their groups) off the queue up to the first one that has something to do.

        Args:
            waiting: Those that are to be looked at.
            at_once: Whether to read them all by one query: most of the time none of them has anything to do.
        """
        findings = Findings()
        async with self._database.pool.acquire() as connection:
            rows = await self.conducting.read_all(connection, [one_of[0] for one_of in waiting]) if at_once else {}
            while waiting:
                rollout_id, group_id = waiting.popleft()
                try:
                    row = rows.get(rollout_id) or await self.conducting.read(connection, rollout_id)
                    if await self.conducting.wants(connection, row, findings):
                        return rollout_id, group_id
                except UneventfulError as fault:
                    _tell_not_conducted(rollout_id, fault)
        return None

    async def _conduct(self, rollout_id: uuid.UUID, group_id: uuid.UUID) -> list[tuple[uuid.UUID, conduct.Step]]:
        async with self._database.change() as connection:
            await self.conducting.lock_gates(connection, [group_id], [])
            return [(rollout_id, step) for step in await self.advance(connection, rollout_id)]

    async def advance(self, connection: Connection, rollout_id: uuid.UUID) -> list[conduct.Step]:
        """Take all steps that a rollout can take now, and the second leg of a drill whose first one is done.

        Args:
            connection: In a transaction that holds the global gate and the gates of the group's changesets.
            rollout_id: Which.
        """
        steps = await self.conducting.advance(connection, rollout_id)
        if conduct.Move(RolloutState.COMPLETED) in steps:
            await self._second_leg(connection, await self.conducting.read(connection, rollout_id))
        return steps

    async def _second_leg(self, connection: Connection, done: Mapping[str, Any]) -> None:
        """Bring the node of a drill back, where it has committed the first leg."""
        if done["then_changeset_id"] is None or not await self.conducting.has_committed(connection, done):
            return
        group = one(await connection.fetchrow(QUERIES["group_of"], done["group_id"]))
        changeset = await self._changesets.get(done["then_changeset_id"], connection)
        if changeset["state"] != "published":
            return
        goes_back = versions.is_newer(changeset["version"], done["version"]) is not True
        await self.conducting.lock_gates(connection, [done["group_id"]], [done["then_changeset_id"]])
        await self.create(
            connection,
            group,
            changeset,
            purpose=Purpose.DRILL,
            leaves_version=done["version"] if goes_back else None,
            only_machines=done["only_machines"],
            reason=f"the way back of drill {done['rollout_id']}",
            by=SOURCE,
        )

    async def _follow_pins(self) -> list[uuid.UUID]:
        """Start what groups are pinned to and what was published since."""
        created = []
        for wanted in await self._database.pool.fetch(QUERIES["pins_wanted"]):
            async with self._database.change() as connection:
                if await lock_group(connection, wanted["group_id"]) is not None:
                    group = one(await connection.fetchrow(QUERIES["group_of"], wanted["group_id"]))
                    if group["pinned_version"] == wanted["pinned_version"]:
                        created += await self.follow_pin(connection, group, by=SOURCE)
        return created

    async def _create_floors(self) -> list[uuid.UUID]:
        created = []
        for wanted in await self._database.pool.fetch(QUERIES["floors_wanted"]):
            if not _leads(wanted):
                continue
            async with self._database.change() as connection:
                await self.conducting.lock_gates(connection, [wanted["group_id"]], [wanted["changeset_id"]])
                again = await connection.fetch(QUERIES["floors_wanted"])
                if not any(_same(row, wanted, "group_id", "changeset_id") and _leads(row) for row in again):
                    continue
                group = one(await connection.fetchrow(QUERIES["group_of"], wanted["group_id"]))
                changeset = await self._changesets.get(wanted["changeset_id"], connection)
                created.append(
                    await self.create(
                        connection,
                        group,
                        changeset,
                        purpose=Purpose.FLOOR,
                        reason=f"a floor on the way to {wanted['update_version']}",
                        by=SOURCE,
                    )
                )
        return created

    async def _create_downgrades(self) -> list[uuid.UUID]:
        created = []
        for wanted in await self._database.pool.fetch(QUERIES["downgrades_wanted"]):
            async with self._database.change() as connection:
                again = await connection.fetch(QUERIES["downgrades_wanted"])
                if not any(_same(row, wanted, "group_id", "changeset_id") for row in again):
                    continue
                group = one(await connection.fetchrow(QUERIES["group_of"], wanted["group_id"]))
                rollout_id = await self.downgrade(
                    connection,
                    group,
                    arch=wanted["arch"],
                    leaves=wanted["version"],
                    reason=f"{wanted['version']} was withdrawn",
                    by=SOURCE,
                )
                if rollout_id is not None:
                    created.append(rollout_id)
        return created

    async def downgrade(
        self, connection: Connection, group: Row, *, arch: str, leaves: str, reason: str, by: str
    ) -> uuid.UUID | None:
        """Bring a group's nodes back from a version; None where there is nothing to bring them to.

        That is what their channel pointed to before: the newest published changeset older than the version. Where the
        group is served a newer one anyway, nothing goes back.
        """
        serving = await connection.fetchrow(QUERIES["serving_update"], group["group_id"], arch)
        if serving is not None and versions.is_newer(serving["version"], leaves):
            return None
        history = await connection.fetch(
            QUERIES["promoted_before"], group["application_id"], group["channel_name"], arch
        )
        target = next((row for row in history if versions.is_newer(leaves, row["version"])), None)
        if target is None:
            return None
        await self.conducting.lock_gates(connection, [group["group_id"]], [target["changeset_id"]])
        changeset = await self._changesets.get(target["changeset_id"], connection)
        return await self.create(
            connection, group, changeset, purpose=Purpose.DOWNGRADE, leaves_version=leaves, reason=reason, by=by
        )


def _tell_not_conducted(rollout_id: uuid.UUID, fault: UneventfulError) -> None:
    _log.error("rollout.not_conducted", rollout_id=str(rollout_id), cause=fault.message)


def _verdict(row: Mapping[str, Any] | None) -> Row | None:
    return None if row is None else dict(row)


def _group_pace(rollout: Mapping[str, Any]) -> int:
    cap = rollout["pace_cap"]
    return int(rollout["pace"] if cap is None else min(rollout["pace"], cap))


def shown_of(rollout: Mapping[str, Any], *, held: bool) -> str:
    """What operators are shown of a rollout's row that was joined with its changeset's gate."""
    braked = rollout["braked_reason"] is not None or rollout["pace"] == 0
    return shown(RolloutState(rollout["state"]), braked=braked, held=held).value


def _wave_left(situation: conduct.Situation, census: Mapping[str, int]) -> int:
    """Nodes that the wave that runs still lets in, as far as it was looked at."""
    if situation.wave is None:
        return census["left"]
    return situation.wave.wave_nodes - situation.wave.wave_committed


def _gated(row: Mapping[str, Any]) -> GatedGroup:
    return GatedGroup(
        nodes=row["nodes"],
        channel=row["channel_name"],
        channel_position=row["channel_position"],
        pinned=row.get("pinned_version") is not None,
        gates=publishing.read_policy(row["policy"]).gates,
    )


def _leads(wanted: Mapping[str, Any]) -> bool:
    """Whether a floor lies between the oldest version of the group and its update."""
    return versions.is_newer(wanted["update_version"], wanted["version"]) is True and any(
        versions.is_newer(wanted["version"], version) for version in wanted["versions"] or ()
    )


def _same(one_row: Mapping[str, Any], other: Mapping[str, Any], *names: str) -> bool:
    return all(one_row[name] == other[name] for name in names)
