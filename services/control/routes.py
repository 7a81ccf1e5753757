"""The API: HTTP in and out, no rules."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from aiohttp import hdrs, web
from multidict import MultiMapping

from services.control import distribution, requests
from services.control.settings import Settings
from services.control.store import Made, Store
from services.control.tokens import Role
from shared.errors import InvalidInput, NotPermitted, Unavailable
from shared.events import CONTENT_TYPE
from shared.ledger import LedgerEntry
from shared.web import PRINCIPAL, json_response, read_body, read_json

STORE: Final = web.AppKey("STORE", Store)
SETTINGS: Final = web.AppKey("SETTINGS", Settings)
SESSION: Final = web.AppKey("SESSION", aiohttp.ClientSession)

API: Final = "/api/v1"
NDJSON: Final = "application/x-ndjson"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Q = TypeVar("Q", bound=requests.Request)


def is_public(request: web.Request) -> bool:
    """The description of the API is for everybody."""
    return request.path == f"{API}/openapi.yaml"


@web.middleware
async def role_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Viewers may look and not touch."""
    principal = request.get(PRINCIPAL)
    if principal is not None and request.method not in _SAFE_METHODS and principal.role != Role.ADMIN.value:
        raise NotPermitted(f"the token {principal.name!r} may only look: use one with the role admin")
    return await handler(request)


# Reading


def _query(request: web.Request, kind: type[Q]) -> Q:
    """The query as a Struct; a name that comes twice is a list.

    Raises:
        InvalidInput: A name is unknown, or a value is not what is asked for.
    """
    given = _plain(request.query, kind)
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as fault:
        raise InvalidInput(f"the query is not usable: {fault}") from fault


def _plain(query: MultiMapping[str], kind: type[Q]) -> dict[str, object]:
    lists = {field.name for field in msgspec.structs.fields(kind) if isinstance(field.default, tuple)}
    given: dict[str, object] = {}
    for name in set(query):
        values = query.getall(name)
        if name in lists:
            given[name] = [part for value in values for part in value.split(",") if part]
        elif len(values) == 1:
            given[name] = values[0]
        else:
            raise InvalidInput(f"{name} is given {len(values)} times: give it once")
    return given


_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def _id(request: web.Request, what: str) -> uuid.UUID:
    text = request.match_info["id"]
    if _UUID.fullmatch(text) is None:
        raise InvalidInput(f"{text[:64]!r} is no {what} id: use the UUID that the list shows")
    return uuid.UUID(text)


def _by(request: web.Request) -> str:
    return request[PRINCIPAL].name


# Writing


def _page(items: Sequence[Mapping[str, Any]], limit: int, key: str) -> web.Response:
    following = items[-1][key] if len(items) == limit else None
    return json_response({"items": items, "next": following})


def _made(made: Made) -> web.Response:
    return json_response(made.item, status=201 if made.new else 200)


# The service


async def server(request: web.Request) -> web.Response:
    """GET /server."""
    settings = request.app[SETTINGS]
    return json_response(
        {
            "service": "control",
            "api": "v1",
            "distribution_url": settings.distribution_public_url or settings.distribution_url,
            "principal": {"name": request[PRINCIPAL].name, "role": request[PRINCIPAL].role},
        }
    )


async def openapi(_: web.Request) -> web.Response:
    """GET /openapi.yaml."""
    text = resources.files("services.control").joinpath("openapi.yaml").read_bytes()
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: "application/yaml"})


async def show_halt(request: web.Request) -> web.Response:
    """GET /halt."""
    return json_response(await request.app[STORE].global_gate())


async def halt_everything(request: web.Request) -> web.Response:
    """POST /halt."""
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].set_global_gate(is_open=False, reason=asked.reason, by=_by(request)))


async def unhalt_everything(request: web.Request) -> web.Response:
    """POST /unhalt."""
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].set_global_gate(is_open=True, reason=asked.reason, by=_by(request)))


# Applications


async def add_application(request: web.Request) -> web.Response:
    """POST /applications."""
    return _made(await request.app[STORE].add_application(await read_json(request, requests.NewApplication)))


async def list_applications(request: web.Request) -> web.Response:
    """GET /applications."""
    page = _query(request, requests.ApplicationsQuery)
    return _page(await request.app[STORE].applications(page), page.limit, "application_id")


async def show_application(request: web.Request) -> web.Response:
    """GET /applications/{reference}."""
    return json_response(await request.app[STORE].application(_reference(request.match_info["reference"])))


def _reference(text: str) -> str:
    try:
        return msgspec.convert(text, requests.Reference)
    except msgspec.ValidationError as fault:
        raise InvalidInput(f"this is no name and no id: {fault}") from fault


