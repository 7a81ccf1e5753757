"""Bodies and queries about applications."""

from __future__ import annotations

import enum

import msgspec

from services.control.requests.fields import Name, OmahaId, Request, SortedPage
from shared.domain.scheme import VersionScheme


class NewApplication(Request, frozen=True, kw_only=True):
    """``omaha_id``: the appid that Omaha clients send, with or without braces, in any case.

    ``observe_only``: nodes are seen and nothing is offered to them, beside another update server.
    """

    name: Name
    omaha_id: OmahaId | None = None
    product: Name | None = None
    version_scheme: VersionScheme = VersionScheme.FLATCAR
    observe_only: bool = False


class ApplicationPatch(Request, frozen=True, kw_only=True):
    """What is given changes."""

    product: Name | msgspec.UnsetType | None = msgspec.UNSET
    version_scheme: VersionScheme | msgspec.UnsetType = msgspec.UNSET
    observe_only: bool | msgspec.UnsetType = msgspec.UNSET


class ApplicationSort(enum.StrEnum):
    """What applications are sorted by."""

    CREATED = "created"
    NAME = "name"


class ApplicationsQuery(SortedPage, frozen=True, kw_only=True):
    """All applications."""

    sort: ApplicationSort = ApplicationSort.CREATED
