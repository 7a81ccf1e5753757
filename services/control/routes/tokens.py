"""Operators' tokens."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, by, get, page, post, query
from services.control.tokens import Role, make_token, token_hash
from shared.errors import InvalidInput
from shared.web import json_response, read_json


async def list_tokens(request: web.Request) -> web.Response:
    """GET /tokens."""
    asked = query(request, requests.TokensQuery)
    return page(await request.app[STORE].tokens.listing(asked), asked.limit, "name")


async def create_token(request: web.Request) -> web.Response:
    """POST /tokens."""
    asked = await read_json(request, requests.NewToken)
    token = make_token()
    row = await request.app[STORE].tokens.add(
        asked.name,
        token_hash(token),
        asked.role,
        by=by(request),
        applications=asked.applications,
        expires_at=asked.expires_at,
    )
    return json_response({**row, "token": token}, status=201)


async def revoke_token(request: web.Request) -> web.Response:
    """POST /tokens/{name}/revoke."""
    name = _name(request)
    await read_json(request, requests.Because)
    return json_response(await request.app[STORE].tokens.revoke(name))


async def rotate_token(request: web.Request) -> web.Response:
    """POST /tokens/{name}/rotate."""
    name = _name(request)
    asked = await read_json(request, requests.Rotation)
    token = make_token()
    row = await request.app[STORE].tokens.rotate(name, token_hash(token), asked.expires_at)
    return json_response({**row, "token": token})


def _name(request: web.Request) -> str:
    try:
        return msgspec.convert(request.match_info["name"], requests.TokenReference)
    except msgspec.ValidationError as fault:
        raise InvalidInput(f"this is no name of a token: {fault}") from fault


ROUTES: Final = (
    get("/tokens", list_tokens, "[Token]", "Operators' tokens, by name.", requests.TokensQuery, role=Role.ADMIN),
    post(
        "/tokens",
        create_token,
        "TokenMade",
        "Make a token; its secret is in the answer, and nowhere else.",
        requests.NewToken,
        created=True,
        role=Role.ADMIN,
        secret=True,
    ),
    post(
        "/tokens/{name}/revoke",
        revoke_token,
        "Token",
        "Make a token worthless for good.",
        requests.Because,
        role=Role.ADMIN,
    ),
    post(
        "/tokens/{name}/rotate",
        rotate_token,
        "TokenMade",
        "Give a token another secret; the old one is worthless within seconds.",
        requests.Rotation,
        role=Role.ADMIN,
        secret=True,
    ),
)