# Changesets


async def add_changeset(request: web.Request) -> web.Response:
    """POST /changesets."""
    return _made(await request.app[STORE].add_changeset(await read_json(request, requests.NewChangeset)))


async def list_changesets(request: web.Request) -> web.Response:
    """GET /changesets."""
    page = _query(request, requests.ChangesetsQuery)
    return _page(await request.app[STORE].changesets(page), page.limit, "changeset_id")


async def show_changeset(request: web.Request) -> web.Response:
    """GET /changesets/{id}."""
    return json_response(await request.app[STORE].changeset(_id(request, "changeset")))


async def add_payload(request: web.Request) -> web.Response:
    """POST /changesets/{id}/payloads."""
    changeset_id = _id(request, "changeset")
    return _made(await request.app[STORE].add_payload(changeset_id, await read_json(request, requests.NewPayload)))


async def publish_changeset(request: web.Request) -> web.Response:
    """POST /changesets/{id}/publish; an empty body means ``{}``."""
    changeset_id = _id(request, "changeset")
    body = await read_body(request)
    try:
        asked = msgspec.json.decode(body, type=requests.Publication) if body else requests.Publication()
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise InvalidInput(str(fault)) from fault
    store, settings = request.app[STORE], request.app[SETTINGS]
    if settings.distribution_url is not None and not asked.unchecked:
        changeset = await store.changeset(changeset_id)
        if changeset["state"] == "draft":
            token = request.headers[hdrs.AUTHORIZATION].split()[-1]
            await distribution.check_payloads(
                request.app[SESSION], settings.distribution_url, token, changeset["payloads"]
            )
    return json_response(await store.publish(changeset_id, by=_by(request)))


async def halt_changeset(request: web.Request) -> web.Response:
    """POST /changesets/{id}/halt."""
    changeset_id = _id(request, "changeset")
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].halt_changeset(changeset_id, reason=asked.reason, by=_by(request)))


async def resume_changeset(request: web.Request) -> web.Response:
    """POST /changesets/{id}/resume."""
    changeset_id = _id(request, "changeset")
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].resume_changeset(changeset_id, reason=asked.reason, by=_by(request)))


# Channels


async def add_channel(request: web.Request) -> web.Response:
    """POST /channels."""
    return _made(await request.app[STORE].add_channel(await read_json(request, requests.NewChannel)))


async def list_channels(request: web.Request) -> web.Response:
    """GET /channels."""
    page = _query(request, requests.ChannelsQuery)
    return _page(await request.app[STORE].channels(page), page.limit, "channel_id")


async def show_channel(request: web.Request) -> web.Response:
    """GET /channels/{id}."""
    return json_response(await request.app[STORE].channel(_id(request, "channel")))


async def channel_history(request: web.Request) -> web.Response:
    """GET /channels/{id}/history."""
    channel_id = _id(request, "channel")
    asked = _query(request, requests.HistoryQuery)
    return json_response({"items": await request.app[STORE].history(channel_id, asked.limit), "next": None})


async def promote(request: web.Request) -> web.Response:
    """POST /channels/{id}/promote."""
    channel_id = _id(request, "channel")
    asked = await read_json(request, requests.Promotion)
    return json_response(
        await request.app[STORE].promote(channel_id, asked.changeset, reason=asked.reason, by=_by(request))
    )


# Groups


async def add_group(request: web.Request) -> web.Response:
    """POST /groups."""
    return _made(await request.app[STORE].add_group(await read_json(request, requests.NewGroup), by=_by(request)))


async def list_groups(request: web.Request) -> web.Response:
    """GET /groups."""
    page = _query(request, requests.GroupsQuery)
    return _page(await request.app[STORE].groups(page), page.limit, "group_id")


async def show_group(request: web.Request) -> web.Response:
    """GET /groups/{id}."""
    return json_response(await request.app[STORE].group(_id(request, "group")))


async def change_group(request: web.Request) -> web.Response:
    """PATCH /groups/{id}."""
    group_id = _id(request, "group")
    patch = await read_json(request, requests.GroupPatch)
    return json_response(await request.app[STORE].change_group(group_id, patch, by=_by(request)))


# Rollouts


async def list_rollouts(request: web.Request) -> web.Response:
    """GET /rollouts."""
    page = _query(request, requests.RolloutsQuery)
    return _page(await request.app[STORE].rollouts(page), page.limit, "rollout_id")


async def show_rollout(request: web.Request) -> web.Response:
    """GET /rollouts/{id}."""
    return json_response(await request.app[STORE].rollout(_id(request, "rollout")))


