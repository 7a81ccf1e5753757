"""Errors as RFC 9457 problems: ``application/problem+json`` with a bounded ``code`` beside the standard members."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

import orjson
import structlog
from aiohttp import web

from shared.db.pool import is_transient
from shared.errors import (
    Conflict,
    Fault,
    Gone,
    InvalidInput,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    PreconditionFailed,
    RangeUnsatisfiable,
    TooLarge,
    TooMany,
    TooSlow,
    Unavailable,
    UneventfulError,
    Unprocessable,
    UnsupportedType,
)
from shared.observability.metrics import counter

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:uneventful:problem:"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = structlog.get_logger()
_PROBLEMS: Final = counter("uneventful_http_problems", "Requests answered with a problem, by its code.", ("code",))

_BY_STATUS: Final[Mapping[int, type[UneventfulError]]] = {
    kind.status: kind
    for kind in (
        InvalidInput,
        NotAuthenticated,
        NotPermitted,
        NotFound,
        MethodNotAllowed,
        TooSlow,
        Conflict,
        Gone,
        PreconditionFailed,
        Unprocessable,
        TooLarge,
        UnsupportedType,
        RangeUnsatisfiable,
        TooMany,
        Unavailable,
    )
}
# These describe the body that is being replaced.
_BODY_HEADERS: Final = frozenset({"content-type", "content-length", "content-encoding"})


def problem_body(error: UneventfulError) -> bytes:
    """The JSON of a problem; ``details`` become members of it, beside the standard ones, which they cannot replace."""
    return orjson.dumps(
        {
            **error.details,
            "type": TYPE_PREFIX + error.code,
            "title": error.title,
            "status": error.status,
            "detail": error.message,
            "code": error.code,
        },
        default=str,
    )


def problem_response(error: UneventfulError) -> web.Response:
    """The response for an error, with ``Retry-After`` and ``WWW-Authenticate`` where they belong."""
    _PROBLEMS.add(1, (error.code,))
    headers = {"Content-Type": CONTENT_TYPE}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(status=error.status, body=problem_body(error), headers=headers)


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers every error with a problem; what is not of our own tree is logged and shown as a fault, no more."""
    try:
        return await handler(request)
    except UneventfulError as error:
        response = _own(request, error)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        response = _framework(request, error)
    except Exception as error:
        if request.transport is None or request.transport.is_closing():
            raise  # the peer has gone: nobody to answer, and no fault of ours
        response = _foreign(request, error)
        if request.writer.output_size > 0:
            raise  # half an answer is out already; the connection is closed instead
    return response


def _own(request: web.Request, error: UneventfulError) -> web.Response:
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Unavailable):
        _log.error("request.fault", method=request.method, path=request.path, peer=request.remote, exc_info=error)
        if isinstance(error, Fault):
            return problem_response(_hidden())
    return problem_response(error)


def _framework(request: web.Request, error: web.HTTPException) -> web.Response:
    kind = _BY_STATUS.get(error.status, InvalidInput if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else Fault)
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.method} is not for {request.path}; use {allowed}"
    elif isinstance(error, web.HTTPNotFound):
        message = f"there is nothing at {request.path}"
    else:
        message = error.reason
    response = problem_response(kind(message))
    response.headers.extend((name, value) for name, value in error.headers.items() if name.lower() not in _BODY_HEADERS)
    return response


def _foreign(request: web.Request, error: Exception) -> web.Response:
    if isinstance(error, web.RequestPayloadError):
        return problem_response(InvalidInput("the body ended early or is not well-formed HTTP"))
    where = {"method": request.method, "path": request.path, "peer": request.remote}
    if is_transient(error):
        _log.warning("request.unavailable", **where, cause=type(error).__name__, exc_info=error)
        return problem_response(Unavailable("a part that is needed does not answer; try again", retry_after_s=2.0))
    _log.error("request.fault", **where, exc_info=error)
    return problem_response(_hidden())


def _hidden() -> Fault:
    return Fault("something went wrong here; the service's log has the details")
