"""Changesets."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import hdrs, web

from services.control import distribution, requests
from services.control.routes.route import SESSION, SETTINGS, STORE, by, get, made, page, patch, path_id, post, query
from shared.errors import InvalidInput
from shared.web import json_response, read_body, read_json


async def add_changeset(request: web.Request) -> web.Response:
    """POST /changesets."""
    asked = await read_json(request, requests.NewChangeset, max_bytes=requests.MAX_CHANGESET_BYTES)
    return made(await request.app[STORE].changesets.add(asked))


async def list_changesets(request: web.Request) -> web.Response:
    """GET /changesets."""
    asked = query(request, requests.ChangesetsQuery)
    return page(await request.app[STORE].changesets.listing(asked), asked.limit, "changeset_id", sort=asked.sort)


async def show_changeset(request: web.Request) -> web.Response:
    """GET /changesets/{id}."""
    return json_response(await request.app[STORE].changesets.get(path_id(request, "changeset")))


async def change_changeset(request: web.Request) -> web.Response:
    """PATCH /changesets/{id}."""
    changeset_id = path_id(request, "changeset")
    asked = await read_json(request, requests.ChangesetPatch, max_bytes=requests.MAX_CHANGESET_BYTES)
    return json_response(await request.app[STORE].changesets.change(changeset_id, asked))


async def mark_changeset(request: web.Request) -> web.Response:
    """POST /changesets/{id}/mark."""
    changeset_id = path_id(request, "changeset")
    asked = await read_json(request, requests.Mark)
    return json_response(await request.app[STORE].changesets.mark(changeset_id, asked, by=by(request)))


async def show_manifest(request: web.Request) -> web.Response:
    """GET /changesets/{id}/manifest."""
    return json_response(await request.app[STORE].changesets.manifest(path_id(request, "changeset")))


async def show_diff(request: web.Request) -> web.Response:
    """GET /changesets/{id}/diff."""
    asked = query(request, requests.DiffQuery)
    return json_response(await request.app[STORE].changesets.diff(path_id(request, "changeset"), asked.to))


async def show_holders(request: web.Request) -> web.Response:
    """GET /changesets/{id}/holders."""
    asked = query(request, requests.HoldersQuery)
    return json_response(await request.app[STORE].changesets.holders(path_id(request, "changeset"), asked.limit))


async def withdraw_changeset(request: web.Request) -> web.Response:
    """POST /changesets/{id}/withdraw."""
    changeset_id = path_id(request, "changeset")
    asked = await read_json(request, requests.Because)
    return json_response(
        await request.app[STORE].changesets.withdraw(changeset_id, reason=asked.reason, by=by(request))
    )


async def add_payload(request: web.Request) -> web.Response:
    """POST /changesets/{id}/payloads."""
    changeset_id = path_id(request, "changeset")
    return made(
        await request.app[STORE].changesets.add_payload(changeset_id, await read_json(request, requests.NewPayload))
    )


async def publish_changeset(request: web.Request) -> web.Response:
    """POST /changesets/{id}/publish; an empty body means ``{}``."""
    changeset_id = path_id(request, "changeset")
    body = await read_body(request)
    try:
        asked = msgspec.json.decode(body, type=requests.Publication) if body else requests.Publication()
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise InvalidInput(str(fault)) from fault
    store, settings = request.app[STORE], request.app[SETTINGS]
    if settings.distribution_url is not None and not asked.unchecked:
        changeset = await store.changesets.get(changeset_id)
        if changeset["state"] == "draft":
            token = request.headers[hdrs.AUTHORIZATION].split()[-1]
            await distribution.check_payloads(
                request.app[SESSION], settings.distribution_url, token, changeset["payloads"]
            )
    return json_response(await store.changesets.publish(changeset_id, by=by(request)))


async def halt_changeset(request: web.Request) -> web.Response:
    """POST /changesets/{id}/halt."""
    changeset_id = path_id(request, "changeset")
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].changesets.halt(changeset_id, reason=asked.reason, by=by(request)))


async def resume_changeset(request: web.Request) -> web.Response:
    """POST /changesets/{id}/resume."""
    changeset_id = path_id(request, "changeset")
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].changesets.resume(changeset_id, reason=asked.reason, by=by(request)))


ROUTES: Final = (
    get("/changesets", list_changesets, "[Changeset]", "Changesets, the newest first.", requests.ChangesetsQuery),
    post(
        "/changesets",
        add_changeset,
        "Changeset",
        "Add a draft.",
        requests.NewChangeset,
        created=True,
        max_body_bytes=requests.MAX_CHANGESET_BYTES,
    ),
    get("/changesets/{id}", show_changeset, "Changeset", "One changeset with its gate, payloads and packages."),
    patch(
        "/changesets/{id}",
        change_changeset,
        "Changeset",
        "Change a draft.",
        requests.ChangesetPatch,
        max_body_bytes=requests.MAX_CHANGESET_BYTES,
    ),
    get(
        "/changesets/{id}/manifest",
        show_manifest,
        "SignedManifest",
        "What was signed at publishing: its exact bytes in base64, and the signatures.",
    ),
    get(
        "/changesets/{id}/diff",
        show_diff,
        "ChangesetDiff",
        "What another changeset brings beside this one: components, packages, payloads.",
        requests.DiffQuery,
    ),
    get(
        "/changesets/{id}/holders",
        show_holders,
        "Holders",
        "The nodes that run a changeset, have it staged, or are on the way to it.",
        requests.HoldersQuery,
    ),
    post(
        "/changesets/{id}/mark",
        mark_changeset,
        "Changeset",
        "Declare a published changeset a floor or a dead end, or no longer; what is installed stays the same.",
        requests.Mark,
    ),
    post(
        "/changesets/{id}/withdraw",
        withdraw_changeset,
        "WithdrawalResult",
        "Take a changeset back for good: never offered again, downloads refused, its rollouts aborted.",
        requests.Because,
    ),
    post(
        "/changesets/{id}/payloads",
        add_payload,
        "Changeset",
        "Add a payload to a draft; its bytes go to the distribution, PUT /payloads/<sha256>.",
        requests.NewPayload,
        created=True,
    ),
    post(
        "/changesets/{id}/publish",
        publish_changeset,
        "Changeset",
        "Make a changeset immutable and fit to be promoted; it needs exactly one main payload, at position 0.",
        requests.Publication,
        body_optional=True,
    ),
    post(
        "/changesets/{id}/halt",
        halt_changeset,
        "Changeset",
        "No more of this changeset for anyone, until it is resumed.",
        requests.Because,
    ),
    post(
        "/changesets/{id}/resume",
        resume_changeset,
        "Changeset",
        "Let a halted changeset go on; its evidence starts anew, stricter.",
        requests.Because,
        approvable=True,
    ),
)
