"""Nodes."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, by, get, page, path_id, post, query
from shared.web import json_response, read_json


async def list_nodes(request: web.Request) -> web.Response:
    """GET /nodes."""
    asked = query(request, requests.NodesQuery)
    return page(await request.app[STORE].nodes.listing(asked), asked.limit, "node_id")


async def show_node(request: web.Request) -> web.Response:
    """GET /nodes/{id}."""
    return json_response(await request.app[STORE].nodes.get(path_id(request, "node")))


async def lift_quarantine(request: web.Request) -> web.Response:
    """POST /nodes/{id}/quarantine/lift."""
    node_id = path_id(request, "node")
    asked = await read_json(request, requests.Lift)
    return json_response(
        await request.app[STORE].nodes.lift_quarantine(node_id, asked.changeset, reason=asked.reason, by=by(request))
    )


ROUTES: Final = (
    get("/nodes", list_nodes, "[NodeListed]", "Nodes.", requests.NodesQuery),
    get("/nodes/{id}", show_node, "Node", "One node with its facts, attempts and quarantines."),
    post(
        "/nodes/{id}/quarantine/lift",
        lift_quarantine,
        "Node",
        "Let a changeset be offered to a node again.",
        requests.Lift,
    ),
)
