"""What a node says in one request, whatever dialect it speaks: what decisions and reports are made from."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from services.update_check.configuration import ApplicationView, GroupView
from services.update_check.standing import NodeKey
from shared.domain.identity import node_id_for
from shared.domain.observation import Observation, ObservationKind, ObservationSource

MAX_MACHINE_ID = 128
MAX_VERSION = 128
MAX_ARCH = 32
"""As long as a changeset's arch may be: what is longer names none, and an event would not take it."""


class News(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A report that rides on a request; the fields are those of an observation."""

    kind: ObservationKind
    error_code: int | None = None
    error_base: int | None = None
    error_class: str | None = None
    previous_version: str | None = None
    reason: str | None = None


class Poll(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one node says of itself, what it reports and whether it asks for an update.

    Attributes:
        fact: Tells one fact by name, None where it is unknown; without building them all. Imported ones count.
        facts: Builds all that the node tells; not what was imported.
        asks: Whether it asks for an update; else it only reports, or says that it is there.
        on_demand: Whether somebody at the node asked for this check.
    """

    source: ObservationSource
    application: ApplicationView
    key: NodeKey
    version: str
    boot_id: str
    arch: str | None
    group: GroupView | None
    fact: Callable[[str], str | None]
    facts: Callable[[], dict[str, str]]
    news: tuple[News, ...] = ()
    asks: bool = True
    on_demand: bool = False
    at: datetime
    address: str | None
    traceparent: str | None


def told_first(told: Callable[[str], str | None], imported: Mapping[str, str] | None) -> Callable[[str], str | None]:
    """Facts of a node of which operators may have imported some: what it tells wins."""
    if imported is None:
        return told

    def fact(name: str) -> str | None:
        value = told(name)
        return imported.get(name) if value is None else value

    return fact


def without_asking(poll: Poll) -> Poll:
    """The same, of a node that only says that it is there."""
    return msgspec.structs.replace(poll, asks=False)


def contact_of(poll: Poll, event_id: uuid.UUID) -> Observation:
    """What the request itself says, whatever is reported in it."""
    return observation_of(poll, News(kind=ObservationKind.POLL if poll.asks else ObservationKind.PING), event_id)


def observation_of(poll: Poll, news: News, event_id: uuid.UUID) -> Observation:
    """What one report says."""
    return Observation(
        event_id=event_id,
        kind=news.kind,
        source=poll.source,
        node_id=node_id_for(*poll.key),
        application_id=poll.application.application_id,
        machine_id=poll.key[1],
        version=poll.version,
        boot_id=poll.boot_id,
        at=poll.at,
        group_id=poll.group.group_id if poll.group is not None else None,
        arch=poll.arch,
        facts=poll.facts(),
        address=poll.address,
        error_code=news.error_code,
        error_base=news.error_base,
        error_class=news.error_class,
        previous_version=news.previous_version,
        reason=news.reason,
        traceparent=poll.traceparent,
    )
