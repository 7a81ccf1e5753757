"""Channels."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.control import requests
from services.control.routes.route import STORE, by, get, made, page, path_id, post, query
from shared.web import json_response, read_json


async def add_channel(request: web.Request) -> web.Response:
    """POST /channels."""
    return made(await request.app[STORE].channels.add(await read_json(request, requests.NewChannel)))


async def list_channels(request: web.Request) -> web.Response:
    """GET /channels."""
    asked = query(request, requests.ChannelsQuery)
    return page(await request.app[STORE].channels.listing(asked), asked.limit, "channel_id")


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
        await request.app[STORE].channels.promote(channel_id, asked.changeset, reason=asked.reason, by=by(request))
    )


ROUTES: Final = (
    get("/channels", list_channels, "[Channel]", "Channels.", requests.ChannelsQuery),
    post("/channels", add_channel, "Channel", "Add a channel.", requests.NewChannel, created=True),
    get("/channels/{id}", show_channel, "Channel", "One channel."),
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
