"""Polls as they come in."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog
from aiohttp import hdrs, web

from services.control import requests
from services.control.routes.ledger import NDJSON
from services.control.routes.route import STORE, get, query
from shared.clock import SystemClock
from shared.db import is_transient

LOOK_EVERY_S: Final = 0.5

_log = structlog.get_logger()


async def stream_polls(request: web.Request) -> web.StreamResponse:
    """GET /polls/stream: one poll per line as JSON; an empty line where there was none for a moment."""
    asked = query(request, requests.PollStreamQuery)
    batches = request.app[STORE].polls.follow(asked, clock=SystemClock(), every_s=LOOK_EVERY_S, pause=asyncio.sleep)
    # The first look comes before the answer begins: what is wrong then is a problem like any other.
    first = await anext(batches)
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: NDJSON, hdrs.CACHE_CONTROL: "no-store"})
    await response.prepare(request)
    try:
        await response.write(_lines(first))
        async for polls in batches:
            await response.write(_lines(polls))
    except ConnectionError:
        # Who watched has gone.
        return response
    except Exception as error:
        if not is_transient(error):
            raise
        _log.warning("polls.postgres_away", cause=type(error).__name__)
    await response.write_eof()
    return response


def _lines(polls: list[dict[str, object]]) -> bytes:
    return b"".join(msgspec.json.encode(poll) + b"\n" for poll in polls) or b"\n"


ROUTES: Final = (
    get(
        "/polls/stream",
        stream_polls,
        "Polls",
        "What nodes ask and what they are answered, as it happens, the rejected ones too.",
        requests.PollStreamQuery,
    ),
)
