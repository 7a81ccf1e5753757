"""Applications."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, by, get, made, page, patch, post, query
from shared.errors import InvalidInput
from shared.web import json_response, read_json


async def add_application(request: web.Request) -> web.Response:
    """POST /applications."""
    return made(await request.app[STORE].applications.add(await read_json(request, requests.NewApplication)))


async def list_applications(request: web.Request) -> web.Response:
    """GET /applications."""
    asked = query(request, requests.ApplicationsQuery)
    return page(await request.app[STORE].applications.listing(asked), asked.limit, "application_id", sort=asked.sort)


async def show_application(request: web.Request) -> web.Response:
    """GET /applications/{reference}."""
    return json_response(await request.app[STORE].applications.get(_reference(request.match_info["reference"])))


async def change_application(request: web.Request) -> web.Response:
    """PATCH /applications/{reference}."""
    reference = _reference(request.match_info["reference"])
    asked = await read_json(request, requests.ApplicationPatch)
    return json_response(await request.app[STORE].applications.change(reference, asked, by=by(request)))


def _reference(text: str) -> str:
    try:
        return msgspec.convert(text, requests.Reference)
    except msgspec.ValidationError as fault:
        raise InvalidInput(f"this is no name and no id: {fault}") from fault


ROUTES: Final = (
    get("/applications", list_applications, "[Application]", "Applications.", requests.ApplicationsQuery),
    post(
        "/applications",
        add_application,
        "Application",
        "Add an application.",
        requests.NewApplication,
        created=True,
    ),
    get("/applications/{reference}", show_application, "Application", "One application, by name, id or omaha id."),
    patch(
        "/applications/{reference}",
        change_application,
        "Application",
        "Change an application's product, version scheme, or whether it only observes.",
        requests.ApplicationPatch,
    ),
)
