"""Rollouts."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, Handler, by, get, page, path_id, post, query
from shared.web import json_response, read_json


async def list_rollouts(request: web.Request) -> web.Response:
    """GET /rollouts."""
    asked = query(request, requests.RolloutsQuery)
    return page(await request.app[STORE].rollouts.listing(asked), asked.limit, "rollout_id")


async def show_rollout(request: web.Request) -> web.Response:
    """GET /rollouts/{id}."""
    return json_response(await request.app[STORE].rollouts.get(path_id(request, "rollout")))


def _move(to: requests.RolloutState) -> Handler:
    async def move(request: web.Request) -> web.Response:
        rollout_id = path_id(request, "rollout")
        asked = await read_json(request, requests.Because)
        return json_response(
            await request.app[STORE].rollouts.move(rollout_id, to, reason=asked.reason, by=by(request))
        )

    return move


ROUTES: Final = (
    get("/rollouts", list_rollouts, "[RolloutListed]", "Rollouts, the newest first.", requests.RolloutsQuery),
    get("/rollouts/{id}", show_rollout, "Rollout", "One rollout: counts, paces, evidence, and why nothing happens."),
    post(
        "/rollouts/{id}/pause",
        _move(requests.RolloutState.PAUSED),
        "Rollout",
        "Offer no more until it is resumed.",
        requests.Because,
    ),
    post(
        "/rollouts/{id}/halt",
        _move(requests.RolloutState.HALTED),
        "Rollout",
        "Offer no more, as something is wrong; the changeset goes on elsewhere.",
        requests.Because,
    ),
    post(
        "/rollouts/{id}/resume",
        _move(requests.RolloutState.RUNNING),
        "Rollout",
        "Let a paused, halted or braked rollout go on.",
        requests.Because,
    ),
    post(
        "/rollouts/{id}/abort",
        _move(requests.RolloutState.ABORTED),
        "Rollout",
        "End a rollout for good.",
        requests.Because,
    ),
)
