"""What the routes of all nouns share: `Route` and its makers, reading a request, writing an answer."""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict, TypeVar, Unpack

import aiohttp
import msgspec
from aiohttp import hdrs, web
from multidict import MultiMapping

from services.control import requests
from services.control.listing import SORT_KEY, cursor_of
from services.control.settings import Settings
from services.control.store import Made, Store
from shared.errors import InvalidInput
from shared.web import PRINCIPAL, Role, json_response

STORE: Final = web.AppKey("STORE", Store)
SETTINGS: Final = web.AppKey("SETTINGS", Settings)
SESSION: Final = web.AppKey("SESSION", aiohttp.ClientSession)
REFERENCE: Final = web.AppKey("REFERENCE", bytes)
"""The page of the API's description, which is made from the routes: so they are handed it."""

API: Final = "/api/v1"
DRY_RUN: Final = "dry_run"
PUBLIC_PATHS: Final = frozenset({f"{API}/", f"{API}/openapi.yaml"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Q = TypeVar("Q", bound=requests.Request)


def is_public(request: web.Request) -> bool:
    """The description of the API is for everybody."""
    return request.path in PUBLIC_PATHS


class Scope(enum.Enum):
    """What a token for single applications may do with a route."""

    BY_APPLICATION = "by_application"
    """Use it for what belongs to them, as the path, the query or the body names it; else nothing."""
    ANYBODY = "anybody"
    """Use it: what it says belongs to no application."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation of the API, with what its description in openapi.yaml is made from.

    Attributes:
        summary: What it does, in one sentence.
        body: What its JSON body must be; a body that may be left out is ``body_optional``.
        query: What its query may hold.
        answer: The schema of a good answer, by its name in the description; ``[X]`` is a page of X.
        created: Whether it answers 201 where it made something, and 200 where the same was there.
        role: The least role that may do it; None: a viewer where it only looks, an operator else.
        scope: What a token for single applications may do with it.
        secret: Whether the answer holds a secret: it is not kept for a retry, and there is no dry run.
        approvable: Whether a policy may want four eyes for it: then it answers 202 until another one has allowed it.
        max_body_bytes: The largest body; None: the service's own limit.
        reports: Media types that the body may have instead of JSON.
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
    role: Role | None = None
    scope: Scope = Scope.BY_APPLICATION
    secret: bool = False
    approvable: bool = False
    max_body_bytes: int | None = None
    reports: tuple[str, ...] = ()

    @property
    def looks(self) -> bool:
        """Whether it changes nothing."""
        return self.method == hdrs.METH_GET

    @property
    def least_role(self) -> Role:
        """The least role that may do it."""
        return self.role or (Role.VIEWER if self.looks else Role.OPERATOR)

    @property
    def query_names(self) -> frozenset[str]:
        """What its query may name."""
        own = () if self.query is None else (field.encode_name for field in msgspec.structs.fields(self.query))
        return frozenset(own) | (frozenset() if self.looks else {DRY_RUN})


class Rules(TypedDict, total=False):
    """Of a route: who may use it and how, as `Route` has it."""

    role: Role
    scope: Scope
    secret: bool
    approvable: bool
    max_body_bytes: int


def get(
    path: str,
    handler: Handler,
    answer: str,
    summary: str,
    query: type[requests.Request] | None = None,
    **rules: Unpack[Rules],
) -> Route:
    """A route that only looks; ``path`` is without the API's prefix."""
    return Route(method="GET", path=API + path, handler=handler, answer=answer, summary=summary, query=query, **rules)


def post(
    path: str,
    handler: Handler,
    answer: str,
    summary: str,
    body: type[requests.Request],
    *,
    created: bool = False,
    body_optional: bool = False,
    **rules: Unpack[Rules],
) -> Route:
    """A route that changes something; ``path`` is without the API's prefix."""
    return Route(
        method="POST",
        path=API + path,
        handler=handler,
        answer=answer,
        summary=summary,
        body=body,
        body_optional=body_optional,
        created=created,
        **rules,
    )


def patch(
    path: str,
    handler: Handler,
    answer: str,
    summary: str,
    body: type[requests.Request],
    **rules: Unpack[Rules],
) -> Route:
    """A route that changes parts of something; ``path`` is without the API's prefix."""
    return Route(method="PATCH", path=API + path, handler=handler, answer=answer, summary=summary, body=body, **rules)


# Reading


def query(request: web.Request, kind: type[Q]) -> Q:
    """The query as a Struct; a name that comes twice is a list.

    Raises:
        InvalidInput: A name is unknown, or a value is not what is asked for.
    """
    given = _plain(request.query, kind)
    if request.method != hdrs.METH_GET:
        given.pop(DRY_RUN, None)
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


def path_id(request: web.Request, what: str) -> uuid.UUID:
    """The id in the path of a ``what``.

    Raises:
        InvalidInput: It is no UUID.
    """
    text = request.match_info["id"]
    if _UUID.fullmatch(text) is None:
        raise InvalidInput(f"{text[:64]!r} is no {what} id: use the UUID that the list shows")
    return uuid.UUID(text)


_KEY_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)


def key_id(request: web.Request) -> str:
    """The id of a key in the path.

    Raises:
        InvalidInput: It is none.
    """
    text = request.match_info["key"]
    if _KEY_ID.fullmatch(text) is None:
        raise InvalidInput(f"{text[:64]!r} is no key id: use the 16 digits that `uneventful keys list` shows")
    return text


def may_override(request: web.Request) -> bool:
    """Whether who asks may promote by themselves what a channel's demands are against."""
    return request[PRINCIPAL].role.covers(Role.APPROVER)


def by(request: web.Request) -> str:
    """Who asks; goes into events."""
    return request[PRINCIPAL].name


# Writing


def page(items: Sequence[Mapping[str, Any]], limit: int, key: str, *, sort: enum.StrEnum | None = None) -> web.Response:
    """A page, with the cursor of the next where it is full; ``key`` names the id in each item."""
    following = cursor_of(items[-1], key, sort) if len(items) == limit else None
    shown = [{name: value for name, value in item.items() if name != SORT_KEY} for item in items]
    return json_response({"items": shown, "next": following})


def made(thing: Made) -> web.Response:
    """201 with what was made, or 200 with the same that was there."""
    return json_response(thing.item, status=201 if thing.new else 200)
