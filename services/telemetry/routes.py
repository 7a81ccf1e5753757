"""HTTP in and out. The application is bare: this handler answers its own errors and counts, and no more is run."""

from __future__ import annotations

from typing import Final

import structlog
from aiohttp import hdrs, web

from services.telemetry.application_watch import APPLICATIONS
from services.telemetry.wire import ReportError, decode, observe, render
from shared.clock import Clock
from shared.db.pool import is_transient
from shared.errors import Fault, Unavailable, UneventfulError, UnsupportedType
from shared.fleet import FleetReporter, OutcomeStatus
from shared.fleet.node_tokens import NodeTokenCheck
from shared.observability import counter
from shared.observability.traces import parse_traceparent
from shared.web import problem_response, read_body

REPORTER: Final = web.AppKey("REPORTER", FleetReporter)
NODE_TOKENS: Final = web.AppKey("NODE_TOKENS", NodeTokenCheck)
AWAY_RETRY_AFTER_S: Final = 2.0
WARN_EVERY_S: Final = 5.0

_JSON: Final = {"Content-Type": "application/json"}

_log = structlog.get_logger()
_REPORTS: Final = counter("uneventful_telemetry_reports", "Reports that came, by what became of them.", ("outcome",))
_REFUSED: Final = counter("uneventful_telemetry_refused", "Requests of which nothing was taken, by code.", ("code",))


class ReportRoutes:
    """The routes under /v1.

    Args:
        clock: Tells what is in the future.
        trust_forwarded_for: Whether a proxy in front sets X-Forwarded-For.
        require_node_tokens: Whether reports are taken only with a node's token.
    """

    def __init__(self, clock: Clock, *, trust_forwarded_for: bool, require_node_tokens: bool) -> None:
        self._clock = clock
        self._require_node_tokens = require_node_tokens
        self._trust_forwarded_for = trust_forwarded_for
        self._warned_at = float("-inf")

    def table(self) -> list[web.RouteDef]:
        """The routes, as openapi.yaml has them."""
        return [web.post("/v1/reports", self.reports)]

    async def reports(self, request: web.Request) -> web.Response:
        """POST of reports: 202 once they are committed."""
        try:
            return await self._take(request)
        except UneventfulError as error:
            refusal = error
        except Exception as error:  # noqa: BLE001  # answered and logged
            if is_transient(error):
                self._warn(error)
                refusal = Unavailable(
                    "the reports could not be written; send them again with the same event ids",
                    retry_after_s=AWAY_RETRY_AFTER_S,
                )
            else:
                _log.exception("reports.fault", peer=request.remote)
                refusal = Fault("something went wrong here; the service's log has the details")
        _REFUSED.add(1, (refusal.code,))
        return problem_response(refusal)

    async def _take(self, request: web.Request) -> web.Response:
        headers = request.headers
        media_type = headers.get(hdrs.CONTENT_TYPE)
        if media_type is not None and not media_type.startswith("application/json"):
            raise UnsupportedType(f"send the body as application/json, not {media_type[:100]!r}")
        token = await request.app[NODE_TOKENS].node_of(headers, required=self._require_node_tokens)
        body = decode(await read_body(request))
        traceparent = headers.get("traceparent")
        if traceparent is not None and parse_traceparent(traceparent) is None:
            traceparent = None
        applications = request.app[APPLICATIONS]
        now, address = self._clock.now(), self._address(request)
        find = applications.find
        if any(find(report.application) is None for _, report in body.reports):
            # It may have been made a moment ago, and an agent does not come again with what was refused.
            await applications.look_again()
            find = applications.find
        observations, errors = observe(
            body,
            application_id_of=find,
            now=now,
            address=address,
            traceparent=traceparent,
            only=None if token is None else (token.application_id, token.machine_id or ""),
        )
        duplicates = refused = 0
        if observations:
            wrong = {error.index for error in errors}
            taken = (index for index, _ in body.reports if index not in wrong)
            for index, outcome in zip(taken, await request.app[REPORTER].submit_many(observations), strict=False):
                if outcome.status is OutcomeStatus.DUPLICATE:
                    duplicates += 1
                elif outcome.status is OutcomeStatus.REFUSED:
                    refused += 1
                    errors.append(ReportError(index, "invalid_input", "a value of it cannot be stored; leave it out"))
        accepted = len(observations) - duplicates - refused
        _REPORTS.add(accepted, ("accepted",))
        if duplicates:
            _REPORTS.add(duplicates, ("duplicate",))
        for error in errors:
            _REPORTS.add(1, (error.code,))
        return web.Response(status=202, body=render(accepted, duplicates, errors), headers=_JSON)

    def _warn(self, error: Exception) -> None:
        """Log an outage now and then: thousands of requests may meet it."""
        now = self._clock.monotonic()
        if now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            _log.warning("reports.unavailable", cause=type(error).__name__, error=str(error))

    def _address(self, request: web.Request) -> str | None:
        if self._trust_forwarded_for:
            # The last one is what our own proxy saw.
            forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
            if 0 < len(forwarded) <= 64:
                return forwarded
        return request.remote
