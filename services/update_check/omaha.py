"""From Omaha to what the rest of the house speaks: pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from services.update_check.configuration import ApplicationView
from services.update_check.poll import MAX_ARCH, MAX_MACHINE_ID, MAX_VERSION, News, Poll, told_first
from shared.domain.observation import ObservationKind, ObservationSource
from shared.omaha.errorcodes import base_code, classify
from shared.omaha.facts import arch_of, facts_of
from shared.omaha.identity import normalise_boot_id
from shared.omaha.meaning import EventMeaning, event_meaning
from shared.omaha.request import App, Event, Request

ON_DEMAND: Final = "ondemandupdate"
"""The install source of a check that somebody asked for at the node."""

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
        case "board":
            return app.board or None
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


def news_of(app: App) -> tuple[News, ...]:
    """The events that say something, in order."""
    news: list[News] = []
    for event in app.events:
        kind = _kind_of(event)
        if kind is not None:
            news.append(_news(event, kind))
    return tuple(news)


@functools.lru_cache(maxsize=256)
def _kind_of(event: Event) -> ObservationKind | None:
    return _KINDS.get(event_meaning(event))


def _news(event: Event, kind: ObservationKind) -> News:
    code = event.errorcode
    base = base_code(code) if code is not None else None
    return News(
        kind=kind,
        error_code=code,
        error_base=base,
        error_class=classify(base).value if base is not None else None,
        previous_version=event.previousversion or None,
    )


def poll_of(
    request: Request,
    app: App,
    application: ApplicationView,
    *,
    at: datetime,
    address: str | None,
    traceparent: str | None,
    imported: Mapping[str, str] | None = None,
) -> Poll:
    """Put together what one ``<app>`` says, with what is known about who sent it and when.

    ``imported`` are facts of the node that operators imported, where there are some.
    """
    fact_of = told_first(functools.partial(fact, request, app), imported)
    return Poll(
        source=ObservationSource.OMAHA,
        application=application,
        key=(application.application_id, app.machineid),
        version=app.version,
        boot_id=boot_id_of(app),
        arch=_arch(request, app),
        group=application.group_of(fact_of, app.machineid),
        fact=fact_of,
        facts=functools.partial(facts_of, request, app),
        news=news_of(app) if app.events else (),
        asks=app.update_check,
        on_demand=request.install_source == ON_DEMAND,
        at=at,
        address=address,
        traceparent=traceparent,
    )
