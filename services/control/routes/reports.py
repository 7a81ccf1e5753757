"""Reports."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, get, query
from shared.web import json_response


async def compliance(request: web.Request) -> web.Response:
    """GET /reports/compliance."""
    return json_response(await request.app[STORE].reports.compliance(query(request, requests.ComplianceQuery)))


async def audit(request: web.Request) -> web.Response:
    """GET /reports/audit."""
    items, following = await request.app[STORE].reports.audit(query(request, requests.AuditQuery))
    return json_response({"items": items, "next": following})


ROUTES: Final = (
    get(
        "/reports/compliance",
        compliance,
        "Compliance",
        "How much of each group runs what its channel pointed to some days ago, and how long patches take.",
        requests.ComplianceQuery,
    ),
    get(
        "/reports/audit",
        audit,
        "Audit",
        "Who did what, from the ledger; `next` is the `after` of the page that follows.",
        requests.AuditQuery,
    ),
)
