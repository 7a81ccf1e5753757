"""What surrounds every operation: who may, about what, on which condition, once, and how it is told."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec
import orjson
from aiohttp import hdrs, web

from services.control.acting import ACTING, LOOKING, Acting
from services.control.approving import ApprovalWanted
from services.control.request_rules import (
    Tags,
    answers_with,
    approval_of,
    check_query_names,
    check_role,
    dry_run_of,
    etag_of,
    fingerprint,
    key_of,
    tagged_path,
    tags_of,
    target_of,
    told_of,
)
from services.control.routes import API, ROUTES, SETTINGS, STORE, Route, is_public
from services.control.routes.route import DRY_RUN, Scope
from services.control.scoping import ByReference, ByThing, check_scope, concern_of
from services.control.store.idempotency import LOST, KeptAnswer
from shared.errors import Conflict, InvalidInput, NotFound, PreconditionFailed, Unavailable, Unprocessable
from shared.ids import IdSource
from shared.web import PRINCIPAL, client_address, json_response, keep_body
from shared.web.problems import Handler

APPROVAL_HEADER: Final = "Uneventful-Approval"
KEY_HEADER: Final = "Idempotency-Key"
REPLAYED_HEADER: Final = "Idempotency-Replayed"
REQUEST_ID_HEADER: Final = "Uneventful-Request"
LOOK_TIMEOUT_S: Final = 10.0
MAX_KEPT_ANSWER: Final = 1024 * 1024
JSON: Final = "application/json"

IDS: Final = web.AppKey("IDS", IdSource)

_BY_PLACE: Final[Mapping[tuple[str, str], Route]] = MappingProxyType(
    {(route.method, route.path): route for route in ROUTES}
)
_LOOKS: Final[Mapping[str, str]] = MappingProxyType({route.path: route.answer for route in ROUTES if route.looks})
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


@web.middleware
async def operation_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Judges a request before its operation does, and tells what it did."""
    resource = request.match_info.route.resource
    route = None if resource is None else _BY_PLACE.get((request.method, resource.canonical))
    if route is None or is_public(request):
        return await handler(request)
    check_role(request[PRINCIPAL], route.least_role)
    check_query_names(list(request.query), route.query_names)
    body = b"" if route.looks else await keep_body(request, max_bytes=route.max_body_bytes)
    told = told_of(body)
    await _check_scope(request, route, told.application)
    if route.looks:
        return _conditional(request, await handler(request))
    ids = request.app[IDS]
    acting = Acting(
        principal=request[PRINCIPAL],
        action=f"{route.method} {route.path}",
        target=target_of(route.path, request.path, API),
        request={"method": request.method, "path": request.path, "body": dict(told.value)},
        request_id=ids.uuid7(),
        address=client_address(
            request.remote,
            request.headers.getall("X-Forwarded-For", []),
            proxies=request.app[SETTINGS].trusted_proxies,
        ),
        reason=told.reason,
        approval=approval_of(request.headers.get(APPROVAL_HEADER)),
        dry_run=dry_run_of(request.query.getall(DRY_RUN, [])),
    )
    acting.precondition = _precondition(request, route)
    current = ACTING.set(acting)
    try:
        response = await _act(request, route, handler, acting, body)
    finally:
        ACTING.reset(current)
    response.headers[REQUEST_ID_HEADER] = str(acting.request_id)
    return response


async def _check_scope(request: web.Request, route: Route, told: str | None) -> None:
    principal = request[PRINCIPAL]
    if principal.applications is None or route.scope is Scope.ANYBODY:
        return
    fields = {
        field.encode_name
        for kind in (route.query, route.body)
        if kind is not None
        for field in msgspec.structs.fields(kind)
    }
    concern = concern_of(
        route.path,
        request.match_info,
        API,
        names_application="application" in fields,
        application=request.query.get("application") if route.looks else told,
    )
    scopes = request.app[STORE].scopes
    match concern:
        case ByReference(reference):
            whose = await scopes.of_reference(reference)
        case ByThing(noun, name) if _UUID.fullmatch(name):
            whose = await scopes.of_thing(noun, uuid.UUID(name))
        case _:
            whose = None
    check_scope(principal, concern, whose)


