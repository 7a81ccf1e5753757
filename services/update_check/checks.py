"""One poll, start to end: what it reports is recorded first, then it is judged, and only a yes asks the database."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg
import stamina
import structlog

from services.update_check import store
from services.update_check.configuration import RolloutView
from services.update_check.contacts import ContactBook
from services.update_check.decide import Decision, Offer, decide
from services.update_check.flood import FloodGuard
from services.update_check.keeper import SnapshotKeeper, postgres_is_away
from services.update_check.poll import News, Poll, contact_of, observation_of
from services.update_check.spool import Spool
from services.update_check.standing import NOTHING, NodeKey, OpenAttempt
from services.update_check.store import GrantRequest, GrantResult
from services.update_check.watch import PollWatch
from services.update_check.withheld import WITHHELD, Withheld
from shared.clock import Clock
from shared.db.group_commit import GroupCommit
from shared.domain.identity import node_id_for
from shared.domain.observation import Observation, ObservationKind, ObservationSource
from shared.domain.reasons import GRANTED, Reason
from shared.errors import Unavailable
from shared.fleet import FleetReporter, Outcome
from shared.ids import IdSource
from shared.observability.metrics import METRICS

DECISIONS = METRICS.counter("uneventful_update_decisions", "Polls judged, by what came of them.", ("decision",))
SPOOLED = METRICS.counter("uneventful_reports_spooled", "Reports kept on disk since Postgres was away.")
FLOODED = METRICS.counter("uneventful_reports_flooded", "Reports dropped since too many came, by whom.", ("kind",))

RETRY_LATER_S = 300.0
"""How long a refusal because of failed attempts is remembered at most before the database is asked again."""
PACE_FULL_S = 0.25
"""How long a full pace is believed when the database said so and this process did not know."""
DOMAIN_BUSY_S = 1.0
"""How long a failure domain is believed to have a node in flight when the database said so."""
MAX_DOMAINS = 10_000
"""Failure domains are the nodes' words: so many are remembered at most."""

_log = structlog.get_logger()

_GRANTED = (GRANTED,)
_REASONS = {reason.value: reason for reason in Reason} | {
    "pace": Reason.CHANGESET_PACE,
    "rollout_created": Reason.ROLLOUT_PAUSED,
    "rollout_waiting_for_gate": Reason.WAITING_FOR_GATE,
    "rollout_waiting_for_approval": Reason.WAITING_FOR_APPROVAL,
    "rollout_scheduled": Reason.SCHEDULED,
    "rollout_halted": Reason.HALTED,
    "rollout_aborted": Reason.NO_ROLLOUT,
    "rollout_superseded": Reason.NO_ROLLOUT,
    "rollout_unknown": Reason.NO_ROLLOUT,
}


class Granted:
    """An offer that is committed: which rollout, under which attempt token."""

    __slots__ = ("rollout", "token")

    def __init__(self, rollout: RolloutView, token: str) -> None:
        self.rollout = rollout
        self.token = token


