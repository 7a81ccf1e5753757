"""Node tokens and floods."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, by, get, page, path_id, post, query
from shared.web import Role, json_response, read_json


async def add_node_token(request: web.Request) -> web.Response:
    """POST /node-tokens."""
    asked = await read_json(request, requests.NewNodeToken)
    return json_response(await request.app[STORE].node_tokens.add(asked, by=by(request)), status=201)


async def list_node_tokens(request: web.Request) -> web.Response:
    """GET /node-tokens."""
    asked = query(request, requests.NodeTokensQuery)
    return page(await request.app[STORE].node_tokens.listing(asked), asked.limit, "token_id")


async def show_node_token(request: web.Request) -> web.Response:
    """GET /node-tokens/{id}."""
    return json_response(await request.app[STORE].node_tokens.get(path_id(request, "node token")))


async def revoke_node_token(request: web.Request) -> web.Response:
    """POST /node-tokens/{id}/revoke."""
    token_id = path_id(request, "node token")
    await read_json(request, requests.Because)
    return json_response(await request.app[STORE].node_tokens.revoke(token_id))


async def list_floods(request: web.Request) -> web.Response:
    """GET /floods."""
    asked = query(request, requests.FloodsQuery)
    return json_response({"items": await request.app[STORE].node_tokens.floods(asked), "next": None})


ROUTES: Final = (
    get(
        "/node-tokens",
        list_node_tokens,
        "[NodeToken]",
        "What nodes prove themselves with; never the secrets.",
        requests.NodeTokensQuery,
    ),
    post(
        "/node-tokens",
        add_node_token,
        "NewNodeTokenShown",
        "Make an enrolment token of a group, or a path secret; it is shown this once.",
        requests.NewNodeToken,
        created=True,
        role=Role.ADMIN,
        secret=True,
    ),
    get("/node-tokens/{id}", show_node_token, "NodeToken", "One node token, without its secret."),
    post(
        "/node-tokens/{id}/revoke",
        revoke_node_token,
        "NodeToken",
        "Take a node token out of force; services take it for ten seconds more at most.",
        requests.Because,
        role=Role.ADMIN,
    ),
    get(
        "/floods",
        list_floods,
        "[Flood]",
        "From where more reports came than are taken, the newest first; the rest was dropped.",
        requests.FloodsQuery,
    ),
)