def _conditional(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """The answer with its ETag, or 304 where the caller has it already."""
    if not isinstance(response, web.Response) or response.status != 200 or not isinstance(response.body, bytes):
        return response
    etag = etag_of(response.body)
    wanted = tags_of(hdrs.IF_NONE_MATCH, request.headers.getall(hdrs.IF_NONE_MATCH, []))
    if wanted is not None and wanted.match(etag, weakly=True):
        response = web.Response(status=304)
    response.headers[hdrs.ETAG] = etag
    response.headers[hdrs.CACHE_CONTROL] = "private, no-cache"
    return response


def _precondition(request: web.Request, route: Route) -> Any:
    """What raises unless the target is what If-Match says; None where the request has no condition."""
    if hdrs.IF_NONE_MATCH in request.headers:
        raise InvalidInput("If-None-Match goes with GET: use If-Match for what changes something")
    wanted = tags_of(hdrs.IF_MATCH, request.headers.getall(hdrs.IF_MATCH, []))
    if wanted is None:
        return None
    place = tagged_path(route.path, _LOOKS)
    if place is None:
        raise InvalidInput("If-Match goes with what is there already, and this makes something new")
    look = _BY_PLACE[hdrs.METH_GET, place]

    async def judge() -> None:
        etag = await _present_etag(request, look)
        if etag is None or not wanted.match(etag, weakly=False):
            raise _changed_since(place, wanted, etag)

    return judge


async def _present_etag(request: web.Request, look: Route) -> str | None:
    """The ETag of what the path names as it is now, read beside the transaction that waits for it."""
    parts = request.path.split("/")[: len(look.path.split("/"))]
    asked = request.clone(method=hdrs.METH_GET, rel_url="/".join(parts))
    # What the handlers of GET need of a request: the places of its path, the application, and who asks.
    asked._match_info = request.match_info  # noqa: SLF001  # aiohttp's clone leaves it out
    asked[PRINCIPAL] = request[PRINCIPAL]
    looking = LOOKING.set(True)
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            response = await look.handler(asked)
    except NotFound:
        return None
    except TimeoutError as fault:
        raise Unavailable("what If-Match is about could not be read in time: try again", retry_after_s=2.0) from fault
    finally:
        LOOKING.reset(looking)
    return etag_of(response.body) if isinstance(response, web.Response) and isinstance(response.body, bytes) else None


def _changed_since(place: str, wanted: Tags, etag: str | None) -> PreconditionFailed:
    if etag is None:
        return PreconditionFailed("there is no such thing, and If-Match asks for one")
    return PreconditionFailed(
        f"it has changed since you looked: GET {place} shows it as it is now, with the ETag to send",
        details={"etag": etag, "if_match": sorted(wanted.tags)},
    )


async def _act(request: web.Request, route: Route, handler: Handler, acting: Acting, body: bytes) -> web.StreamResponse:
    header = request.headers.get(KEY_HEADER)
    if route.secret and (header is not None or acting.dry_run):
        what = "Idempotency-Key" if header is not None else DRY_RUN
        raise InvalidInput(f"this answers with a secret that is kept nowhere, so it cannot be done with {what}")
    key = key_of(header) if request.method == hdrs.METH_POST else None
    if acting.dry_run:
        return _would(acting, await _answer(request, route, handler, acting))
    if key is None:
        return await _answer(request, route, handler, acting)
    keys, name = request.app[STORE].idempotency, acting.principal.name
    query = f"{request.query_string} {acting.approval or ''} {request.headers.get(hdrs.IF_MATCH, '')}"
    digest = fingerprint(request.method, request.path, query, body)
    kept = await keys.claim(name, key, digest)
    if kept is not None:
        return _replay(key, digest, kept)
    acting.key = key
    done = False
    try:
        response = await _answer(request, route, handler, acting)
        if 200 <= response.status < 300 and response.status != 202 and isinstance(response, web.Response):
            content = response.body if isinstance(response.body, bytes) else b""
            if len(content) <= MAX_KEPT_ANSWER:
                etag = response.headers.get(hdrs.ETAG)
                await keys.keep(name, key, status=response.status, body=content, etag=etag)
                done = True
    finally:
        if not done:
            await keys.release(name, key)
    return response


def _replay(key: str, digest: bytes, kept: KeptAnswer) -> web.Response:
    """What an earlier request with the same key was answered.

    Raises:
        Unprocessable: It was another request.
        Conflict: It is under way; or it was done, and its answer was lost.
    """
    if kept.request_sha256 != digest:
        raise Unprocessable(f"the key {key!r} was used for another request: use a new key for each")
    if kept.status is None:
        raise Conflict("a request with this key is under way: send it again in a moment", retry_after_s=1.0)
    if kept.status == LOST:
        raise Conflict("this was done already, and its answer was lost when the server ended: look at what is there")
    headers = {hdrs.CONTENT_TYPE: JSON, REPLAYED_HEADER: "true"}
    if kept.etag is not None:
        headers[hdrs.ETAG] = kept.etag
    return web.Response(status=kept.status, body=kept.body, headers=headers)


async def _answer(request: web.Request, route: Route, handler: Handler, acting: Acting) -> web.StreamResponse:
    try:
        response = await handler(request)
    except ApprovalWanted as wanted:
        acting.precondition = None
        approval = await request.app[STORE].approvals.ask(wanted)
        place = f"{API}/approvals/{approval['approval_id']}"
        return json_response(approval, status=202, headers={hdrs.LOCATION: place})
    if acting.precondition is not None:
        # It needed no transaction, so it changed nothing: the condition is judged all the same.
        await acting.precondition()
    place_of_tag = tagged_path(route.path, _LOOKS)
    same = place_of_tag is not None and answers_with(route.answer, _LOOKS[place_of_tag])
    if same and response.status == 200 and isinstance(response, web.Response) and isinstance(response.body, bytes):
        response.headers[hdrs.ETAG] = etag_of(response.body)
    return response


def _would(acting: Acting, response: web.StreamResponse) -> web.StreamResponse:
    """The answer of a dry run: as it would have been, with what would have been told."""
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    told: Sequence[Mapping[str, str]] = acting.would
    value = orjson.loads(response.body)
    return json_response({**value, "dry_run": True, "would": list(told)})
