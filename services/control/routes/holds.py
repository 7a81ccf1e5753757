"""Holds."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, by, get, made, page, path_id, post, query
from shared.web import json_response, read_json


async def add_hold(request: web.Request) -> web.Response:
    """POST /changesets/{id}/holds."""
    changeset_id = path_id(request, "changeset")
    asked = await read_json(request, requests.NewHold)
    return made(await request.app[STORE].holds.add(changeset_id, asked, by=by(request)))


async def list_holds(request: web.Request) -> web.Response:
    """GET /holds."""
    asked = query(request, requests.HoldsQuery)
    return page(await request.app[STORE].holds.listing(asked), asked.limit, "hold_id")


async def show_hold(request: web.Request) -> web.Response:
    """GET /holds/{id}."""
    return json_response(await request.app[STORE].holds.get(path_id(request, "hold")))


async def release_hold(request: web.Request) -> web.Response:
    """POST /holds/{id}/release."""
    hold_id = path_id(request, "hold")
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].holds.release(hold_id, reason=asked.reason, by=by(request)))


ROUTES: Final = (
    post(
        "/changesets/{id}/holds",
        add_hold,
        "Hold",
        "No more of a changeset for the nodes of a segment; those that do not tell one of its facts belong to it.",
        requests.NewHold,
        created=True,
    ),
    get("/holds", list_holds, "[HoldListed]", "Holds, the newest first.", requests.HoldsQuery),
    get("/holds/{id}", show_hold, "Hold", "One hold with how many nodes it covers."),
    post(
        "/holds/{id}/release",
        release_hold,
        "Hold",
        "Let the segment be offered the changeset again.",
        requests.Because,
        approvable=True,
    ),
)
