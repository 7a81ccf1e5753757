"""Approvals."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, Handler, by, get, page, path_id, post, query
from shared.web import Role, json_response, read_json


async def list_approvals(request: web.Request) -> web.Response:
    """GET /approvals."""
    asked = query(request, requests.ApprovalsQuery)
    return page(await request.app[STORE].approvals.listing(asked), asked.limit, "approval_id")


async def show_approval(request: web.Request) -> web.Response:
    """GET /approvals/{id}."""
    return json_response(await request.app[STORE].approvals.get(path_id(request, "approval")))


def _decide(*, allow: bool) -> Handler:
    async def decide(request: web.Request) -> web.Response:
        approval_id = path_id(request, "approval")
        asked = await read_json(request, requests.Because)
        approvals = request.app[STORE].approvals
        return json_response(await approvals.decide(approval_id, allow=allow, reason=asked.reason, by=by(request)))

    return decide


ROUTES: Final = (
    get(
        "/approvals",
        list_approvals,
        "[Approval]",
        "What waits for another pair of eyes, and what was decided, the newest first.",
        requests.ApprovalsQuery,
    ),
    get("/approvals/{id}", show_approval, "Approval", "One approval, with the request that it is about."),
    post(
        "/approvals/{id}/approve",
        _decide(allow=True),
        "Approval",
        "Allow what somebody else asked for; who asked repeats the request then, with the approval's id.",
        requests.Because,
        role=Role.APPROVER,
    ),
    post(
        "/approvals/{id}/refuse",
        _decide(allow=False),
        "Approval",
        "Refuse what somebody else asked for.",
        requests.Because,
        role=Role.APPROVER,
    ),
)
