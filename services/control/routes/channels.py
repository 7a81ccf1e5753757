"""Channels."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import (
    SETTINGS,
    STORE,
    by,
    get,
    made,
    may_override,
    page,
    patch,
    path_id,
    post,
    query,
)
from shared.web import json_response, read_json


async def add_channel(request: web.Request) -> web.Response:
    """POST /channels."""
    return made(await request.app[STORE].channels.add(await read_json(request, requests.NewChannel)))


async def list_channels(request: web.Request) -> web.Response:
    """GET /channels."""
    asked = query(request, requests.ChannelsQuery)
    return page(await request.app[STORE].channels.listing(asked), asked.limit, "channel_id", sort=asked.sort)


async def show_channel(request: web.Request) -> web.Response:
    """GET /channels/{id}."""
    return json_response(await request.app[STORE].channels.get(path_id(request, "channel")))


async def channel_history(request: web.Request) -> web.Response:
    """GET /channels/{id}/history."""
    channel_id = path_id(request, "channel")
    asked = query(request, requests.HistoryQuery)
    return json_response({"items": await request.app[STORE].channels.history(channel_id, asked.limit), "next": None})


async def promote(request: web.Request) -> web.Response:
    """POST /channels/{id}/promote."""
    channel_id = path_id(request, "channel")
    asked = await read_json(request, requests.Promotion)
    return json_response(
        await request.app[STORE].channels.promote(channel_id, asked, by=by(request), may_override=may_override(request))
    )


async def change_channel(request: web.Request) -> web.Response:
    """PATCH /channels/{id}."""
    channel_id = path_id(request, "channel")
    asked = await read_json(request, requests.ChannelPatch)
    return json_response(await request.app[STORE].channels.change(channel_id, asked, by=by(request)))


async def rollback(request: web.Request) -> web.Response:
    """POST /channels/{id}/rollback."""
    channel_id = path_id(request, "channel")
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].channels.rollback(channel_id, reason=asked.reason, by=by(request)))


async def current(request: web.Request) -> web.Response:
    """GET /channels/{id}/current."""
    settings = request.app[SETTINGS]
    url = settings.distribution_public_url or settings.distribution_url
    return json_response(await request.app[STORE].channels.current(path_id(request, "channel"), url))


async def drift(request: web.Request) -> web.Response:
    """GET /channels/{id}/drift."""
    return json_response(await request.app[STORE].channels.drift(path_id(request, "channel")))


ROUTES: Final = (
    get("/channels", list_channels, "[Channel]", "Channels, the least stable first.", requests.ChannelsQuery),
    post("/channels", add_channel, "Channel", "Add a channel.", requests.NewChannel, created=True),
    get("/channels/{id}", show_channel, "Channel", "One channel."),
    patch(
        "/channels/{id}",
        change_channel,
        "Channel",
        "Change how stable a channel is, or which attestations it demands.",
        requests.ChannelPatch,
    ),
    get(
        "/channels/{id}/current",
        current,
        "ChannelCurrent",
        "The image that new nodes are to boot: the newest that a rollout has proven.",
    ),
    get(
        "/channels/{id}/drift",
        drift,
        "ChannelDrift",
        "How many nodes of the channel's groups are not on what it says.",
    ),
    post(
        "/channels/{id}/rollback",
        rollback,
        "PromotionResult",
        "Point a channel back to the changeset before, passing over those that are halted or withdrawn.",
        requests.Because,
        approvable=True,
    ),
    get(
        "/channels/{id}/history",
        channel_history,
        "[ChannelPromotion]",
        "What a channel pointed to, the newest first.",
        requests.HistoryQuery,
    ),
    post(
        "/channels/{id}/promote",
        promote,
        "PromotionResult",
        "Point a channel to a changeset and start a rollout in every group that follows it.",
        requests.Promotion,
        approvable=True,
    ),
)
