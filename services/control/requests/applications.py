"""Bodies and queries about applications."""

from __future__ import annotations

from services.control.requests.fields import Name, OmahaId, Page, Request


class NewApplication(Request, frozen=True, kw_only=True):
    """``omaha_id``: the appid that Omaha clients send, with or without braces, in any case."""

    name: Name
    omaha_id: OmahaId | None = None


class ApplicationsQuery(Page, frozen=True, kw_only=True):
    """All applications."""
