"""HTTP in and out: checks of native agents, and their enrolment."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
import structlog
from aiohttp import web

from services.update_check import native
from services.update_check.checks import Granted
from services.update_check.configuration import ApplicationView
from services.update_check.dialect_store import Details, enrol, read_attempt, read_details, recall_told
from services.update_check.keeper import postgres_is_away
from services.update_check.native import Check, CheckAnswer, CheckDecision, Enrol, Enrolled, Update
from services.update_check.routes import (
    CHECKS,
    CLOCK,
    DEFAULT_POLL_INTERVAL_S,
    KEEPER,
    WATCH,
    address_of,
    traceparent_of,
)
from services.update_check.standing import CLOSED_STATES
from services.update_check.withheld import Withheld
from shared.domain.identity import node_id_for
from shared.domain.reasons import EXPLANATIONS, GRANTED
from shared.errors import Conflict, Fault, NotAuthenticated, NotFound, NotPermitted, Unavailable, UneventfulError
from shared.fleet.node_tokens import NodeTokenCheck, bearer_of, derive_node_token, node_token_hash
from shared.ids import IdSource
from shared.observability.metrics import METRICS
from shared.web import json_response, problem_response, read_json

DIALECT: Final = "native"
MAX_BODY_BYTES: Final = 32_768
MAX_CHANGESETS: Final = 64
"""Changesets whose manifests and files are remembered; they never change once they are offered."""
AWAY_RETRY_AFTER_S: Final = 30.0

POOL: Final[web.AppKey[asyncpg.Pool[Any]]] = web.AppKey("POOL", asyncpg.Pool)
NODE_TOKENS: Final = web.AppKey("NODE_TOKENS", NodeTokenCheck)
TOKENS_REQUIRED: Final = web.AppKey("TOKENS_REQUIRED", bool)
DISTRIBUTION_URL: Final = web.AppKey("DISTRIBUTION_URL", str)
IDS: Final[web.AppKey[IdSource]] = web.AppKey("IDS", IdSource)

REQUESTS = METRICS.counter("uneventful_native_requests", "Requests of native agents, by outcome.", ("outcome",))

_log = structlog.get_logger()


class DetailsBook:
    """Manifests and files of changesets, read once each.

    Args:
        pool: Where to read.
    """

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._known: OrderedDict[uuid.UUID, Details] = OrderedDict()

    async def of(self, changeset_id: uuid.UUID) -> Details:
        """Of a changeset that is published."""
        known = self._known.get(changeset_id)
        if known is None:
            known = self._known[changeset_id] = await read_details(self._pool, changeset_id)
            if len(self._known) > MAX_CHANGESETS:
                self._known.popitem(last=False)
        return known


DETAILS: Final = web.AppKey("DETAILS", DetailsBook)


async def check(http: web.Request) -> web.Response:
    """``POST /v1/check``: what a node is to do now, and whether the attempt that it tells of may go on."""
    return await _answered(http, _check)


async def enrol_node(http: web.Request) -> web.Response:
    """``POST /v1/enrol``: a token of its own for a machine that shows an enrolment token."""
    return await _answered(http, _enrol)


async def _answered(http: web.Request, work: Callable[[web.Request], Awaitable[web.Response]]) -> web.Response:
    try:
        answer = await work(http)
    except UneventfulError as error:
        refusal = error
    except Exception as error:  # noqa: BLE001  # answered and logged
        if postgres_is_away(error):
            _log.warning("native.postgres_away", error=type(error).__name__)
            refusal = Unavailable("Postgres does not answer; ask again later", retry_after_s=AWAY_RETRY_AFTER_S)
        else:
            _log.exception("native.fault", peer=http.remote)
            refusal = Fault("something went wrong here; the service's log has the details")
    else:
        REQUESTS.add(1, ("answered",))
        return answer
    REQUESTS.add(1, (refusal.code,))
    http.app[WATCH].rejected(DIALECT, refusal.code, address=address_of(http), detail=refusal.message)
    return problem_response(refusal)


async def _check(http: web.Request) -> web.Response:
    parts = http.app
    token = await parts[NODE_TOKENS].node_of(http.headers, required=parts[TOKENS_REQUIRED])
    asked = await read_json(http, Check, max_bytes=MAX_BODY_BYTES)
    application = _application(http, asked.application)
    if token is not None and (token.application_id, token.machine_id) != (
        application.application_id,
        asked.machine_id,
    ):
        raise NotPermitted("the token belongs to another node")
    poll = native.poll_of(
        asked,
        application,
        group_id=None if token is None else token.group_id,
        at=parts[CLOCK].now(),
        address=address_of(http),
        traceparent=traceparent_of(http),
        imported=parts[KEEPER].standings.imported_of(application.application_id, asked.machine_id),
    )
    outcome = await parts[CHECKS].check(poll)
    recall = None
    if asked.attempt is not None:
        # The database is asked: this process may not have heard yet of what was stopped.
        node_id = node_id_for(*poll.key)
        standing = await read_attempt(parts[POOL], asked.attempt.token, node_id)
        recall = native.recall_of(standing)
        if recall is not None and standing is not None and standing.state not in CLOSED_STATES:
            await recall_told(parts[POOL], asked.attempt.token, node_id, recall)
    reason = outcome.reason if isinstance(outcome, Withheld) else GRANTED
    return json_response(
        CheckAnswer(
            decision=CheckDecision.UPDATE if isinstance(outcome, Granted) else CheckDecision.NONE,
            reason=str(reason),
            words=EXPLANATIONS[reason],
            update=await _update(http, outcome) if isinstance(outcome, Granted) else None,
            recall=recall is not None,
            recall_reason=recall,
            poll_interval_s=DEFAULT_POLL_INTERVAL_S if poll.group is None else poll.group.poll_interval_s,
            poll_jitter=native.POLL_JITTER,
            server_time=parts[CLOCK].now(),
        )
    )


async def _update(http: web.Request, granted: Granted) -> Update:
    rollout = granted.rollout
    details = await http.app[DETAILS].of(rollout.changeset_id)
    return Update(
        attempt=granted.token,
        changeset_id=rollout.changeset_id,
        version=rollout.version,
        deadline_s=rollout.silence_s,
        probation_s=rollout.probation_s,
        download_rate=rollout.download_rate,
        manifest=details.manifest,
        signatures=details.signatures,
        payloads=native.with_urls(details.payloads, http.app[DISTRIBUTION_URL], granted.token),
    )


async def _enrol(http: web.Request) -> web.Response:
    parts = http.app
    shown = bearer_of(http.headers)
    if shown is None:
        raise NotAuthenticated("send the enrolment token as `Authorization: Bearer <token>`")
    asked = await read_json(http, Enrol, max_bytes=MAX_BODY_BYTES)
    application = _application(http, asked.application)
    token = derive_node_token(shown, application.application_id, asked.machine_id, asked.nonce)
    enrolment = await enrol(
        parts[POOL],
        application_id=application.application_id,
        enrolment_sha256=node_token_hash(shown),
        machine_id=asked.machine_id,
        token_id=parts[IDS].uuid7(),
        token_sha256=node_token_hash(token),
        address=address_of(http),
        event_id=parts[IDS].uuid7(),
    )
    if enrolment.status == "refused":
        raise NotAuthenticated("this is no enrolment token of this application that is in force")
    if enrolment.status == "taken":
        raise Conflict(
            f"the machine {asked.machine_id!r} has a token already; an operator revokes it with "
            "`uneventful node token revoke`, then it may enrol again"
        )
    return json_response(
        Enrolled(token=token, group=enrolment.group_name), status=201 if enrolment.status == "enrolled" else 200
    )


def _application(http: web.Request, reference: str) -> ApplicationView:
    found = http.app[KEEPER].configuration.application(reference)
    if found is None:
        raise NotFound(f"there is no application {reference!r}")
    return found


def add_native_routes(app: web.Application) -> None:
    """Serve native agents."""
    app.router.add_post("/v1/check", check)
    app.router.add_post("/v1/enrol", enrol_node)
