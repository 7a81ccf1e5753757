"""The keys that changesets are signed with."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, Scope, by, get, key_id, post, query
from shared.web import Role, json_response, read_json


async def list_keys(request: web.Request) -> web.Response:
    """GET /keys."""
    return json_response({"items": await request.app[STORE].keys.listing(), "next": None})


async def list_key_lists(request: web.Request) -> web.Response:
    """GET /keys/lists."""
    asked = query(request, requests.KeyListsQuery)
    return json_response({"items": await request.app[STORE].keys.lists(asked.after, asked.limit), "next": None})


async def make_key(request: web.Request) -> web.Response:
    """POST /keys."""
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].keys.make(reason=asked.reason, by=by(request)), status=201)


async def rotate_keys(request: web.Request) -> web.Response:
    """POST /keys/rotate."""
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].keys.rotate(reason=asked.reason, by=by(request)))


async def retire_key(request: web.Request) -> web.Response:
    """POST /keys/{key}/retire."""
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].keys.retire(key_id(request), reason=asked.reason, by=by(request)))


ROUTES: Final = (
    get("/keys", list_keys, "[SigningKey]", "All keys that ever were, the oldest first.", scope=Scope.ANYBODY),
    get(
        "/keys/lists",
        list_key_lists,
        "[KeyList]",
        "The lists of keys after a version, in order, each signed by a key of the one before it.",
        requests.KeyListsQuery,
        scope=Scope.ANYBODY,
    ),
    post(
        "/keys",
        make_key,
        "KeyList",
        "Make a key beside those in force.",
        requests.Because,
        created=True,
        role=Role.ADMIN,
    ),
    post(
        "/keys/rotate",
        rotate_keys,
        "KeyList",
        "Make a key and retire all others.",
        requests.Because,
        role=Role.ADMIN,
    ),
    post(
        "/keys/{key}/retire",
        retire_key,
        "KeyList",
        "Take a key out of the list.",
        requests.Because,
        role=Role.ADMIN,
    ),
)
