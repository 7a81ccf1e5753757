"""Making an application: its limits, its middlewares, and what runs beside its requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from shared.observability.metrics import counter, histogram
from shared.observability.traces import span
from shared.web.body import LIMITS, MAX_BODY_BYTES, REQUEST_TIMEOUT_S, Limits
from shared.web.health import HEALTH, Health
from shared.web.problems import Handler, problem_middleware

_log = structlog.get_logger()

_REQUESTS: Final = counter("uneventful_http_requests", "Requests answered.", ("method", "route", "status"))
_SECONDS: Final = histogram("uneventful_http_request_seconds", "Seconds from header to answer.", ("route",))
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Lifeline:
    """Through which something that the service cannot live without says that it has ended."""

    def __init__(self) -> None:
        self.cut = asyncio.Event()
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Stop the service; the first error counts."""
        if self.error is None:
            self.error = error
        self.cut.set()


LIFELINE: Final = web.AppKey("LIFELINE", Lifeline)


def new_app(
    *,
    name: str,
    max_body_bytes: int = MAX_BODY_BYTES,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
    middlewares: Sequence[Middleware] = (),
    bare: bool = False,
) -> web.Application:
    """Make a service's application, with `HEALTH` and `LIFELINE` in it.

    Args:
        name: The service's name.
        max_body_bytes: The largest body that is read.
        request_timeout_s: Seconds that a body may take to arrive.
        middlewares: The service's own; they run inside ours, so what they raise becomes a problem too.
        bare: Without our middlewares, for hot paths: handlers answer errors with `problem_response` themselves, and
            count and trace per batch.
    """
    ours: list[Middleware] = [] if bare else [observe_middleware, problem_middleware]
    app = web.Application(client_max_size=max_body_bytes, middlewares=[*ours, *middlewares])
    app[LIMITS] = Limits(max_body_bytes, request_timeout_s)
    app[HEALTH] = Health()
    app[LIFELINE] = Lifeline()
    app[NAME] = name
    return app


NAME: Final = web.AppKey("NAME", str)


@web.middleware
async def observe_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Counts and times requests by route, and makes the caller's trace current."""
    started = time.perf_counter()
    status = 500
    resource = request.match_info.route.resource
    route = "unknown" if resource is None else resource.canonical
    method = request.method if request.method in _METHODS else "other"
    try:
        with span(f"{method} {route}", request.headers.get("traceparent")):
            response = await handler(request)
        status = response.status
    except web.HTTPException as error:
        status = error.status
        raise
    else:
        return response
    finally:
        _REQUESTS.add(1, (method, route, str(status)))
        _SECONDS.observe(time.perf_counter() - started, (route,))


_CANCEL_AGAIN_S: Final = 3.0
"""Work that puts its things away has so long, and is told again then."""


def background(
    name: str, work: Callable[[web.Application], Coroutine[Any, Any, None]]
) -> Callable[[web.Application], AsyncIterator[None]]:
    """A context for ``app.cleanup_ctx``: runs ``work`` beside the requests, and cancels it when the app stops.

    Work that ends by itself, with or without an error, stops the whole service: a service whose mover or follower is
    dead must not look alive.

    Args:
        name: The task's name, for logs.
        work: Gets the application; runs until it is cancelled.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        lifeline = app[LIFELINE]

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                lifeline.fail(task.exception() or RuntimeError(f"{name} ended, though it should run for ever"))

        task = asyncio.create_task(work(app), name=name)
        task.add_done_callback(ended)
        yield
        task.remove_done_callback(ended)
        # More than once if need be: Python 3.11's wait_for swallows a cancellation that meets a result.
        while not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=_CANCEL_AGAIN_S)
        error = None if task.cancelled() else task.exception()
        if error is not None and lifeline.error is not error:
            _log.warning("background.failed_while_stopping", name=name, exc_info=error)

    return context
