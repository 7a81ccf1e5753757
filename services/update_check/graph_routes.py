"""HTTP in and out: Cincinnati's graph. Errors have Cincinnati's own shape, ``{"kind", "value"}``."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import structlog
from aiohttp import hdrs, web

from services.update_check import cincinnati
from services.update_check.checks import Granted
from services.update_check.cincinnati import Catalogue
from services.update_check.dialect_store import read_releases
from services.update_check.keeper import postgres_is_away
from services.update_check.path_secrets import check_machine
from services.update_check.poll import without_asking
from services.update_check.routes import CHECKS, CLOCK, KEEPER, WATCH, address_of, secret_of, traceparent_of
from shared.clock import Clock
from shared.errors import Fault, InvalidInput, NotAcceptable, NotFound, Unavailable, UneventfulError
from shared.observability.metrics import METRICS
from shared.web import json_response

DIALECT: Final = "cincinnati"
MAX_KINDS: Final = 256
"""Applications and archs whose releases are remembered."""
REMEMBER_S: Final = 30.0
"""For how long, while the policy version is the same; each promotion raises it."""
_TYPES: Final = frozenset({"*/*", "application/*", "application/json", "application/vnd.redhat.cincinnati.v1+json"})

REQUESTS = METRICS.counter("uneventful_cincinnati_requests", "Cincinnati requests, by outcome.", ("outcome",))

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Known:
    policy_version: int
    until: float
    catalogue: Catalogue


class ReleaseBook:
    """The releases of each application and arch, read again when the policy version changes.

    Args:
        pool: Where to read.
        clock: Measures how old they are.
    """

    def __init__(self, pool: asyncpg.Pool[Any], clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._known: OrderedDict[tuple[uuid.UUID, str], _Known] = OrderedDict()
        self._reading = asyncio.Lock()

    async def catalogue(self, application_id: uuid.UUID, arch: str, policy_version: int) -> Catalogue:
        """What is published; while Postgres is away what was known before, if anything.

        Raises:
            Unavailable: Postgres is away, and nothing is known.
        """
        key = (application_id, arch)
        found = self._fresh(key, policy_version)
        if found is not None:
            return found
        async with self._reading:
            found = self._fresh(key, policy_version)
            if found is not None:
                return found
            try:
                found = Catalogue(await read_releases(self._pool, application_id, arch))
            except Exception as error:
                if not postgres_is_away(error):
                    raise
                if key not in self._known:
                    raise Unavailable("the releases cannot be read now", retry_after_s=60) from error
                return self._known[key].catalogue
            self._known[key] = _Known(policy_version, self._clock.monotonic() + REMEMBER_S, found)
            self._known.move_to_end(key)
            if len(self._known) > MAX_KINDS:
                self._known.popitem(last=False)
            return found

    def _fresh(self, key: tuple[uuid.UUID, str], policy_version: int) -> Catalogue | None:
        known = self._known.get(key)
        if known is None or known.policy_version != policy_version or self._clock.monotonic() >= known.until:
            return None
        return known.catalogue


_NOTHING: Final = Catalogue(())

RELEASES: Final = web.AppKey("RELEASES", ReleaseBook)
APPLICATION: Final = web.AppKey("CINCINNATI_APPLICATION", str)


async def graph(http: web.Request) -> web.Response:
    """``GET /v1/graph``: the releases, and the one edge that was granted to the node that asks."""
    try:
        answer = await _graph(http)
    except UneventfulError as error:
        refusal = error
    except Exception:  # noqa: BLE001  # answered and logged
        _log.exception("cincinnati.fault", peer=http.remote)
        refusal = Fault("something went wrong here; the service's log has the details")
    else:
        REQUESTS.add(1, ("answered",))
        return answer
    REQUESTS.add(1, (refusal.code,))
    http.app[WATCH].rejected(
        DIALECT,
        refusal.code,
        address=address_of(http),
        application=http.match_info.get("application"),
        machine_id=http.query.get("node_uuid"),
        version=http.query.get("os_version"),
        detail=refusal.message,
    )
    headers = {"Cache-Control": "no-store"}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = f"{refusal.retry_after_s:.0f}"
    return json_response({"kind": refusal.code, "value": refusal.message}, status=refusal.status, headers=headers)


async def _graph(http: web.Request) -> web.Response:
    content_type = _content_type(http)
    secret = secret_of(http)
    query = cincinnati.query_of(_single(http))
    parts = http.app
    configuration = parts[KEEPER].configuration
    name = http.match_info.get("application", parts[APPLICATION])
    application = configuration.application(name)
    if application is None:
        raise NotFound(f"there is no application {name[:64]!r}")
    if secret is not None:
        check_machine(secret, application.application_id, query.node_uuid)
    now = parts[CLOCK].now()
    poll = cincinnati.poll_of(
        query,
        application,
        at=now,
        address=address_of(http),
        traceparent=traceparent_of(http),
        imported=parts[KEEPER].standings.imported_of(application.application_id, query.node_uuid),
    )
    # An arch that nothing is rolled out to is not looked up: anybody can make such names up.
    catalogue = _NOTHING
    if any(query.arch in group.rollouts for group in application.groups):
        catalogue = await parts[RELEASES].catalogue(
            application.application_id, query.arch, configuration.policy_version
        )
    if not cincinnati.may_take(query, poll, catalogue.releases):
        poll = without_asking(poll)
    outcome = await parts[CHECKS].check(poll)
    target = outcome.rollout.version if isinstance(outcome, Granted) else None
    drawn = catalogue.draw(configuration, poll, query, target=target, now_s=now.timestamp())
    # The answer is this node's alone: a cache that gave it to another one would give away a grant.
    headers = {"Cache-Control": "no-store", "Vary": "Accept", "Content-Type": content_type}
    return web.Response(body=drawn, headers=headers)


def _content_type(http: web.Request) -> str:
    accepted = http.headers.get(hdrs.ACCEPT, "*/*")
    types = {part.partition(";")[0].strip().lower() for part in accepted.split(",")}
    if not types & _TYPES:
        raise NotAcceptable("the graph is application/json")
    named = "application/vnd.redhat.cincinnati.v1+json"
    return named if named in types and "application/json" not in types else "application/json"


def _single(http: web.Request) -> dict[str, str]:
    twice = [name for name in set(http.query) if len(http.query.getall(name)) > 1]
    if twice:
        raise InvalidInput(f"{min(twice)[:64]} is given twice")
    return dict(http.query)


def add_graph_routes(app: web.Application) -> None:
    """Serve the graph of the default application, and of each by its name, with and without a secret behind it.

    zincati appends ``/v1/graph`` to its ``cincinnati.base_url``.
    """
    for base in ("", "/cincinnati/{application}", "/cincinnati/{application}/{secret}"):
        # Not HEAD: what asks for nothing must not be granted anything.
        app.router.add_get(base + "/v1/graph", graph, allow_head=False)
