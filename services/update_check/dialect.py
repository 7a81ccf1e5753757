"""From Omaha to what the rest of the house speaks: pure."""

from __future__ import annotations

import functools
import uuid
from datetime import datetime

import msgspec

from services.update_check.configuration import ApplicationView, GroupView
from services.update_check.standing import NodeKey
from shared.domain.identity import node_id_for
from shared.domain.observation import Observation, ObservationKind, ObservationSource
from shared.omaha.errorcodes import base_code, classify
from shared.omaha.facts import arch_of, facts_of
from shared.omaha.identity import normalise_boot_id
from shared.omaha.meaning import EventMeaning, event_meaning
from shared.omaha.request import App, Event, Request

MAX_MACHINE_ID = 128
MAX_VERSION = 128
MAX_ARCH = 32
"""As long as a changeset's arch may be: what is longer names none, and an event would not take it."""

_KINDS = {
    EventMeaning.DOWNLOAD_STARTED: ObservationKind.DOWNLOAD_STARTED,
    EventMeaning.DOWNLOADED: ObservationKind.DOWNLOADED,
    EventMeaning.STAGED: ObservationKind.STAGED,
    EventMeaning.UPDATED: ObservationKind.UPDATED,
    EventMeaning.ROLLED_BACK: ObservationKind.ROLLED_BACK,
    EventMeaning.FAILED: ObservationKind.FAILED,
}
"""What is news. The rest says nothing about an attempt: no news, deferrals, other updaters' extras, unknown numbers."""


def boot_id_of(app: App) -> str:
    """The node's boot id. A client that sends none is taken to have rebooted when its version changes."""
    return normalise_boot_id(app.bootid) or f"unknown-{app.version}"


def identifies_node(app: App) -> bool:
    """Whether the request says which machine it is about, and on which version, in bounds."""
    return 0 < len(app.machineid) <= MAX_MACHINE_ID and 0 < len(app.version) <= MAX_VERSION


def _arch(request: Request, app: App) -> str | None:
    """The node's arch; what is too long to be one is unknown."""
    arch = arch_of(request, app)
    return arch if arch is not None and len(arch) <= MAX_ARCH else None


def fact(request: Request, app: App, name: str) -> str | None:
    """One fact, without building them all: what a selector asks for."""
    match name:
        case "arch":
            return arch_of(request, app)
        case "track":
            return app.track or None
        case "oem":
            return app.oem or None
        case "oemversion":
            return app.oemversion or None
        case "alephversion":
            return app.alephversion or None
        case "alias":
            return app.machinealias or None
        case "version":
            return app.version or None
        case "platform":
            return request.os_platform or None
        case _:
            return None


def news_of(app: App) -> list[tuple[Event, ObservationKind]]:
    """The events that say something, in order."""
    news: list[tuple[Event, ObservationKind]] = []
    for event in app.events:
        kind = _kind_of(event)
        if kind is not None:
            news.append((event, kind))
    return news


@functools.lru_cache(maxsize=256)
def _kind_of(event: Event) -> ObservationKind | None:
    return _KINDS.get(event_meaning(event))


class Poll(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One ``<app>`` of a request, with what is known about who sent it and when."""

    request: Request
    app: App
    application: ApplicationView
    key: NodeKey
    boot_id: str
    arch: str | None
    group: GroupView | None
    at: datetime
    address: str | None
    traceparent: str | None


def poll_of(
    request: Request,
    app: App,
    application: ApplicationView,
    *,
    at: datetime,
    address: str | None,
    traceparent: str | None,
) -> Poll:
    """Put together what one ``<app>`` says."""
    return Poll(
        request=request,
        app=app,
        application=application,
        key=(application.application_id, app.machineid),
        boot_id=boot_id_of(app),
        arch=_arch(request, app),
        group=application.group_of(functools.partial(fact, request, app)),
        at=at,
        address=address,
        traceparent=traceparent,
    )


def contact_of(poll: Poll, event_id: uuid.UUID) -> Observation:
    """What the poll itself says, whatever its events say."""
    return observation_of(poll, None, ObservationKind.POLL if poll.app.update_check else ObservationKind.PING, event_id)


def observation_of(poll: Poll, event: Event | None, kind: ObservationKind, event_id: uuid.UUID) -> Observation:
    """What one event, or the poll itself, says."""
    app = poll.app
    code = event.errorcode if event is not None else None
    base = base_code(code) if code is not None else None
    return Observation(
        event_id=event_id,
        kind=kind,
        source=ObservationSource.OMAHA,
        node_id=node_id_for(*poll.key),
        application_id=poll.application.application_id,
        machine_id=app.machineid,
        version=app.version,
        boot_id=poll.boot_id,
        at=poll.at,
        group_id=poll.group.group_id if poll.group is not None else None,
        arch=poll.arch,
        facts=facts_of(poll.request, app),
        address=poll.address,
        error_code=code,
        error_base=base,
        error_class=classify(base).value if base is not None else None,
        previous_version=event.previousversion or None if event is not None else None,
        traceparent=poll.traceparent,
    )