def _move(to: requests.RolloutState) -> Handler:
    async def move(request: web.Request) -> web.Response:
        rollout_id = _id(request, "rollout")
        asked = await read_json(request, requests.Because)
        return json_response(
            await request.app[STORE].move_rollout(rollout_id, to, reason=asked.reason, by=_by(request))
        )

    return move


# Nodes


async def list_nodes(request: web.Request) -> web.Response:
    """GET /nodes."""
    page = _query(request, requests.NodesQuery)
    return _page(await request.app[STORE].nodes(page), page.limit, "node_id")


async def show_node(request: web.Request) -> web.Response:
    """GET /nodes/{id}."""
    return json_response(await request.app[STORE].node(_id(request, "node")))


async def lift_quarantine(request: web.Request) -> web.Response:
    """POST /nodes/{id}/quarantine/lift."""
    node_id = _id(request, "node")
    asked = await read_json(request, requests.Lift)
    return json_response(
        await request.app[STORE].lift_quarantine(node_id, asked.changeset, reason=asked.reason, by=_by(request))
    )


# The ledger


async def list_events(request: web.Request) -> web.Response:
    """GET /events: a page as JSON, or one event per line with ``Accept: application/x-ndjson``."""
    asked = _query(request, requests.EventsQuery)
    entries = await request.app[STORE].events(asked)
    if NDJSON in request.headers.get(hdrs.ACCEPT, ""):
        body = b"".join(entry.raw + b"\n" for entry in entries)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: NDJSON})
    following = entries[-1].seq if len(entries) == asked.limit else None
    return json_response({"items": [msgspec.Raw(entry.raw) for entry in entries], "next": following})


async def show_event(request: web.Request) -> web.Response:
    """GET /events/{seq}: the canonical bytes that the hash chain covers."""
    text = request.match_info["seq"]
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidInput(f"{text[:64]!r} is no seq: use a number from 1 on")
    entry: LedgerEntry = await request.app[STORE].event(int(text))
    return web.Response(body=entry.raw, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE, "Uneventful-Hash": entry.hash.hex()})


async def show_ledger(request: web.Request) -> web.Response:
    """GET /ledger: where the ledger ends."""
    seq, digest, recorded_at = await request.app[STORE].ledger_head()
    return json_response({"seq": seq, "hash": digest.hex(), "recorded_at": recorded_at})


