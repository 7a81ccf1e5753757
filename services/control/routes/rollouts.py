"""Rollouts."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, Handler, by, get, page, path_id, post, query
from shared.web import Role, json_response, read_json


async def list_rollouts(request: web.Request) -> web.Response:
    """GET /rollouts."""
    asked = query(request, requests.RolloutsQuery)
    return page(await request.app[STORE].rollouts.listing(asked), asked.limit, "rollout_id", sort=asked.sort)


async def show_rollout(request: web.Request) -> web.Response:
    """GET /rollouts/{id}."""
    return json_response(await request.app[STORE].rollouts.get(path_id(request, "rollout")))


def _move(to: requests.RolloutState) -> Handler:
    async def move(request: web.Request) -> web.Response:
        rollout_id = path_id(request, "rollout")
        asked = await read_json(request, requests.Because)
        return json_response(
            await request.app[STORE].steering.move(rollout_id, to, reason=asked.reason, by=by(request))
        )

    return move


async def abort(request: web.Request) -> web.Response:
    """POST /rollouts/{id}/abort."""
    rollout_id = path_id(request, "rollout")
    asked = await read_json(request, requests.Abort)
    revert = asked.nodes is requests.NodesThatTookIt.REVERT
    return json_response(
        await request.app[STORE].steering.abort(rollout_id, revert=revert, reason=asked.reason, by=by(request))
    )


async def approve(request: web.Request) -> web.Response:
    """POST /rollouts/{id}/approve."""
    rollout_id = path_id(request, "rollout")
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].steering.approve(rollout_id, reason=asked.reason, by=by(request)))


async def expedite(request: web.Request) -> web.Response:
    """POST /rollouts/{id}/expedite."""
    rollout_id = path_id(request, "rollout")
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].steering.expedite(rollout_id, reason=asked.reason, by=by(request)))


async def widen(request: web.Request) -> web.Response:
    """POST /rollouts/{id}/widen."""
    rollout_id = path_id(request, "rollout")
    asked = await read_json(request, requests.Widening)
    return json_response(
        await request.app[STORE].steering.widen(
            rollout_id, fraction=asked.fraction, reason=asked.reason, by=by(request)
        )
    )


async def cap(request: web.Request) -> web.Response:
    """POST /rollouts/{id}/cap."""
    rollout_id = path_id(request, "rollout")
    asked = await read_json(request, requests.PaceCap)
    return json_response(
        await request.app[STORE].steering.cap(rollout_id, pace=asked.pace, reason=asked.reason, by=by(request))
    )


def _exclusion(*, excluded: bool) -> Handler:
    async def exclude(request: web.Request) -> web.Response:
        rollout_id = path_id(request, "rollout")
        asked = await read_json(request, requests.OneNode)
        return json_response(
            await request.app[STORE].steering.exclude(
                rollout_id, asked.node, excluded=excluded, reason=asked.reason, by=by(request)
            )
        )

    return exclude


async def drill(request: web.Request) -> web.Response:
    """POST /groups/{id}/drill."""
    group_id = path_id(request, "group")
    asked = await read_json(request, requests.OneNode)
    return json_response(
        await request.app[STORE].steering.drill(group_id, asked.node, reason=asked.reason, by=by(request))
    )


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
        approvable=True,
    ),
    post(
        "/rollouts/{id}/abort",
        abort,
        "Rollout",
        "End a rollout for good; nodes that took it keep it, or go back.",
        requests.Abort,
        approvable=True,
    ),
    post(
        "/rollouts/{id}/approve",
        approve,
        "Rollout",
        "Let a rollout go on that waits for an approver.",
        requests.Because,
        role=Role.APPROVER,
    ),
    post(
        "/rollouts/{id}/expedite",
        expedite,
        "Rollout",
        "Relax soak, waves and windows within the policy's bounds; never halts, holds, quarantine or reboot slots.",
        requests.Because,
        approvable=True,
    ),
    post(
        "/rollouts/{id}/widen",
        widen,
        "Rollout",
        "Begin the next wave now, or let a larger share of the group in; the pace holds all the same.",
        requests.Widening,
    ),
    post(
        "/rollouts/{id}/cap",
        cap,
        "Rollout",
        "Bound the nodes in flight below the analysis' pace, or take that away.",
        requests.PaceCap,
    ),
    post(
        "/rollouts/{id}/exclude",
        _exclusion(excluded=True),
        "Rollout",
        "Offer the changeset to a node no more in this rollout.",
        requests.OneNode,
    ),
    post(
        "/rollouts/{id}/include",
        _exclusion(excluded=False),
        "Rollout",
        "Offer the changeset to an excluded node again.",
        requests.OneNode,
    ),
    post(
        "/groups/{id}/drill",
        drill,
        "Rollout",
        "Send one node of a group to another slot and back, on purpose.",
        requests.OneNode,
    ),
)
