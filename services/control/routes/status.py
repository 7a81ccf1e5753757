"""The whole at once."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, get, query
from shared.web import json_response


async def status(request: web.Request) -> web.Response:
    """GET /status."""
    return json_response(await request.app[STORE].status.get(query(request, requests.StatusQuery)))


ROUTES: Final = (
    get(
        "/status",
        status,
        "Status",
        "What waits for whom, how rollouts get on, and whether ledger and analysis keep up, in one snapshot.",
        requests.StatusQuery,
    ),
)