async def verify_ledger(request: web.Request) -> web.Response:
    """GET /ledger/verify."""
    asked = _query(request, requests.VerifyQuery)
    seconds = request.app[SETTINGS].verify_seconds
    try:
        async with asyncio.timeout(seconds):
            found = await request.app[STORE].verify(asked.after)
    except TimeoutError as fault:
        raise Unavailable(
            f"verifying took more than {seconds:g} s: begin later in the ledger, with `after`, or verify on the server",
        ) from fault
    return json_response(
        {
            "ok": found.ok,
            "checked": found.checked,
            "last_seq": found.last_seq,
            "last_hash": found.last_hash.hex(),
            "broken_at": found.broken_at,
            "reason": found.reason,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation of the API, with what its description in openapi.yaml is made from.

    Attributes:
        summary: What it does, in one sentence.
        body: What its JSON body must be; a body that may be left out is ``body_optional``.
        query: What its query may hold.
        answer: The schema of a good answer, by its name in the description; ``[X]`` is a page of X.
        created: Whether it answers 201 where it made something, and 200 where the same was there.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: str
    body: type[requests.Request] | None = None
    body_optional: bool = False
    query: type[requests.Request] | None = None
    created: bool = False


def _get(path: str, handler: Handler, answer: str, summary: str, query: type[requests.Request] | None = None) -> Route:
    return Route(method="GET", path=API + path, handler=handler, answer=answer, summary=summary, query=query)


def _post(
    path: str,
    handler: Handler,
    answer: str,
    summary: str,
    body: type[requests.Request],
    *,
    created: bool = False,
    body_optional: bool = False,
) -> Route:
    return Route(
        method="POST",
        path=API + path,
        handler=handler,
        answer=answer,
        summary=summary,
        body=body,
        body_optional=body_optional,
        created=created,
    )


ROUTES: Final = (
    _get("/server", server, "Server", "What this server is, where payloads are uploaded to, and who asks."),
    _get("/openapi.yaml", openapi, "Description", "This description; no token is asked for."),
    _get("/halt", show_halt, "GlobalGate", "Whether everything is halted."),
    _post("/halt", halt_everything, "GlobalGate", "Halt everything: no node is offered anything.", requests.Because),
    _post("/unhalt", unhalt_everything, "GlobalGate", "Let everything go on.", requests.Because),
    _get("/applications", list_applications, "[Application]", "Applications.", requests.ApplicationsQuery),
    _post(
        "/applications",
        add_application,
        "Application",
        "Add an application.",
        requests.NewApplication,
        created=True,
    ),
    _get("/applications/{reference}", show_application, "Application", "One application, by name, id or omaha id."),
    _get("/changesets", list_changesets, "[Changeset]", "Changesets, the newest first.", requests.ChangesetsQuery),
    _post("/changesets", add_changeset, "Changeset", "Add a draft.", requests.NewChangeset, created=True),
    _get("/changesets/{id}", show_changeset, "Changeset", "One changeset with its gate and its payloads."),
    _post(
        "/changesets/{id}/payloads",
        add_payload,
        "Changeset",
        "Add a payload to a draft; its bytes go to the distribution, PUT /payloads/<sha256>.",
        requests.NewPayload,
        created=True,
    ),
    _post(
        "/changesets/{id}/publish",
        publish_changeset,
        "Changeset",
        "Make a changeset immutable and fit to be promoted; it needs exactly one main payload, at position 0.",
        requests.Publication,
        body_optional=True,
    ),
    _post(
        "/changesets/{id}/halt",
        halt_changeset,
        "Changeset",
        "No more of this changeset for anyone, until it is resumed.",
        requests.Because,
    ),
    _post(
        "/changesets/{id}/resume",
        resume_changeset,
        "Changeset",
        "Let a halted changeset go on; its evidence starts anew, stricter.",
        requests.Because,
    ),
    _get("/channels", list_channels, "[Channel]", "Channels.", requests.ChannelsQuery),
    _post("/channels", add_channel, "Channel", "Add a channel.", requests.NewChannel, created=True),
    _get("/channels/{id}", show_channel, "Channel", "One channel."),
    _get(
        "/channels/{id}/history",
        channel_history,
        "[ChannelPromotion]",
        "What a channel pointed to, the newest first.",
        requests.HistoryQuery,
    ),
    _post(
        "/channels/{id}/promote",
        promote,
        "PromotionResult",
        "Point a channel to a changeset and start a rollout in every group that follows it.",
        requests.Promotion,
    ),
    _get("/groups", list_groups, "[Group]", "Groups.", requests.GroupsQuery),
    _post("/groups", add_group, "Group", "Add a group; its rollout starts at once.", requests.NewGroup, created=True),
    _get("/groups/{id}", show_group, "Group", "One group with the policy of its next rollout."),
    Route(
        method="PATCH",
        path=f"{API}/groups/{{id}}",
        handler=change_group,
        answer="Group",
        summary="Change a group; a rollout that runs keeps the policy that it was started with.",
        body=requests.GroupPatch,
    ),
    _get("/rollouts", list_rollouts, "[RolloutListed]", "Rollouts, the newest first.", requests.RolloutsQuery),
    _get("/rollouts/{id}", show_rollout, "Rollout", "One rollout: counts, paces, evidence, and why nothing happens."),
    _post(
        "/rollouts/{id}/pause",
        _move(requests.RolloutState.PAUSED),
        "Rollout",
        "Offer no more until it is resumed.",
        requests.Because,
    ),
    _post(
        "/rollouts/{id}/halt",
        _move(requests.RolloutState.HALTED),
        "Rollout",
        "Offer no more, as something is wrong; the changeset goes on elsewhere.",
        requests.Because,
    ),
    _post(
        "/rollouts/{id}/resume",
        _move(requests.RolloutState.RUNNING),
        "Rollout",
        "Let a paused, halted or braked rollout go on.",
        requests.Because,
    ),
    _post(
        "/rollouts/{id}/abort",
        _move(requests.RolloutState.ABORTED),
        "Rollout",
        "End a rollout for good.",
        requests.Because,
    ),
    _get("/nodes", list_nodes, "[NodeListed]", "Nodes.", requests.NodesQuery),
    _get("/nodes/{id}", show_node, "Node", "One node with its facts, attempts and quarantines."),
    _post(
        "/nodes/{id}/quarantine/lift",
        lift_quarantine,
        "Node",
        "Let a changeset be offered to a node again.",
        requests.Lift,
    ),
    _get(
        "/events",
        list_events,
        "Events",
        "Ledger events by seq, as a page or, with Accept: application/x-ndjson, one per line.",
        requests.EventsQuery,
    ),
    _get("/events/{seq}", show_event, "Event", "The event at a place of the ledger, as the hash chain covers it."),
    _get("/ledger", show_ledger, "LedgerHead", "Where the ledger ends."),
    _get("/ledger/verify", verify_ledger, "Verification", "Verify the hash chain.", requests.VerifyQuery),
)
