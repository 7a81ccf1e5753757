"""Halting everything."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, Scope, by, get, post
from shared.web import json_response, read_json


async def show_halt(request: web.Request) -> web.Response:
    """GET /halt."""
    return json_response(await request.app[STORE].gate.get())


async def halt_everything(request: web.Request) -> web.Response:
    """POST /halt."""
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].gate.set(is_open=False, reason=asked.reason, by=by(request)))


async def unhalt_everything(request: web.Request) -> web.Response:
    """POST /unhalt."""
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].gate.set(is_open=True, reason=asked.reason, by=by(request)))


ROUTES: Final = (
    get("/halt", show_halt, "GlobalGate", "Whether everything is halted.", scope=Scope.ANYBODY),
    post("/halt", halt_everything, "GlobalGate", "Halt everything: no node is offered anything.", requests.Because),
    post("/unhalt", unhalt_everything, "GlobalGate", "Let everything go on.", requests.Because),
)