class Checks:
    """Judges polls; owns what they share."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        keeper: SnapshotKeeper,
        reporter: FleetReporter,
        contacts: ContactBook,
        spool: Spool,
        *,
        watch: PollWatch,
        floods: FloodGuard,
        ids: IdSource,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._keeper = keeper
        self._reporter = reporter
        self._contacts = contacts
        self._spool = spool
        self._watch = watch
        self._floods = floods
        self._ids = ids
        self._clock = clock
        self._grants: dict[uuid.UUID, GroupCommit[tuple[int, GrantRequest], GrantResult]] = {}
        self._full_until: dict[uuid.UUID, float] = {}
        self._domain_busy_until: dict[tuple[uuid.UUID, str], float] = {}

    async def check(self, poll: Poll) -> Granted | Withheld | None:
        """Take one node's request: reports, contact, update check, in this order.

        Returns:
            What the update check comes to; None where none was asked for.

        Raises:
            Unavailable: A report could be made durable neither in Postgres nor in the spool.
        """
        attempt = self._keeper.standings.attempts.get(poll.key)
        if poll.news and self._is_flood(poll):
            # Answered as any other, and forgotten: a report that nobody needs is no error of the node.
            if self._keeper.watched:
                self._watch.polled(poll, Reason.FLOODED.value)
            return WITHHELD[Reason.FLOODED] if poll.asks else None
        if poll.news:
            await self._record(poll.key, [observation_of(poll, news, self._ids.uuid7()) for news in poll.news])
        elif attempt is not None and attempt.boot_id != poll.boot_id:
            await self._record(poll.key, [contact_of(poll, self._ids.uuid7())])
        elif not poll.asks:
            self._contacts.heard(poll, None)
        if attempt is None:
            self._contacts.idle("")
        if not poll.asks:
            if self._keeper.watched:
                self._watch.polled(poll, None)
            return None
        decision = self._decide(poll)
        if poll.source is ObservationSource.CINCINNATI:
            answer = await self._show(decision, poll)
        else:
            answer = decision if isinstance(decision, Withheld) else await self._ask(decision, poll)
        label = answer.label if isinstance(answer, Withheld) else _GRANTED
        self._contacts.heard(poll, label[0])
        if self._keeper.watched:
            self._watch.polled(poll, label[0])
        DECISIONS.add(1, label)
        return answer

    async def _show(self, decision: Decision, poll: Poll) -> Granted | Withheld:
        """Answer a node that reports nothing: what it does with an edge is taken from whether it asks again.

        It stops asking once it takes an edge, until it has booted the release. So the edge counts as staged: from then
        on its silence is judged as that of any node that was to reboot. One that asks again has not taken it; where
        something else is for it now, the attempt is over.
        """
        attempt = self._keeper.standings.attempts.get(poll.key)
        if decision is WITHHELD[Reason.ATTEMPT_OPEN] and attempt is not None and attempt.boot_id == poll.boot_id:
            await self._infer(poll, News(kind=ObservationKind.FAILED, reason="not_taken"))
            decision = self._decide(poll)
        if isinstance(decision, Withheld):
            return decision
        answer = await self._ask(decision, poll)
        attempt = self._keeper.standings.attempts.get(poll.key)
        if isinstance(answer, Granted) and attempt is not None and attempt.state == "offered":
            await self._infer(poll, News(kind=ObservationKind.STAGED, reason="edge_shown"))
        return answer

    async def _infer(self, poll: Poll, news: News) -> None:
        await self._record(poll.key, [observation_of(poll, news, self._ids.uuid7())])

    def _is_flood(self, poll: Poll) -> bool:
        application_id, machine_id = poll.key
        kind = self._floods.take(application_id, machine_id, poll.address, self._clock.monotonic())
        if kind is not None:
            FLOODED.add(len(poll.news), (kind.value,))
        return kind is not None

    async def drain_spool(self) -> int:
        """Bring what was spooled to Postgres; raises while Postgres is away."""
        return await self._spool.drain(self._reporter.submit_many)

    async def close(self) -> None:
        """Let grants in flight end."""
        for grants in list(self._grants.values()):
            await grants.close()

    async def _record(self, key: NodeKey, observations: list[Observation]) -> Sequence[Outcome]:
        """Make reports durable before they are answered: in Postgres, or on disk while it is away."""
        if self._spool.empty:
            try:
                outcomes = await self._reporter.submit_many(observations)
            except Exception as error:
                if not postgres_is_away(error):
                    raise
                _log.warning("reports.spooled", reports=len(observations), error=type(error).__name__)
            else:
                for outcome in outcomes:
                    self._learn(key, outcome)
                return outcomes
        await self._spool.put(observations)
        SPOOLED.add(len(observations))
        return ()

    def _learn(self, key: NodeKey, outcome: Outcome) -> None:
        standings = self._keeper.standings
        if outcome.cloned:
            standings.cloned.add(key)
        if outcome.attempt_id is not None and outcome.state is not None:
            standings.move(outcome.attempt_id, outcome.state)
        if outcome.quarantined and outcome.changeset_id is not None:
            standings.quarantine(key, outcome.changeset_id)

    def _decide(self, poll: Poll) -> Decision:
        standings = self._keeper.standings
        closed = self._keeper.fail_closed()
        if closed is not None:
            return WITHHELD[closed]
        if not self._spool.empty:
            return WITHHELD[Reason.REPORTS_SPOOLED]
        key = poll.key
        retry = standings.retries.get(key)
        if retry is not None and retry[1] <= self._clock.monotonic():
            del standings.retries[key]
            retry = None
        return decide(
            self._keeper.configuration,
            poll,
            now=poll.at,
            attempt=standings.attempts.get(key),
            quarantined=standings.quarantined.get(key, NOTHING),
            cloned=key in standings.cloned,
            retry_changeset=retry[0] if retry is not None else None,
            changeset_in_flight=standings.changeset_in_flight,
            group_in_flight=standings.group_in_flight,
        )

    async def _ask(self, offer: Offer, poll: Poll) -> Granted | Withheld:
        """Ask the database for what the snapshot would grant."""
        if not offer.repeated:
            if self._is_full(offer.rollout.rollout_id):
                return WITHHELD[Reason.CHANGESET_PACE]
            if self._is_busy(offer.rollout, poll):
                return WITHHELD[Reason.FAILURE_DOMAIN]
        try:
            # The node's row must say what this poll says before an offer compares with it.
            for outcome in await self._reporter.submit_many([contact_of(poll, self._ids.uuid7())]):
                self._learn(poll.key, outcome)
            decision = self._decide(poll)
            if isinstance(decision, Withheld):
                return decision
            return await self._grant(decision.rollout, poll)
        except Exception as error:
            if not postgres_is_away(error):
                raise
            _log.warning("grant.postgres_away", error=type(error).__name__)
            return WITHHELD[Reason.POSTGRES_AWAY]

    async def _grant(self, rollout: RolloutView, poll: Poll) -> Granted | Withheld:
        grants = self._grants.get(rollout.rollout_id)
        if grants is None:
            grants = self._grants[rollout.rollout_id] = self._new_grants(rollout.rollout_id)
        request = GrantRequest(
            node_id=node_id_for(*poll.key),
            attempt_id=self._ids.uuid7(),
            token=self._ids.token(),
            event_id=self._ids.uuid7(),
            version=poll.version,
            boot_id=poll.boot_id,
            at=poll.at,
            traceparent=poll.traceparent,
        )
        result = await grants.submit((self._keeper.configuration.policy_version, request))
        standings = self._keeper.standings
        if result.token is not None and result.attempt_id is not None:
            if result.status == "granted":
                standings.open(
                    poll.key,
                    OpenAttempt(result.attempt_id, rollout.changeset_id, rollout.group_id, "offered", poll.boot_id),
                )
            return Granted(rollout, result.token)
        reason = _REASONS[result.status]
        if reason in {Reason.RETRY_LATER, Reason.ATTEMPTS_SPENT}:
            again_at = self._clock.monotonic() + min(RETRY_LATER_S, rollout.retry_after_s)
            standings.retries[poll.key] = (rollout.changeset_id, again_at)
        elif reason is Reason.QUARANTINED:
            standings.quarantine(poll.key, rollout.changeset_id)
        elif reason is Reason.CLONED:
            standings.cloned.add(poll.key)
        elif reason is Reason.CHANGESET_PACE:
            self._full_until[rollout.rollout_id] = self._clock.monotonic() + PACE_FULL_S
        elif reason is Reason.FAILURE_DOMAIN:
            if len(self._domain_busy_until) >= MAX_DOMAINS:
                self._domain_busy_until.clear()
            self._domain_busy_until[_domain_of(rollout, poll)] = self._clock.monotonic() + DOMAIN_BUSY_S
        elif reason is not Reason.ATTEMPT_OPEN:
            # The gate knows something that the snapshot does not.
            self._keeper.wake()
        return WITHHELD[reason]

    def _is_full(self, rollout_id: uuid.UUID) -> bool:
        return self._full_until.get(rollout_id, 0.0) > self._clock.monotonic()

    def _is_busy(self, rollout: RolloutView, poll: Poll) -> bool:
        if rollout.failure_domain is None:
            return False
        return self._domain_busy_until.get(_domain_of(rollout, poll), 0.0) > self._clock.monotonic()

    def _new_grants(self, rollout_id: uuid.UUID) -> GroupCommit[tuple[int, GrantRequest], GrantResult]:
        async def flush(batch: list[tuple[int, GrantRequest]]) -> list[GrantResult]:
            # The oldest policy version that any decision of the batch was made by: if it is stale, all wait a poll.
            policy_version = min(version for version, _ in batch)
            requests = [request for _, request in batch]
            async for attempt in stamina.retry_context(
                on=(asyncpg.DeadlockDetectedError, asyncpg.SerializationError), attempts=5, timeout=5
            ):
                with attempt:
                    async with self._pool.acquire(timeout=5) as connection:
                        return await store.grant(connection, rollout_id, policy_version, requests)
            raise Unavailable("the grant kept losing deadlocks", retry_after_s=5)  # pragma: no cover

        return GroupCommit(flush, max_batch=500, max_waiting=5_000)


def _domain_of(rollout: RolloutView, poll: Poll) -> tuple[uuid.UUID, str]:
    """The group and the node's failure domain in it; nodes that do not tell theirs share one."""
    return rollout.group_id, "" if rollout.failure_domain is None else poll.fact(rollout.failure_domain) or ""
