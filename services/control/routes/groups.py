"""Groups."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import API, STORE, Route, by, get, made, page, path_id, post, query
from shared.web import json_response, read_json


async def add_group(request: web.Request) -> web.Response:
    """POST /groups."""
    return made(await request.app[STORE].groups.add(await read_json(request, requests.NewGroup), by=by(request)))


async def list_groups(request: web.Request) -> web.Response:
    """GET /groups."""
    asked = query(request, requests.GroupsQuery)
    return page(await request.app[STORE].groups.listing(asked), asked.limit, "group_id")


async def show_group(request: web.Request) -> web.Response:
    """GET /groups/{id}."""
    return json_response(await request.app[STORE].groups.get(path_id(request, "group")))


async def change_group(request: web.Request) -> web.Response:
    """PATCH /groups/{id}."""
    group_id = path_id(request, "group")
    patch = await read_json(request, requests.GroupPatch)
    return json_response(await request.app[STORE].groups.change(group_id, patch, by=by(request)))


ROUTES: Final = (
    get("/groups", list_groups, "[Group]", "Groups.", requests.GroupsQuery),
    post("/groups", add_group, "Group", "Add a group; its rollout starts at once.", requests.NewGroup, created=True),
    get("/groups/{id}", show_group, "Group", "One group with the policy of its next rollout."),
    Route(
        method="PATCH",
        path=f"{API}/groups/{{id}}",
        handler=change_group,
        answer="Group",
        summary="Change a group; a rollout that runs keeps the policy that it was started with.",
        body=requests.GroupPatch,
    ),
)
