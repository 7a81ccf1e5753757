"""What operators do to rollouts: pause, resume, abort, approve, expedite, widen, cap, exclude, drill."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from services.control import conduct, publishing
from services.control.store.approvals import four_eyes, policies_of_rollout
from services.control.store.base import SOURCE, Connection, Database, Row, lock_group, one
from services.control.store.changesets import Changesets
from services.control.store.rollouts import QUERIES as ROLLOUTS
from services.control.store.rollouts import Rollouts, shown_of
from shared.db import Queries
from shared.domain import version as versions
from shared.domain import waves
from shared.domain.policy import Action, Policy
from shared.domain.rollout import ACTIVE, SERVING, Purpose, RolloutState
from shared.errors import Conflict, InvalidInput, NotFound
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "steering.sql")


class Steering:
    """Operators' hands on rollouts; each change is one transaction with its event."""

    def __init__(self, database: Database, changesets: Changesets, rollouts: Rollouts) -> None:
        self._database = database
        self._changesets = changesets
        self._rollouts = rollouts

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
                await self._rollouts.transition(connection, rollout_id, to, reason, by)
            return await self._rollouts.look(connection, rollout_id, self._database.clock.now())

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
            await self._rollouts.transition(connection, rollout_id, RolloutState.PAUSED, reason, by)
            state = RolloutState.PAUSED
        if state is RolloutState.RUNNING or state.waiting:
            return
        if row["running_since"] is None and state is not RolloutState.COMPLETED:
            await self._rollouts.transition(connection, rollout_id, RolloutState.WAITING_FOR_GATE, reason, by)
            await self._rollouts.advance(connection, rollout_id)
        else:
            await self._rollouts.transition(connection, rollout_id, RolloutState.RUNNING, reason, by)
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
                await self._rollouts.transition(connection, rollout_id, RolloutState.ABORTED, reason, by)
            if revert:
                group = one(await connection.fetchrow(ROLLOUTS["group_of"], row["group_id"]))
                if not publishing.read_policy(group["policy"]).downgrade:
                    raise Conflict(
                        f"the policy of the group {group['name']!r} lets no node go back: set `downgrade` to "
                        "true, or abort without reverting"
                    )
                if (
                    await self._rollouts.downgrade(
                        connection, group, arch=row["arch"], leaves=row["version"], reason=reason, by=by
                    )
                    is None
                ):
                    raise Conflict(
                        f"there is nothing to go back to from {row['version']}: the channel of the group "
                        f"{group['name']!r} has had no published changeset before it"
                    )
            return await self._rollouts.look(connection, rollout_id, self._database.clock.now())

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
                await self._rollouts.advance(connection, rollout_id)
            return await self._rollouts.look(connection, rollout_id, self._database.clock.now())

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
                    await self._rollouts.conducting.begin_wave(
                        connection, row, conduct.BeginWave(wave, fraction, f"expedited: {reason}"), by
                    )
                await self._rollouts.advance(connection, rollout_id)
                await self._database.raise_policy_version(connection)
            return await self._rollouts.look(connection, rollout_id, self._database.clock.now())

    async def widen(self, rollout_id: uuid.UUID, *, fraction: float | None, reason: str, by: str) -> Row:
        """Begin the next wave now, or let so large a share of the group in; the pace holds all the same.

        Raises:
            NotFound: There is no such rollout.
            InvalidInput: The share is not wider than the one that is let in already.
            Conflict: It does not run, its changeset is halted, braked or held, or the whole group is let in already.
        """
        async with self._database.change() as connection:
            row = await self._locked(connection, rollout_id)
            conducting = self._rollouts.conducting
            situation = await conducting.look(connection, await conducting.read(connection, rollout_id))
            if situation.state is not RolloutState.RUNNING or situation.stands:
                raise Conflict(
                    f"the rollout is {shown_of(row, held=situation.held)}: only one that runs can be widened, "
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
            await self._rollouts.conducting.begin_wave(connection, row, conduct.BeginWave(wave, fraction, reason), by)
            return await self._rollouts.look(connection, rollout_id, self._database.clock.now())

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
            return await self._rollouts.look(connection, rollout_id, self._database.clock.now())

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
            return await self._rollouts.look(connection, rollout_id, self._database.clock.now())

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
            group = one(await connection.fetchrow(ROLLOUTS["group_of"], group_id))
            found = await self._node(connection, {"group_id": group_id, "group_name": group["name"]}, node)
            if await connection.fetchval(QUERIES["drilling"], group_id, found["machine_id"]) is not None:
                raise Conflict(f"a drill of {found['machine_id']} runs already: wait for it, or abort it")
            serving = await connection.fetchrow(ROLLOUTS["serving_update"], group_id, found["arch"])
            if serving is None:
                raise Conflict(f"the group {group['name']!r} is served no changeset: there is nothing to drill with")
            there, back = await self._legs(connection, group, found, dict(serving))
            await self._rollouts.conducting.lock_gates(connection, [group_id], [there, back])
            changeset = await self._changesets.get(there, connection)
            goes_back = versions.is_newer(changeset["version"], found["version"]) is not True
            rollout_id = await self._rollouts.create(
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
            return await self._rollouts.look(connection, rollout_id, self._database.clock.now())

    async def _legs(self, connection: Connection, group: Row, node: Row, serving: Row) -> tuple[uuid.UUID, uuid.UUID]:
        """Where a drill leads, and where it comes back to."""
        served: uuid.UUID = serving["changeset_id"]
        if node["version"] != serving["version"]:
            home = await connection.fetch(ROLLOUTS["changesets_of_version"], group["application_id"], node["version"])
            found = [row["changeset_id"] for row in home if row["arch"] == node["arch"]]
            if not found or not versions.is_newer(serving["version"], node["version"]):
                raise Conflict(
                    f"the node runs {node['version']}, which is no published changeset older than "
                    f"{serving['version']}: there would be no way back"
                )
            return served, found[0]
        history = await connection.fetch(
            ROLLOUTS["promoted_before"], group["application_id"], group["channel_name"], node["arch"]
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
        row = await connection.fetchrow(ROLLOUTS["rollout"], rollout_id)
        if row is None:
            raise NotFound(f"there is no rollout {rollout_id}")
        await self._rollouts.conducting.lock_gates(connection, [row["group_id"]], [row["changeset_id"]])
        return one(await connection.fetchrow(ROLLOUTS["rollout"], rollout_id))

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


def _refuse_over(row: Row) -> None:
    state = RolloutState(row["state"])
    if state not in ACTIVE and state not in SERVING:
        raise Conflict(f"the rollout is {state.value}: it is over")
