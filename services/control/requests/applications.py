"""Bodies and queries about applications."""

from __future__ import annotations

import msgspec

from services.control.requests.fields import Name, OmahaId, Page, Request
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


class ApplicationsQuery(Page, frozen=True, kw_only=True):
    """All applications."""
