"""Rollouts: one changeset to one group."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog

from services.control import conduct, publishing, requests, standstill
from services.control.listing import SortOrder, place_of
from services.control.store.approvals import four_eyes, policies_of_rollout
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
from services.control.store.conducting import Conducting
from services.control.store.global_gate import GlobalGate
from shared.db import Queries
from shared.domain import version as versions
from shared.domain import waves
from shared.domain.gate import GatedGroup, impossible
from shared.domain.policy import Action, Policy, freeze
from shared.domain.rollout import ACTIVE, SERVING, Purpose, RolloutState, shown
from shared.errors import Conflict, InvalidInput, NotFound, UneventfulError
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
    """One changeset to one group: created, conducted, moved."""

    def __init__(self, database: Database, gate: GlobalGate, changesets: Changesets) -> None:
        self._database = database
        self._gate = gate
        self._changesets = changesets
        self._conducting = Conducting(database)

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
            row["shown"] = _shown(row, held=row.pop("held"))
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
        conducted = await self._conducting.read(connection, rollout_id)
        situation = await self._conducting.look(connection, conducted)
        census = await self._conducting.census(connection, conducted, now)
        history = await self._conducting.history(connection, conducted, census["left"])
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
            "shown": _shown(rollout, held=situation.held),
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
        await self._conducting.lock_gates(connection, [group["group_id"] for group in groups], changeset_ids)

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
        return await self._create(
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

    async def _create(
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
        gate = await self._conducting.read(connection, rollout_id)
        if gate["gate_state"] == "halted":
            await self.transition(connection, rollout_id, RolloutState.HALTED, gate["gate_reason"], by)
        else:
            await self._advance(connection, rollout_id)
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
        return await self._conducting.transition(connection, rollout_id, RolloutState(to), reason, by)

    # Conducting

    async def conduct_all(self) -> list[tuple[uuid.UUID, conduct.Step]]:
        """Take every step that a rollout can take by itself, and create those that stand beside updates.

        A rollout that cannot be judged is told in the log and does not keep the others.

        Returns:
            The rollouts that moved, each with its step.
        """
        taken: list[tuple[uuid.UUID, conduct.Step]] = []
        for candidate in await self._database.pool.fetch(QUERIES["to_conduct"]):
            try:
                taken += await self._conduct(candidate["rollout_id"], candidate["group_id"])
            except UneventfulError as fault:
                _log.error("rollout.not_conducted", rollout_id=str(candidate["rollout_id"]), cause=fault.message)
        for created in [
            *await self._follow_pins(),
            *await self._create_floors(),
            *await self._create_downgrades(),
        ]:
            taken.append((created, conduct.Move(RolloutState.CREATED)))
        return taken

    async def _conduct(self, rollout_id: uuid.UUID, group_id: uuid.UUID) -> list[tuple[uuid.UUID, conduct.Step]]:
        if not await self._wants(rollout_id):
            return []
        async with self._database.change() as connection:
            await self._conducting.lock_gates(connection, [group_id], [])
            return [(rollout_id, step) for step in await self._advance(connection, rollout_id)]

    async def _wants(self, rollout_id: uuid.UUID) -> bool:
        """Whether a rollout has a step to take or gates with news, as far as one sees without locks."""
        async with self._database.pool.acquire() as connection:
            row = await self._conducting.read(connection, rollout_id)
            situation = await self._conducting.look(connection, row)
        if situation.gates and self._conducting.has_news(row, situation.gates):
            return True
        return conduct.conduct(situation, self._database.clock.now()) is not None

    async def _advance(self, connection: Connection, rollout_id: uuid.UUID) -> list[conduct.Step]:
        steps = await self._conducting.advance(connection, rollout_id)
        if conduct.Move(RolloutState.COMPLETED) in steps:
            await self._second_leg(connection, await self._conducting.read(connection, rollout_id))
        return steps

    async def _second_leg(self, connection: Connection, done: Mapping[str, Any]) -> None:
        """Bring the node of a drill back, where it has committed the first leg."""
        if done["then_changeset_id"] is None or not await self._conducting.has_committed(connection, done):
            return
        group = one(await connection.fetchrow(QUERIES["group_of"], done["group_id"]))
        changeset = await self._changesets.get(done["then_changeset_id"], connection)
        if changeset["state"] != "published":
            return
        goes_back = versions.is_newer(changeset["version"], done["version"]) is not True
        await self._conducting.lock_gates(connection, [done["group_id"]], [done["then_changeset_id"]])
        await self._create(
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
                await self._conducting.lock_gates(connection, [wanted["group_id"]], [wanted["changeset_id"]])
                again = await connection.fetch(QUERIES["floors_wanted"])
                if not any(_same(row, wanted, "group_id", "changeset_id") and _leads(row) for row in again):
                    continue
                group = one(await connection.fetchrow(QUERIES["group_of"], wanted["group_id"]))
                changeset = await self._changesets.get(wanted["changeset_id"], connection)
                created.append(
                    await self._create(
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
                rollout_id = await self._downgrade(
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

    async def _downgrade(
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
        await self._conducting.lock_gates(connection, [group["group_id"]], [target["changeset_id"]])
        changeset = await self._changesets.get(target["changeset_id"], connection)
        return await self._create(
            connection, group, changeset, purpose=Purpose.DOWNGRADE, leaves_version=leaves, reason=reason, by=by
        )

    # Operators

    async def move(self, rollout_id: uuid.UUID, to: RolloutState, *, reason: str, by: str) -> Row:
        """Pause, halt, resume (``running``) or abort a rollout; nothing is changed where it is so already.

        One that had not begun waits again when it is resumed. A running rollout that the analysis has braked because
        its group is small goes on when it is resumed.

        Raises:
            NotFound: There is no such rollout.
            Conflict: Its state does not allow the move, or its changeset is halted.
        """
        resumes = to is RolloutState.RUNNING
        context = self._database.change() if resumes else self._database.plain()
        async with context as connection:
            row = await self._locked(connection, rollout_id)
            state = RolloutState(row["state"])
            if resumes:
                await self._four_eyes(connection, Action.RESUME, rollout_id, reason)
                await self._resume(connection, row, state, reason, by)
            elif state is not to:
                await self.transition(connection, rollout_id, to, reason, by)
        return await self.get(rollout_id)

    async def _four_eyes(
        self, connection: Connection, action: Action, rollout_id: uuid.UUID, reason: str
    ) -> str | None:
        """Stop where a policy wants another one to allow this; returns who did."""
        policies = await policies_of_rollout(connection, rollout_id)
        return await four_eyes(self._database, connection, action, policies, f"rollouts/{rollout_id}", reason=reason)

    async def _resume(self, connection: Connection, row: Row, state: RolloutState, reason: str, by: str) -> None:
        rollout_id = row["rollout_id"]
        if row["gate_state"] != "open" and state in ACTIVE:
            raise Conflict(
                f"changeset {row['version']} is {row['gate_state']}: {row['gate_reason']}. Resume it: "
                f"`uneventful changeset resume {row['changeset_id']} --reason ...`",
                details={"gate": row["gate_state"], "changeset_id": row["changeset_id"]},
            )
        if state is RolloutState.RUNNING and row["pace"] == 0:
            await self.transition(connection, rollout_id, RolloutState.PAUSED, reason, by)
            state = RolloutState.PAUSED
        if state is RolloutState.RUNNING or state.waiting:
            return
        if row["running_since"] is None and state is not RolloutState.COMPLETED:
            await self.transition(connection, rollout_id, RolloutState.WAITING_FOR_GATE, reason, by)
            await self._advance(connection, rollout_id)
        else:
            await self.transition(connection, rollout_id, RolloutState.RUNNING, reason, by)
        await self._database.raise_policy_version(connection)

    async def abort(self, rollout_id: uuid.UUID, *, revert: bool, reason: str, by: str) -> Row:
        """End a rollout for good; nodes that took it keep it, or go back to what their channel had before.

        Raises:
            NotFound: There is no such rollout.
            Conflict: It is over, nodes are to go back and the group's policy does not allow that, or there is nothing
                to go back to.
        """
        async with self._database.change() as connection:
            row = await self._locked(connection, rollout_id)
            if revert:
                await self._four_eyes(connection, Action.DOWNGRADE, rollout_id, reason)
            if row["state"] != RolloutState.ABORTED.value:
                await self.transition(connection, rollout_id, RolloutState.ABORTED, reason, by)
            if revert:
                group = one(await connection.fetchrow(QUERIES["group_of"], row["group_id"]))
                if not publishing.read_policy(group["policy"]).downgrade:
                    raise Conflict(
                        f"the policy of the group {group['name']!r} lets no node go back: set `downgrade` to "
                        "true, or abort without reverting"
                    )
                if (
                    await self._downgrade(
                        connection, group, arch=row["arch"], leaves=row["version"], reason=reason, by=by
                    )
                    is None
                ):
                    raise Conflict(
                        f"there is nothing to go back to from {row['version']}: the channel of the group "
                        f"{group['name']!r} has had no published changeset before it"
                    )
        return await self.get(rollout_id)

    async def approve(self, rollout_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Let a rollout go on that waits for an approver, or will; nothing is changed where it was approved.

        Raises:
            NotFound: There is no such rollout.
            Conflict: It needs no approval, or is over.
        """
        async with self._database.change() as connection:
            row = await self._locked(connection, rollout_id)
            if row["approved_at"] is None:
                if not msgspec.convert(dict(row["policy"]), Policy).approval:
                    raise Conflict("the policy of this rollout asks for no approval")
                _refuse_over(row)
                await connection.execute(QUERIES["approve"], rollout_id, by, self._database.clock.now())
                await self._tell(connection, row, "approved", by=by, reason=reason, approved_by=by)
                await self._advance(connection, rollout_id)
        return await self.get(rollout_id)

    async def expedite(self, rollout_id: uuid.UUID, *, reason: str, by: str) -> Row:
        """Relax soak, waves and windows of a rollout, within the bounds of its policy; once is enough.

        Never halts, holds, quarantine, the nodes that gates ask for, or reboot slots.

        Raises:
            NotFound: There is no such rollout.
            Conflict: It is over.
        """
        async with self._database.change() as connection:
            row = await self._locked(connection, rollout_id)
            if row["expedited_at"] is None:
                _refuse_over(row)
                approved_by = await self._four_eyes(connection, Action.EXPEDITE, rollout_id, reason)
                policy = msgspec.convert(dict(row["policy"]), Policy)
                await connection.execute(QUERIES["expedite"], rollout_id, by, self._database.clock.now(), reason)
                await self._tell(connection, row, "expedited", by=by, reason=reason, approved_by=approved_by)
                fraction = conduct.first_fraction(policy, expedited=True)
                if fraction > row["fraction"]:
                    wave = waves.wave_of(policy.waves, fraction)
                    await self._conducting.begin_wave(
                        connection, row, conduct.BeginWave(wave, fraction, f"expedited: {reason}"), by
                    )
                await self._advance(connection, rollout_id)
                await self._database.raise_policy_version(connection)
        return await self.get(rollout_id)

    async def widen(self, rollout_id: uuid.UUID, *, fraction: float | None, reason: str, by: str) -> Row:
        """Begin the next wave now, or let so large a share of the group in; the pace holds all the same.

        Raises:
            NotFound: There is no such rollout.
            InvalidInput: The share is not wider than the one that is let in already.
            Conflict: It does not run, its changeset is halted, braked or held, or the whole group is let in already.
        """
        async with self._database.change() as connection:
            row = await self._locked(connection, rollout_id)
            situation = await self._conducting.look(connection, await self._conducting.read(connection, rollout_id))
            if situation.state is not RolloutState.RUNNING or situation.stands:
                raise Conflict(
                    f"the rollout is {_shown(row, held=situation.held)}: only one that runs can be widened, "
                    "and only while its changeset is neither halted, braked nor held"
                )
            if row["fraction"] >= 1:
                raise Conflict("the whole group is let in already: the pace alone bounds it")
            policy = situation.policy
            if fraction is None:
                fraction = next((wave.fraction for wave in policy.waves if wave.fraction > row["fraction"]), 1.0)
            if fraction <= row["fraction"]:
                raise InvalidInput(
                    f"{row['fraction']:g} of the group is let in already: give a larger share, or cap the pace"
                )
            wave = waves.wave_of(policy.waves, fraction)
            await self._conducting.begin_wave(connection, row, conduct.BeginWave(wave, fraction, reason), by)
        return await self.get(rollout_id)

    async def cap(self, rollout_id: uuid.UUID, *, pace: int | None, reason: str, by: str) -> Row:
        """Bound the nodes of the group in flight below the analysis' pace; None takes the cap away.

        Raises:
            NotFound: There is no such rollout.
            Conflict: It is over.
        """
        async with self._database.change() as connection:
            row = await self._locked(connection, rollout_id)
            if row["pace_cap"] != pace:
                _refuse_over(row)
                await connection.execute(QUERIES["set_cap"], rollout_id, pace)
                await self._tell(connection, row, "capped", by=by, reason=reason, pace_cap=pace)
                await self._database.raise_policy_version(connection)
        return await self.get(rollout_id)

    async def exclude(self, rollout_id: uuid.UUID, node: str, *, excluded: bool, reason: str, by: str) -> Row:
        """Offer the changeset to a node no more in this rollout, or again.

        An offer that it has not staged is taken back.

        Args:
            rollout_id: Which.
            node: A node of its group, by id or machine id.
            excluded: Whether it is to be excluded.
            reason: Why.
            by: Who.

        Raises:
            NotFound: There is no such rollout, or no such node in its group.
        """
        async with self._database.change() as connection:
            row = await self._locked(connection, rollout_id)
            node_id = (await self._node(connection, row, node))["node_id"]
            if excluded:
                changed = await connection.fetchval(QUERIES["exclude"], rollout_id, node_id, reason, by)
            else:
                changed = await connection.fetchval(QUERIES["include"], rollout_id, node_id)
            if changed is not None:
                if excluded:
                    await connection.fetchval(
                        QUERIES["recall_offer"], rollout_id, node_id, f"excluded: {reason}", SOURCE
                    )
                await self._tell(
                    connection, row, "node_excluded", by=by, reason=reason, node_id=str(node_id), lifted=not excluded
                )
                await self._database.raise_policy_version(connection)
        return await self.get(rollout_id)

    async def drill(self, group_id: uuid.UUID, node: str, *, reason: str, by: str) -> Row:
        """Send one node to another slot and back, on purpose, so that both ways are known to work.

        A node that runs what its group is served goes to the changeset before it and comes back; any other goes to what
        the group is served, and back to the one that it runs.

        Raises:
            NotFound: There is no such group, or no such node in it.
            Conflict: The group is served nothing, there is nothing to go to and back from, or a drill of the node runs.
        """
        async with self._database.change() as connection:
            if await lock_group(connection, group_id) is None:
                raise NotFound(f"there is no group {group_id}")
            group = one(await connection.fetchrow(QUERIES["group_of"], group_id))
            found = await self._node(connection, {"group_id": group_id, "group_name": group["name"]}, node)
            if await connection.fetchval(QUERIES["drilling"], group_id, found["machine_id"]) is not None:
                raise Conflict(f"a drill of {found['machine_id']} runs already: wait for it, or abort it")
            serving = await connection.fetchrow(QUERIES["serving_update"], group_id, found["arch"])
            if serving is None:
                raise Conflict(f"the group {group['name']!r} is served no changeset: there is nothing to drill with")
            there, back = await self._legs(connection, group, found, dict(serving))
            await self._conducting.lock_gates(connection, [group_id], [there, back])
            changeset = await self._changesets.get(there, connection)
            goes_back = versions.is_newer(changeset["version"], found["version"]) is not True
            rollout_id = await self._create(
                connection,
                group,
                changeset,
                purpose=Purpose.DRILL,
                leaves_version=found["version"] if goes_back else None,
                only_machines=[found["machine_id"]],
                then_changeset_id=back,
                reason=reason,
                by=by,
            )
        return await self.get(rollout_id)

    async def _legs(self, connection: Connection, group: Row, node: Row, serving: Row) -> tuple[uuid.UUID, uuid.UUID]:
        """Where a drill leads, and where it comes back to."""
        served: uuid.UUID = serving["changeset_id"]
        if node["version"] != serving["version"]:
            home = await connection.fetch(QUERIES["changesets_of_version"], group["application_id"], node["version"])
            found = [row["changeset_id"] for row in home if row["arch"] == node["arch"]]
            if not found or not versions.is_newer(serving["version"], node["version"]):
                raise Conflict(
                    f"the node runs {node['version']}, which is no published changeset older than "
                    f"{serving['version']}: there would be no way back"
                )
            return served, found[0]
        history = await connection.fetch(
            QUERIES["promoted_before"], group["application_id"], group["channel_name"], node["arch"]
        )
        before = [row["changeset_id"] for row in history if versions.is_newer(serving["version"], row["version"])]
        if not before:
            raise Conflict(
                f"there is no published changeset before {serving['version']} to go to: nothing to drill with"
            )
        return before[0], served

    async def _node(self, connection: Connection, row: Mapping[str, Any], node: str) -> Row:
        found = await connection.fetchrow(QUERIES["node_of_group"], row["group_id"], node)
        if found is None:
            raise NotFound(f"there is no node {node!r} in the group {row['group_name']!r}")
        return dict(found)

    async def _locked(self, connection: Connection, rollout_id: uuid.UUID) -> Row:
        row = await connection.fetchrow(QUERIES["rollout"], rollout_id)
        if row is None:
            raise NotFound(f"there is no rollout {rollout_id}")
        await self._conducting.lock_gates(connection, [row["group_id"]], [row["changeset_id"]])
        return one(await connection.fetchrow(QUERIES["rollout"], rollout_id))

    async def _tell(self, connection: Connection, row: Row, what: str, **said: Any) -> None:
        data = types.RolloutChanged(
            rollout_id=str(row["rollout_id"]),
            changeset_id=str(row["changeset_id"]),
            group_id=str(row["group_id"]),
            **said,
        )
        event = self._database.event(
            data,
            f"rollouts/{row['rollout_id']}",
            type=f"rollout.{what}.v1",
            partition_key=str(row["changeset_id"]),
            correlation_id=str(row["rollout_id"]),
        )
        await append(connection, [event])


def _verdict(row: Mapping[str, Any] | None) -> Row | None:
    return None if row is None else dict(row)


def _group_pace(rollout: Mapping[str, Any]) -> int:
    cap = rollout["pace_cap"]
    return int(rollout["pace"] if cap is None else min(rollout["pace"], cap))


def _shown(rollout: Mapping[str, Any], *, held: bool) -> str:
    braked = rollout["braked_reason"] is not None or rollout["pace"] == 0
    return shown(RolloutState(rollout["state"]), braked=braked, held=held).value


def _wave_left(situation: conduct.Situation, census: Mapping[str, int]) -> int:
    """Nodes that the wave that runs still lets in, as far as it was looked at."""
    if situation.wave is None:
        return census["left"]
    return situation.wave.wave_nodes - situation.wave.wave_committed


def _refuse_over(row: Row) -> None:
    state = RolloutState(row["state"])
    if state not in ACTIVE and state not in SERVING:
        raise Conflict(f"the rollout is {state.value}: it is over")


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
