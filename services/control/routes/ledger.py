"""The ledger."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from aiohttp import hdrs, web

from services.control import requests
from services.control.routes.route import SETTINGS, STORE, get, query
from shared.errors import InvalidInput, Unavailable
from shared.events import CONTENT_TYPE
from shared.ledger import LedgerEntry
from shared.web import json_response

NDJSON: Final = "application/x-ndjson"


async def list_events(request: web.Request) -> web.Response:
    """GET /events: a page as JSON, or one event per line with ``Accept: application/x-ndjson``."""
    asked = query(request, requests.EventsQuery)
    entries = await request.app[STORE].ledger.events(asked)
    if NDJSON in request.headers.get(hdrs.ACCEPT, ""):
        body = b"".join(entry.raw + b"\n" for entry in entries)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: NDJSON})
    following = entries[-1].seq if len(entries) == asked.limit else None
    return json_response({"items": [msgspec.Raw(entry.raw) for entry in entries], "next": following})


async def show_event(request: web.Request) -> web.Response:
    """GET /events/{seq}: the canonical bytes that the hash chain covers."""
    text = request.match_info["seq"]
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidInput(f"{text[:64]!r} is no seq: use a number from 1 on")
    entry: LedgerEntry = await request.app[STORE].ledger.event(int(text))
    return web.Response(body=entry.raw, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE, "Uneventful-Hash": entry.hash.hex()})


async def show_ledger(request: web.Request) -> web.Response:
    """GET /ledger: where the ledger ends."""
    seq, digest, recorded_at = await request.app[STORE].ledger.head()
    return json_response({"seq": seq, "hash": digest.hex(), "recorded_at": recorded_at})


async def verify_ledger(request: web.Request) -> web.Response:
    """GET /ledger/verify."""
    asked = query(request, requests.VerifyQuery)
    seconds = request.app[SETTINGS].verify_seconds
    try:
        async with asyncio.timeout(seconds):
            found = await request.app[STORE].ledger.verify(asked.after)
    except TimeoutError as fault:
        raise Unavailable(
            f"verifying took more than {seconds:g} s: begin later in the ledger, with `after`, or verify on the server",
        ) from fault
    return json_response(
        {
            "ok": found.ok,
            "checked": found.checked,
            "last_seq": found.last_seq,
            "last_hash": found.last_hash.hex(),
            "broken_at": found.broken_at,
            "reason": found.reason,
        }
    )


ROUTES: Final = (
    get(
        "/events",
        list_events,
        "Events",
        "Ledger events by seq, as a page or, with Accept: application/x-ndjson, one per line.",
        requests.EventsQuery,
    ),
    get("/events/{seq}", show_event, "Event", "The event at a place of the ledger, as the hash chain covers it."),
    get("/ledger", show_ledger, "LedgerHead", "Where the ledger ends."),
    get("/ledger/verify", verify_ledger, "Verification", "Verify the hash chain.", requests.VerifyQuery),
)
