"""One poll, start to end: what it reports is recorded first, then it is judged, and only a yes asks the database."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import stamina
import structlog

from services.update_check import dialect, store
from services.update_check.configuration import ApplicationView, GroupView, RolloutView
from services.update_check.contacts import Contact, ContactBook
from services.update_check.decide import WITHHELD, Decision, Offer, Reason, Withheld, decide
from services.update_check.keeper import SnapshotKeeper, postgres_is_away
from services.update_check.spool import Spool
from services.update_check.standing import NOTHING, NodeKey, OpenAttempt
from services.update_check.store import GrantRequest, GrantResult
from shared.clock import Clock
from shared.db.group_commit import GroupCommit
from shared.domain.identity import node_id_for
from shared.domain.observation import Observation, ObservationKind
from shared.errors import Unavailable
from shared.fleet import FleetReporter, Outcome
from shared.ids import IdSource
from shared.observability.metrics import METRICS
from shared.omaha.facts import arch_of
from shared.omaha.request import App, Request

DECISIONS = METRICS.counter("uneventful_update_decisions", "Polls judged, by what came of them.", ("decision",))
SPOOLED = METRICS.counter("uneventful_reports_spooled", "Reports kept on disk since Postgres was away.")

RETRY_LATER_S = 300.0
"""How long a refusal because of failed attempts is remembered before the database is asked again."""
PACE_FULL_S = 0.25
"""How long a full pace is believed when the database said so and this process did not know."""

_log = structlog.get_logger()

_REASONS = {reason.value: reason for reason in Reason} | {
    "pace": Reason.CHANGESET_PACE,
    "rollout_paused": Reason.ROLLOUT_PAUSED,
    "rollout_halted": Reason.HALTED,
    "rollout_created": Reason.ROLLOUT_PAUSED,
    "rollout_completed": Reason.NO_ROLLOUT,
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
        ids: IdSource,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._keeper = keeper
        self._reporter = reporter
        self._contacts = contacts
        self._spool = spool
        self._ids = ids
        self._clock = clock
        self._grants: dict[uuid.UUID, GroupCommit[tuple[int, GrantRequest], GrantResult]] = {}
        self._full_until: dict[uuid.UUID, float] = {}

    async def check(
        self, request: Request, app: App, application: ApplicationView, address: str | None, traceparent: str | None
    ) -> tuple[GroupView | None, Granted | Withheld | None]:
        """Take one ``<app>`` of a request: events, ping, update check, in this order.

        Returns:
            The node's group, and what the update check comes to; None where none was asked for.

        Raises:
            Unavailable: A report could be made durable neither in Postgres nor in the spool.
        """
        standings = self._keeper.standings
        at = self._clock.now()
        group = application.group_of(lambda name: dialect.fact(request, app, name))
        key = (application.application_id, app.machineid)
        attempt = standings.attempts.get(key)
        boot_id = dialect.boot_id_of(app)
        news = dialect.news_of(app) if app.events else ()

        def observe(node_id: uuid.UUID) -> Observation:
            return dialect.observation_of(
                request,
                app,
                None,
                ObservationKind.POLL if app.update_check else ObservationKind.PING,
                application=application,
                node_id=node_id,
                group_id=group.group_id if group is not None else None,
                at=at,
                address=address,
                ids=self._ids,
                traceparent=traceparent,
            )

        if news or (attempt is not None and attempt.boot_id != boot_id):
            node_id = node_id_for(*key)
            observations = [
                dialect.observation_of(
                    request,
                    app,
                    event,
                    kind,
                    application=application,
                    node_id=node_id,
                    group_id=group.group_id if group is not None else None,
                    at=at,
                    address=address,
                    ids=self._ids,
                    traceparent=traceparent,
                )
                for event, kind in news
            ] or [observe(node_id)]
            await self._record(key, observations)
        else:
            self._contacts.heard(
                key, Contact(at, app.version, boot_id, group.group_id if group is not None else None, observe)
            )
        if attempt is None:
            self._contacts.idle("")
        if not app.update_check:
            return group, None
        answer = await self._judge(request, app, key, group, boot_id, observe, at, traceparent)
        DECISIONS.add(1, (answer.reason.value if isinstance(answer, Withheld) else "granted",))
        return group, answer

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

    def _decide(self, key: NodeKey, group: GroupView | None, arch: str | None, version: str) -> Decision:
        standings = self._keeper.standings
        closed = self._keeper.fail_closed()
        if closed is not None:
            return WITHHELD[closed]
        if not self._spool.empty:
            return WITHHELD[Reason.REPORTS_SPOOLED]
        rollout = group.rollouts.get(arch) if group is not None and arch is not None else None
        retry = standings.retries.get(key)
        if retry is not None and retry[1] <= self._clock.monotonic():
            del standings.retries[key]
            retry = None
        return decide(
            self._keeper.configuration,
            group,
            arch,
            version,
            standings.attempts.get(key),
            standings.quarantined.get(key, NOTHING),
            cloned=key in standings.cloned,
            retry_changeset=retry[0] if retry is not None else None,
            changeset_in_flight=standings.changeset_in_flight[rollout.changeset_id] if rollout is not None else 0,
            group_in_flight=standings.group_in_flight[rollout.group_id] if rollout is not None else 0,
        )

    async def _judge(
        self,
        request: Request,
        app: App,
        key: NodeKey,
        group: GroupView | None,
        boot_id: str,
        observe: Any,
        at: datetime,
        traceparent: str | None,
    ) -> Granted | Withheld:
        arch = arch_of(request, app)
        decision = self._decide(key, group, arch, app.version)
        if isinstance(decision, Withheld):
            return decision
        if self._is_full(decision.rollout.rollout_id) and not decision.repeated:
            return WITHHELD[Reason.CHANGESET_PACE]
        node_id = node_id_for(*key)
        try:
            # The node's row must say what this poll says before an offer compares with it.
            for outcome in await self._reporter.submit_many([observe(node_id)]):
                self._learn(key, outcome)
            decision = self._decide(key, group, arch, app.version)
            if isinstance(decision, Withheld):
                return decision
            return await self._grant(decision, key, node_id, app.version, boot_id, at, traceparent)
        except Exception as error:
            if not postgres_is_away(error):
                raise
            _log.warning("grant.postgres_away", error=type(error).__name__)
            return WITHHELD[Reason.POSTGRES_AWAY]

    async def _grant(
        self,
        offer: Offer,
        key: NodeKey,
        node_id: uuid.UUID,
        version: str,
        boot_id: str,
        at: datetime,
        traceparent: str | None,
    ) -> Granted | Withheld:
        rollout = offer.rollout
        grants = self._grants.get(rollout.rollout_id)
        if grants is None:
            grants = self._grants[rollout.rollout_id] = self._new_grants(rollout.rollout_id)
        attempt_id = self._ids.uuid7()
        result = await grants.submit(
            (
                self._keeper.configuration.policy_version,
                GrantRequest(
                    node_id=node_id,
                    attempt_id=attempt_id,
                    token=self._ids.token(),
                    event_id=self._ids.uuid7(),
                    version=version,
                    boot_id=boot_id,
                    at=at,
                    traceparent=traceparent,
                ),
            )
        )
        standings = self._keeper.standings
        if result.token is not None and result.attempt_id is not None:
            if result.status == "granted":
                standings.open(
                    key, OpenAttempt(result.attempt_id, rollout.changeset_id, rollout.group_id, "offered", boot_id)
                )
            return Granted(rollout, result.token)
        reason = _REASONS[result.status]
        if reason in (Reason.RETRY_LATER, Reason.ATTEMPTS_SPENT):
            standings.retries[key] = (rollout.changeset_id, self._clock.monotonic() + RETRY_LATER_S)
        elif reason is Reason.QUARANTINED:
            standings.quarantine(key, rollout.changeset_id)
        elif reason is Reason.CLONED:
            standings.cloned.add(key)
        elif reason is Reason.CHANGESET_PACE:
            self._full_until[rollout.rollout_id] = self._clock.monotonic() + PACE_FULL_S
        elif reason is not Reason.ATTEMPT_OPEN:
            # The gate knows something that the snapshot does not.
            self._keeper.wake()
        return WITHHELD[reason]

    def _is_full(self, rollout_id: uuid.UUID) -> bool:
        return self._full_until.get(rollout_id, 0.0) > self._clock.monotonic()

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
