"""Nodes, and what is quarantined on them."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, by, get, page, path_id, post, query
from shared.web import json_response, read_json

IMPORT_BYTES: Final = 4 * 1024 * 1024


async def list_nodes(request: web.Request) -> web.Response:
    """GET /nodes."""
    asked = query(request, requests.NodesQuery)
    return page(await request.app[STORE].nodes.listing(asked), asked.limit, "node_id", sort=asked.sort)


async def show_node(request: web.Request) -> web.Response:
    """GET /nodes/{id}."""
    return json_response(await request.app[STORE].nodes.get(path_id(request, "node")))


async def show_history(request: web.Request) -> web.Response:
    """GET /nodes/{id}/history."""
    asked = query(request, requests.NodeHistoryQuery)
    items = await request.app[STORE].nodes.history(path_id(request, "node"), asked)
    following = str(items[-1]["seq"]) if len(items) == asked.limit else None
    return json_response({"items": items, "next": following})


async def explain_node(request: web.Request) -> web.Response:
    """GET /nodes/{id}/why."""
    return json_response(await request.app[STORE].nodes.why(path_id(request, "node")))


async def list_staged_but_halted(request: web.Request) -> web.Response:
    """GET /nodes/staged-but-halted."""
    items = await request.app[STORE].nodes.staged_but_halted(query(request, requests.StagedButHaltedQuery))
    return json_response({"items": items, "next": None})


async def lift_quarantine(request: web.Request) -> web.Response:
    """POST /nodes/{id}/quarantine/lift."""
    node_id = path_id(request, "node")
    asked = await read_json(request, requests.Lift)
    return json_response(
        await request.app[STORE].nodes.lift_quarantine(node_id, asked.changeset, reason=asked.reason, by=by(request))
    )


async def node_gone(request: web.Request) -> web.Response:
    """POST /nodes/{id}/gone."""
    node_id = path_id(request, "node")
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].nodes.gone(node_id, reason=asked.reason, by=by(request)))


async def nodes_gone(request: web.Request) -> web.Response:
    """POST /nodes/gone."""
    asked = await read_json(request, requests.NodesGone)
    return json_response(await request.app[STORE].nodes.gone_many(asked, by=by(request)))


async def forget_node(request: web.Request) -> web.Response:
    """POST /nodes/{id}/forget."""
    node_id = path_id(request, "node")
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].nodes.forget(node_id, reason=asked.reason, by=by(request)))


async def name_node(request: web.Request) -> web.Response:
    """POST /nodes/{id}/alias."""
    node_id = path_id(request, "node")
    asked = await read_json(request, requests.NodeName)
    return json_response(await request.app[STORE].nodes.name(node_id, asked, by=by(request)))


async def import_nodes(request: web.Request) -> web.Response:
    """POST /nodes/import."""
    asked = await read_json(request, requests.NodesImport, max_bytes=IMPORT_BYTES)
    return json_response(await request.app[STORE].nodes.import_facts(asked, by=by(request)))


async def list_quarantines(request: web.Request) -> web.Response:
    """GET /quarantines."""
    asked = query(request, requests.QuarantinesQuery)
    return page(await request.app[STORE].quarantines.listing(asked), asked.limit, "changeset_id")


async def lift_quarantines(request: web.Request) -> web.Response:
    """POST /quarantines/lift."""
    asked = await read_json(request, requests.QuarantinesLift)
    return json_response(await request.app[STORE].quarantines.lift(asked, by=by(request)))


ROUTES: Final = (
    get("/nodes", list_nodes, "[NodeListed]", "Nodes, filtered and sorted.", requests.NodesQuery),
    get(
        "/nodes/staged-but-halted",
        list_staged_but_halted,
        "[StagedButHalted]",
        "How many nodes will boot a release at their next reboot that is not offered any more, by changeset.",
        requests.StagedButHaltedQuery,
    ),
    post(
        "/nodes/gone",
        nodes_gone,
        "GoneResult",
        "Many machines were taken away on purpose: what they had open counts neither way.",
        requests.NodesGone,
    ),
    post(
        "/nodes/import",
        import_nodes,
        "ImportResult",
        "Say facts and names of many machines; what they tell themselves goes before.",
        requests.NodesImport,
        max_body_bytes=IMPORT_BYTES,
    ),
    get("/nodes/{id}", show_node, "Node", "One node with its facts, attempts and quarantines."),
    get(
        "/nodes/{id}/history",
        show_history,
        "[NodeEvent]",
        "What the ledger has of a node, the newest first: attempts, reboots, versions.",
        requests.NodeHistoryQuery,
    ),
    get("/nodes/{id}/why", explain_node, "NodeWhy", "Why a node did not get an update, in words."),
    post(
        "/nodes/{id}/quarantine/lift",
        lift_quarantine,
        "Node",
        "Let a changeset be offered to a node again.",
        requests.Lift,
    ),
    post(
        "/nodes/{id}/gone",
        node_gone,
        "Node",
        "A node was taken away on purpose: what it had open counts neither way.",
        requests.Because,
    ),
    post(
        "/nodes/{id}/forget",
        forget_node,
        "Forgotten",
        "Strike a node from the fleet; its attempts stay in the evidence.",
        requests.Because,
    ),
    post("/nodes/{id}/alias", name_node, "Node", "Give a node the name that people use.", requests.NodeName),
    get(
        "/quarantines",
        list_quarantines,
        "[QuarantineListed]",
        "Quarantines of the whole fleet, by changeset and reason.",
        requests.QuarantinesQuery,
    ),
    post(
        "/quarantines/lift",
        lift_quarantines,
        "LiftResult",
        "Let a changeset be offered again to the machines on which it failed.",
        requests.QuarantinesLift,
    ),
)
