"""HTTP in and out: the Omaha endpoint. On the hot path, so it answers its own errors."""

from __future__ import annotations

import re

import structlog
from aiohttp import web

from services.update_check.checks import Checks, Granted
from services.update_check.keeper import SnapshotKeeper
from services.update_check.omaha import identifies_node, poll_of
from services.update_check.path_secrets import PathGuard, PathRefused, PathSecret, PathUnknown, check_machine
from services.update_check.watch import PollWatch, Rejection
from services.update_check.withheld import Withheld
from shared.clock import Clock
from shared.errors import UneventfulError
from shared.observability.metrics import METRICS
from shared.omaha.identity import normalise_app_id
from shared.omaha.request import App, OmahaMalformed, OmahaRefused, Request, parse_request
from shared.omaha.response import CONTENT_TYPE, acknowledged_app, document, no_update_app, unknown_app
from shared.web import problem_response, read_body
from shared.web.body import REQUEST_TIMEOUT_S

CHECKS = web.AppKey("CHECKS", Checks)
KEEPER = web.AppKey("KEEPER", SnapshotKeeper)
CLOCK = web.AppKey("CLOCK", Clock)
WATCH = web.AppKey("WATCH", PollWatch)
PATH_GUARD = web.AppKey("PATH_GUARD", PathGuard)
TRUST_FORWARDED_FOR = web.AppKey("TRUST_FORWARDED_FOR", bool)

DIALECT = "omaha"
DEFAULT_POLL_INTERVAL_S = 2_700
MAX_BODY_BYTES = 65_536
_MAX_ADDRESS = 64
_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
"""W3C Trace Context."""

REQUESTS = METRICS.counter("uneventful_omaha_requests", "Omaha requests, by outcome.", ("outcome",))
_ANSWERED = ("answered",)

_HEADERS = {"Content-Type": CONTENT_TYPE}

_log = structlog.get_logger()


async def update(http: web.Request) -> web.Response:
    """``POST /v1/update``: any number of ``<app>``s, each with events, ping and update check, handled in this order."""
    try:
        secret = secret_of(http)
        body = await read_body(http, max_bytes=MAX_BODY_BYTES, timeout_s=REQUEST_TIMEOUT_S)
        request = parse_request(body)
        if secret is not None:
            _check_secret(http, secret, request)
    except (OmahaMalformed, OmahaRefused, PathRefused, PathUnknown) as error:
        REQUESTS.add(1, (error.code,))
        peer = address_of(http)
        http.app[WATCH].rejected(DIALECT, error.code, address=peer, detail=error.message)
        _log.warning("omaha.rejected", peer=peer, code=error.code, detail=error.message)
        return problem_response(error)
    except UneventfulError as error:
        REQUESTS.add(1, (error.code,))
        return problem_response(error)
    try:
        answer = document(
            (await _answer(http, request, request.apps[0]),)
            if len(request.apps) == 1
            else [await _answer(http, request, app) for app in request.apps]
        )
    except UneventfulError as error:
        REQUESTS.add(1, (error.code,))
        return problem_response(error)
    REQUESTS.add(1, _ANSWERED)
    return web.Response(body=answer, headers=_HEADERS)


async def _answer(http: web.Request, request: Request, app: App) -> bytes:
    parts = http.app
    application = parts[KEEPER].configuration.by_omaha_id.get(normalise_app_id(app.appid))
    if application is None:
        peer = address_of(http)
        parts[WATCH].rejected(
            DIALECT,
            Rejection.UNKNOWN_APPLICATION.value,
            address=peer,
            application=app.appid,
            machine_id=app.machineid,
            version=app.version,
        )
        _log.info("omaha.unknown_application", peer=peer, appid=app.appid[:64])
        return unknown_app(app.appid, update_check=app.update_check, poll_interval=DEFAULT_POLL_INTERVAL_S)
    poll_interval = DEFAULT_POLL_INTERVAL_S
    outcome: Granted | Withheld | None = None
    if identifies_node(app):
        poll = poll_of(
            request,
            app,
            application,
            at=parts[CLOCK].now(),
            address=address_of(http),
            traceparent=traceparent_of(http),
            imported=parts[KEEPER].standings.imported_of(application.application_id, app.machineid),
        )
        outcome = await parts[CHECKS].check(poll)
        if poll.group is not None:
            poll_interval = poll.group.poll_interval_s
    else:
        # Without a machine id there is nothing to remember it by: no update, and nothing recorded.
        parts[WATCH].rejected(
            DIALECT,
            Rejection.UNIDENTIFIED.value,
            address=address_of(http),
            application=application.name,
            machine_id=app.machineid,
            version=app.version,
        )
    if isinstance(outcome, Granted):
        return outcome.rollout.answer.app(
            app.appid, outcome.token, ping=app.ping, events=len(app.events), poll_interval=poll_interval
        )
    if app.update_check:
        return no_update_app(app.appid, ping=app.ping, events=len(app.events), poll_interval=poll_interval)
    return acknowledged_app(app.appid, ping=app.ping, events=len(app.events))


def secret_of(http: web.Request) -> PathSecret | None:
    """The minted secret in the path; None where the path serves any node.

    Raises:
        PathUnknown: The path serves nobody.
        PathRefused: Its secret is not in force any more.
    """
    parts = http.app
    given = http.match_info.get("secret")
    if given is None:
        parts[PATH_GUARD].check_bare()
        return None
    return parts[PATH_GUARD].admit(given, parts[KEEPER].configuration.named.path_secrets, parts[CLOCK].now())


def _check_secret(http: web.Request, secret: PathSecret, request: Request) -> None:
    """Whether a minted secret serves all that a request is about: nothing of it is done otherwise."""
    by_omaha_id = http.app[KEEPER].configuration.by_omaha_id
    for app in request.apps:
        application = by_omaha_id.get(normalise_app_id(app.appid))
        check_machine(secret, application.application_id if application is not None else None, app.machineid)


def traceparent_of(http: web.Request) -> str | None:
    """The caller's trace, where it sends a well-formed one."""
    given = http.headers.get("traceparent")
    return given if given is not None and _TRACEPARENT.fullmatch(given) else None


def address_of(http: web.Request) -> str | None:
    """Where the request comes from."""
    if http.app[TRUST_FORWARDED_FOR]:
        forwarded = http.headers.get("X-Forwarded-For")
        if forwarded:
            # The last entry is our proxy's word; those before it are the client's.
            address = forwarded.rsplit(",", 1)[-1].strip()
            # Headers may hold bytes that are no text, and one such value would fail a whole batch of reports.
            if 0 < len(address) <= _MAX_ADDRESS and address.isascii():
                return address
    return http.remote


def add_routes(app: web.Application) -> None:
    """Serve the endpoint with and without a trailing slash, with and without a secret as its last part."""
    for path in ("/v1/update", "/v1/update/", "/v1/update/{secret}", "/v1/update/{secret}/"):
        app.router.add_post(path, update)
