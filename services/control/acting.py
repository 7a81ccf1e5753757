"""Who does what in the request at hand: set by the middleware, read by the store when it changes something."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from shared.web import Principal


@dataclass(slots=True, kw_only=True)
class Acting:
    """One request that may change something, and what came of it so far.

    Attributes:
        principal: Who asks.
        action: Method and path of the operation, as openapi.yaml names it.
        target: What the path names, as events name it (``groups/<id>``); None where it names nothing.
        request: Method, path and body, for the record of what was asked for.
        address: From where.
        request_id: The id of this request; in the answer's header too.
        key: The idempotency key, where its answer is to be kept.
        reason: Why, from the body.
        approval: The approval that allows it.
        dry_run: Whether everything is taken back at the end.
        precondition: Raises where the target is not what the caller saw last; asked once, under the locks.
        subject: What it was about, where the path does not say: the store knows it after it made something.
        would: Of a dry run: the events that would have been appended.
        recorded: Whether the ledger has the action; there is one entry per request.
    """

    principal: Principal
    action: str
    target: str | None
    request: dict[str, Any]
    request_id: uuid.UUID
    address: str | None = None
    key: str | None = None
    reason: str | None = None
    approval: uuid.UUID | None = None
    dry_run: bool = False
    precondition: Callable[[], Awaitable[None]] | None = None
    subject: str | None = None
    would: list[dict[str, str]] = field(default_factory=list)
    recorded: bool = False


ACTING: Final[ContextVar[Acting | None]] = ContextVar("ACTING", default=None)
"""None outside of requests that may change something: what services do by themselves is told by their own events."""

LOOKING: Final[ContextVar[bool]] = ContextVar("LOOKING", default=False)
"""Whether reads go by connections that can do nothing else, beside the transaction that waits for them."""


def about(subject: str) -> None:
    """Name what the request at hand is about, where its path does not."""
    acting = ACTING.get()
    if acting is not None:
        acting.subject = subject


def dry_running() -> bool:
    """Whether the request at hand is only tried."""
    acting = ACTING.get()
    return acting is not None and acting.dry_run
