"""A rollout's situation, read from rows, and its steps, written to them; `services.control.conduct` has the rules."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec

from services.control import completion, conduct
from services.control.store.base import SOURCE, Connection, Database, Row, one
from shared.db import Queries
from shared.domain import scheme as schemes
from shared.domain import version as versions
from shared.domain.gate import Gate, GateEvidence, GateVerdict, Standing, judge
from shared.domain.policy import Policy
from shared.domain.rollout import Purpose, RolloutState
from shared.domain.waves import WaveProgress, soak_ends
from shared.domain.windows import opening
from shared.errors import Conflict, NotFound
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "conducting.sql")
_MOST_STEPS: Final = 64
"""A rollout takes no more steps at once; there are fewer states and waves."""


_T = TypeVar("_T")


class Findings:
    """What was found while rollouts were looked at, so that those that ask the same ask the database once.

    Of use as long as nothing moves: `forget` what was found before a step.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    async def once(self, key: Hashable, read: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """What ``read`` gives, read the first time that this is asked."""
        if key not in self._found:
            self._found[key] = await read()
        found: _T = self._found[key]
        return found

    def forget(self) -> None:
        """Have everything read again."""
        self._found.clear()


class Conducting:
    """Looks at rollouts and moves them on."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, connection: Connection, rollout_id: uuid.UUID) -> Row:
        """A rollout with everything that decides what it does next.

        Raises:
            NotFound: There is none.
        """
        rows = await self.read_all(connection, [rollout_id])
        if not rows:
            raise NotFound(f"there is no rollout {rollout_id}")
        return rows[rollout_id]

    async def read_all(self, connection: Connection, rollout_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, Row]:
        """Those of these rollouts that there are, as `read` gives them."""
        rows = await connection.fetch(QUERIES["conducted"], list(rollout_ids))
        return {row["rollout_id"]: dict(row) for row in rows}

    async def wants(self, connection: Connection, row: Mapping[str, Any], findings: Findings) -> bool:
        """Whether a rollout has a step to take or gates with news, as far as one sees without locks.

        Args:
            connection: Where to look.
            row: From `read`.
            findings: What was found of other rollouts.
        """
        now = self._database.clock.now()
        if await self._soaks(connection, row, now):
            return False
        situation = await self.look(connection, row, findings)
        if situation.gates and self.has_news(row, situation.gates):
            return True
        return conduct.conduct(situation, now) is not None

    async def _soaks(self, connection: Connection, row: Mapping[str, Any], now: datetime) -> bool:
        """Whether a rollout only has to wait for the soak of its wave, told without counting its nodes."""
        if row["state"] != RolloutState.RUNNING.value or row["fraction"] >= 1:
            return False
        policy = msgspec.convert(dict(row["policy"]), Policy)
        if policy.order is not None or row["wave"] + 1 >= len(policy.waves):
            return False
        share = conduct.soak_share(policy, expedited=row["expedited_at"] is not None)
        if now >= soak_ends(policy.waves[row["wave"]], row["wave_since"], soak_share=share):
            return False
        version = await connection.fetchval(
            QUERIES["version_in_wave"],
            row["group_id"],
            row["arch"],
            row["changeset_id"],
            row["fraction"],
            now - completion.SILENT_AFTER,
        )
        # A wave without nodes does not soak.
        return version is not None and (version == row["version"] or _takes(row, version))

    async def look(
        self, connection: Connection, row: Mapping[str, Any], findings: Findings | None = None
    ) -> conduct.Situation:
        """The situation of a rollout that `read` gave; what cannot matter in its state is not looked at.

        Args:
            connection: Where to look.
            row: From `read`.
            findings: What was found of other rollouts; None: everything is read.
        """
        now = self._database.clock.now()
        policy = msgspec.convert(dict(row["policy"]), Policy)
        state = RolloutState(row["state"])
        expedited = row["expedited_at"] is not None
        running = state is RolloutState.RUNNING
        waits = state is RolloutState.CREATED or state.waiting
        return conduct.Situation(
            state=state,
            purpose=Purpose(row["purpose"]),
            policy=policy,
            everything_open=row["everything_open"],
            changeset_open=row["gate_state"] == "open",
            braked=row["braked_reason"] is not None or row["pace"] == 0,
            held=row["held"],
            opening=opening(policy.windows, now, policy.expected_s),
            fraction=row["fraction"],
            order_stage=row["order_stage"],
            gates=await self.judge_gates(connection, row, policy, now, findings or Findings()) if waits else (),
            approved=row["approved_at"] is not None,
            expedited=expedited,
            wave=await self._wave(connection, row, policy, now) if running else None,
            stage_left=await self._stage_left(connection, row, policy, now) if running else None,
            remainder=await self._remainder(connection, row, now) if running and row["fraction"] >= 1 else None,
        )

    # Gates

    async def judge_gates(
        self, connection: Connection, row: Mapping[str, Any], policy: Policy, now: datetime, findings: Findings
    ) -> tuple[GateVerdict, ...]:
        """What the gates of a rollout say, in the order of its policy.

        Each looks at the changeset itself and, where it may, at its predecessor by the version scheme; the one that is
        open speaks for it, else the one that has come further.
        """
        if not policy.gates:
            return ()
        share = conduct.soak_share(policy, expedited=row["expedited_at"] is not None)
        released = await self._released(connection, row["application_id"], row["arch"], findings)
        scheme = schemes.VersionScheme(row["version_scheme"])
        before = schemes.predecessor(scheme, row["version"], released)
        verdicts = []
        for gate in policy.gates:
            subjects = [(row["version"], row["changeset_id"])]
            if gate.predecessor and before is not None:
                subjects.insert(0, (before, released[before]))
            said = [
                judge(
                    gate,
                    await self._gate_evidence(
                        connection, gate, row["application_id"], subject, now=now, findings=findings
                    ),
                    now,
                    soak_share=share,
                )
                for subject in subjects
            ]
            verdicts.append(max(said, key=lambda verdict: (verdict.open, verdict.committed)))
        return tuple(verdicts)

    @staticmethod
    async def _released(
        connection: Connection, application_id: uuid.UUID, arch: str, findings: Findings
    ) -> dict[str, uuid.UUID]:
        """The changesets of an application and arch that were published, by version."""

        async def read() -> dict[str, uuid.UUID]:
            rows = await connection.fetch(QUERIES["released_versions"], application_id, arch)
            return {row["version"]: row["changeset_id"] for row in rows}

        return await findings.once(("released", application_id, arch), read)

    @staticmethod
    async def _gate_evidence(
        connection: Connection,
        gate: Gate,
        application_id: uuid.UUID,
        subject: tuple[str, uuid.UUID],
        *,
        now: datetime,
        findings: Findings,
    ) -> GateEvidence:
        version, changeset_id = subject

        async def read() -> GateEvidence:
            standing = one(await connection.fetchrow(QUERIES["standing"], changeset_id))
            counts = one(
                await connection.fetchrow(
                    QUERIES["gate_evidence"], changeset_id, application_id, list(gate.groups), now
                )
            )
            return GateEvidence(subject=version, standing=_standing(standing), **counts)

        return await findings.once(("evidence", changeset_id, application_id, gate.groups), read)

    @staticmethod
    def has_news(row: Mapping[str, Any], gates: Sequence[GateVerdict]) -> bool:
        """Whether gates say something else than what was kept of them."""
        told = [msgspec.to_builtins(gate) for gate in gates]
        return [_news(gate) for gate in told] != [_news(gate) for gate in row["gates"]]

    async def tell_gates(self, connection: Connection, row: Mapping[str, Any], gates: Sequence[GateVerdict]) -> None:
        """Keep what the gates said, with an event, where it is news."""
        if not self.has_news(row, gates):
            return
        told = [msgspec.to_builtins(gate) for gate in gates]
        await connection.execute(QUERIES["tell_gates"], row["rollout_id"], told)
        data = types.RolloutGateJudged(
            **_ids(row),
            passed=all(gate.open for gate in gates),
            gates=tuple(told),
        )
        await append(connection, [self._event(row, data)])

    # Nodes

    async def census(self, connection: Connection, row: Mapping[str, Any], now: datetime) -> Row:
        """The nodes that a rollout is about, counted by what they still need."""
        found = await connection.fetch(
            QUERIES["nodes_by_version"],
            row["group_id"],
            row["arch"],
            row["changeset_id"],
            now - completion.SILENT_AFTER,
            row["only_machines"],
            row["rollout_id"],
        )
        target = row["version"]
        leaves = row["leaves_version"]
        rows = [item for item in found if leaves is None or item["version"] in (leaves, target)]
        others = [item for item in rows if item["version"] != target]
        return {
            "total": sum(item["nodes"] for item in rows),
            "on_target": sum(item["nodes"] for item in rows if item["version"] == target),
            # update_check offers only what is newer than what a node runs, unless it goes back on purpose.
            "left": sum(item["updatable"] for item in others if _takes(row, item["version"])),
            "quarantined": sum(item["quarantined"] for item in others),
            "excluded": sum(item["excluded"] for item in others),
            "silent": sum(item["silent"] for item in others),
            "cloned": sum(item["cloned"] for item in rows),
        }

    async def has_committed(self, connection: Connection, row: Mapping[str, Any]) -> bool:
        """Whether a node committed in a rollout."""
        progress = one(await connection.fetchrow(QUERIES["rollout_progress"], row["rollout_id"]))
        return bool(progress["committed"])

    async def _remainder(
        self, connection: Connection, row: Mapping[str, Any], now: datetime
    ) -> completion.Remainder | None:
        progress = one(await connection.fetchrow(QUERIES["rollout_progress"], row["rollout_id"]))
        if progress["in_flight"]:
            return None
        census = await self.census(connection, row, now)
        return completion.Remainder(
            left=census["left"] > 0,
            in_flight=False,
            committed=progress["committed"],
            on_target=census["on_target"] > 0,
        )

    async def _wave(
        self, connection: Connection, row: Mapping[str, Any], policy: Policy, now: datetime
    ) -> WaveProgress | None:
        if row["wave"] + 1 >= len(policy.waves):
            return None
        progress = one(await connection.fetchrow(QUERIES["rollout_progress"], row["rollout_id"]))
        order = policy.order
        found = await connection.fetch(
            QUERIES["nodes_of_wave"],
            row["group_id"],
            row["arch"],
            row["changeset_id"],
            row["fraction"],
            now - completion.SILENT_AFTER,
            None if order is None else order.fact,
            [] if order is None else list(order.values),
            row["order_stage"],
        )
        target = row["version"]
        counted = [item for item in found if item["version"] == target or _takes(row, item["version"])]
        return WaveProgress(
            wave=row["wave"],
            since=row["wave_since"],
            nodes=sum(item["nodes"] for item in counted),
            wave_nodes=sum(item["in_wave"] for item in counted),
            wave_committed=sum(item["in_wave"] for item in counted if item["version"] == target),
            committed=progress["committed"],
        )

    async def _stage_left(
        self, connection: Connection, row: Mapping[str, Any], policy: Policy, now: datetime
    ) -> int | None:
        order = policy.order
        if order is None or row["order_stage"] >= len(order.values):
            return None
        found = await connection.fetch(
            QUERIES["stage_by_version"],
            row["group_id"],
            row["arch"],
            row["changeset_id"],
            now - completion.SILENT_AFTER,
            row["rollout_id"],
            order.fact,
            list(order.values),
            row["order_stage"],
        )
        left: int = sum(
            item["in_flight"] + (item["updatable"] if _takes(row, item["version"]) else 0) for item in found
        )
        return left

    # Steps

    async def lock_gates(
        self, connection: Connection, group_ids: Sequence[uuid.UUID], changeset_ids: Sequence[uuid.UUID]
    ) -> None:
        """Lock the gates of all changesets whose rollouts may be moved, in the order in which halts lock them."""
        found = await connection.fetch(QUERIES["changesets_of_groups"], list(group_ids))
        wanted = {*changeset_ids, *(row["changeset_id"] for row in found)}
        await connection.fetch(QUERIES["lock_gates"], sorted(wanted))

    async def advance(self, connection: Connection, rollout_id: uuid.UUID) -> list[conduct.Step]:
        """Take all steps that a rollout can take now.

        Args:
            connection: In a transaction that holds the global gate and the gates of the group's changesets.
            rollout_id: Which.

        Returns:
            The steps, in order.
        """
        steps: list[conduct.Step] = []
        while len(steps) < _MOST_STEPS:
            row = await self.read(connection, rollout_id)
            situation = await self.look(connection, row)
            if situation.gates:
                await self.tell_gates(connection, row, situation.gates)
            step = conduct.conduct(situation, self._database.clock.now())
            if step is None:
                break
            await self._take(connection, row, situation, step)
            steps.append(step)
        return steps

    async def _take(
        self, connection: Connection, row: Mapping[str, Any], situation: conduct.Situation, step: conduct.Step
    ) -> None:
        match step:
            case conduct.Move(to=to, reason=reason):
                if situation.state is RolloutState.CREATED:
                    reason = reason or row["reason"]
                await self.transition(connection, row["rollout_id"], to, reason, SOURCE)
                if to is RolloutState.SCHEDULED:
                    await connection.execute(QUERIES["schedule"], row["rollout_id"], situation.opening.next_at)
                if to is RolloutState.RUNNING:
                    await self.give_way(connection, row)
            case conduct.BeginWave():
                await self.begin_wave(connection, row, step, SOURCE)
            case conduct.BeginStage(stage=stage, reason=reason):
                await connection.execute(QUERIES["begin_stage"], row["rollout_id"], stage)
                what = f"order stage {stage}: {reason}"
                await self._database.policy_changed(connection, f"rollouts/{row['rollout_id']}", what, SOURCE)

    async def give_way(self, connection: Connection, row: Mapping[str, Any]) -> None:
        """Supersede the group's completed updates, now that this one serves; tell update_check."""
        if row["purpose"] == Purpose.UPDATE.value:
            before = await connection.fetch(
                QUERIES["completed_before"], row["group_id"], row["arch"], row["rollout_id"]
            )
            for older in before:
                await self.transition(
                    connection, older["rollout_id"], RolloutState.SUPERSEDED, f"by {row['version']}", SOURCE
                )
        await self._database.raise_policy_version(connection)

    async def begin_wave(
        self, connection: Connection, row: Mapping[str, Any], step: conduct.BeginWave, by: str
    ) -> None:
        """Let a wider share of the group in, with its event; one that has not begun soaks from its beginning."""
        since = None if row["running_since"] is None else self._database.clock.now()
        await connection.execute(QUERIES["begin_wave"], row["rollout_id"], step.wave, step.fraction, since)
        data = types.RolloutWaveBegun(**_ids(row), wave=step.wave, fraction=step.fraction, by=by, reason=step.reason)
        await append(connection, [self._event(row, data)])
        await self._database.raise_policy_version(connection)

    async def transition(
        self, connection: Connection, rollout_id: uuid.UUID, to: RolloutState, reason: str | None, by: str
    ) -> str:
        """Move a rollout, with its event. Returns the state before.

        Raises:
            Conflict: The move is not allowed from where it stands.
        """
        before: str | None = await connection.fetchval(
            QUERIES["move_rollout"], rollout_id, to.value, reason, by, self._database.ids.uuid7(), SOURCE
        )
        if before is None:
            raise Conflict(f"the rollout {rollout_id} cannot become {to.value} from where it stands: look again")
        return before

    async def history(self, connection: Connection, row: Mapping[str, Any], left: int) -> conduct.History | None:
        """How fast a rollout has gone; None for one that has not begun."""
        if row["running_since"] is None:
            return None
        now = self._database.clock.now()
        policy = msgspec.convert(dict(row["policy"]), Policy)
        since = now - conduct.rate_window(row["running_since"], now)
        counts = one(await connection.fetchrow(QUERIES["committed_since"], row["rollout_id"], since))
        return conduct.History(
            running_since=row["running_since"],
            committed=counts["committed"],
            committed_lately=counts["lately"],
            left=left,
            soak_left_s=conduct.soak_left_s(
                policy, row["wave"], row["wave_since"], now, expedited=row["expedited_at"] is not None
            ),
        )

    def _event(self, row: Mapping[str, Any], data: types.EventData) -> Any:
        return self._database.event(
            data,
            f"rollouts/{row['rollout_id']}",
            partition_key=str(row["changeset_id"]),
            correlation_id=str(row["rollout_id"]),
        )


def _ids(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(row[name]) for name in ("rollout_id", "changeset_id", "group_id")}


def _takes(row: Mapping[str, Any], version: str) -> bool:
    """Whether a node that runs ``version`` is one that the rollout is for."""
    if row["leaves_version"] is not None:
        return bool(version == row["leaves_version"])
    return bool(versions.is_newer(row["version"], version))


def _news(gate: Mapping[str, Any]) -> tuple[object, ...]:
    """What is worth an event: not each node that commits, but what a gate waits for."""
    return gate["open"], gate["subject"], gate["bad"], len(gate["waits_for"])


def _standing(row: Mapping[str, Any]) -> Standing:
    if row["state"] == "withdrawn":
        return Standing.WITHDRAWN
    if row["gate_state"] not in (None, "open"):
        return Standing(row["gate_state"])
    if row["braked_reason"] is not None:
        return Standing.BRAKED
    return Standing.HELD if row["held"] else Standing.CLEAR
