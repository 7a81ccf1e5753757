"""Groups."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import API, STORE, Route, by, get, made, page, path_id, post, query
from shared.web import Role, json_response, read_json


async def add_group(request: web.Request) -> web.Response:
    """POST /groups."""
    return made(await request.app[STORE].groups.add(await read_json(request, requests.NewGroup), by=by(request)))


async def list_groups(request: web.Request) -> web.Response:
    """GET /groups."""
    asked = query(request, requests.GroupsQuery)
    return page(await request.app[STORE].groups.listing(asked), asked.limit, "group_id", sort=asked.sort)


async def show_group(request: web.Request) -> web.Response:
    """GET /groups/{id}."""
    return json_response(await request.app[STORE].groups.get(path_id(request, "group")))


async def change_group(request: web.Request) -> web.Response:
    """PATCH /groups/{id}; with ``dry_run`` it answers what that would move."""
    group_id = path_id(request, "group")
    patch = await read_json(request, requests.GroupPatch)
    return json_response(await request.app[STORE].groups.change(group_id, patch, by=by(request)))


async def preview_group(request: web.Request) -> web.Response:
    """POST /groups/{id}/preview."""
    group_id = path_id(request, "group")
    asked = await read_json(request, requests.Choosing)
    patch = requests.GroupPatch(**{name: getattr(asked, name) for name in asked.__struct_fields__})
    return json_response(await request.app[STORE].groups.preview(group_id, patch))


async def delete_group(request: web.Request) -> web.Response:
    """DELETE /groups/{id}."""
    group_id = path_id(request, "group")
    asked = await read_json(request, requests.GroupRemoval)
    return json_response(await request.app[STORE].groups.delete(group_id, reason=asked.reason, by=by(request)))


async def order_groups(request: web.Request) -> web.Response:
    """POST /groups/order."""
    asked = await read_json(request, requests.GroupOrder)
    return json_response(await request.app[STORE].groups.order(asked, by=by(request)))


async def list_named_nodes(request: web.Request) -> web.Response:
    """GET /groups/{id}/named-nodes."""
    asked = query(request, requests.NamedNodesQuery)
    return page(await request.app[STORE].groups.named(path_id(request, "group"), asked), asked.limit, "machine_id")


ROUTES: Final = (
    get("/groups", list_groups, "[GroupListed]", "Groups.", requests.GroupsQuery),
    post("/groups", add_group, "Group", "Add a group; its rollout starts at once.", requests.NewGroup, created=True),
    Route(
        method="POST",
        path=f"{API}/groups/order",
        handler=order_groups,
        answer="GroupPreview",
        summary="Have an application's groups tried in another order; answers what moves.",
        body=requests.GroupOrder,
    ),
    get("/groups/{id}", show_group, "Group", "One group with the policy of its next rollout, explained."),
    Route(
        method="PATCH",
        path=f"{API}/groups/{{id}}",
        handler=change_group,
        answer="GroupOrPreview",
        summary="Change a group; a rollout that runs keeps the policy that it was started with.",
        body=requests.GroupPatch,
    ),
    Route(
        method="DELETE",
        path=f"{API}/groups/{{id}}",
        handler=delete_group,
        answer="GroupPreview",
        summary="Delete a group that has no active rollout; answers where its nodes go.",
        body=requests.GroupRemoval,
    ),
    post(
        "/groups/{id}/preview",
        preview_group,
        "GroupPreview",
        "Which nodes another selector, position or other named nodes would move.",
        requests.Choosing,
        role=Role.VIEWER,
    ),
    get(
        "/groups/{id}/named-nodes",
        list_named_nodes,
        "[NamedNode]",
        "The machines that a group names one by one.",
        requests.NamedNodesQuery,
    ),
)
