"""Conditional requests, by RFC 9110 section 13. Pure: header texts and the payload's validators in, a verdict out.

A payload is named by its digest, so its entity tag is strong and its bytes never change.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Final

_ENTITY_TAG: Final = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_ENTITY_TAGS: Final = re.compile(r'[ \t,]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?=,|$)')


class Precondition(enum.Enum):
    """What the conditions of a request come to."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not_modified"
    FAILED = "failed"


def http_date(moment: datetime) -> str:
    """An HTTP-date (IMF-fixdate); fractions of a second are dropped."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def evaluate(headers: Mapping[str, str], etag: str, modified: datetime) -> Precondition:
    """Evaluate If-Match, If-Unmodified-Since, If-None-Match and If-Modified-Since of a GET or HEAD, in that order.

    Args:
        headers: The request's fields, case-insensitive.
        etag: The payload's entity tag with its quotes.
        modified: When the payload came to this store.
    """
    modified = modified.replace(microsecond=0)
    if (if_match := headers.get("If-Match")) is not None:
        if not _matches(if_match, etag, weak=False):
            return Precondition.FAILED
    elif (since := _date(headers.get("If-Unmodified-Since"))) is not None and modified > since:
        return Precondition.FAILED
    if (if_none_match := headers.get("If-None-Match")) is not None:
        if _matches(if_none_match, etag, weak=True):
            return Precondition.NOT_MODIFIED
    elif (since := _date(headers.get("If-Modified-Since"))) is not None and modified <= since:
        return Precondition.NOT_MODIFIED
    return Precondition.PROCEED


def if_range_holds(header: str | None, etag: str, modified: datetime) -> bool:
    """Whether the Range header of a request is to be honoured (RFC 9110 13.1.5).

    Entity tags compare strongly; a date must equal Last-Modified to the second.
    """
    if header is None:
        return True
    value = header.strip(" \t")
    if _ENTITY_TAG.fullmatch(value) is not None:
        return value == etag
    return _date(value) == modified.replace(microsecond=0)


def _matches(header: str, etag: str, *, weak: bool) -> bool:
    value = header.strip(" \t")
    if value == "*":
        return True
    tags = _ENTITY_TAGS.findall(value)
    return etag in tags or (weak and f"W/{etag}" in tags)


def _date(header: str | None) -> datetime | None:
    """An HTTP-date, or None where there is none or it is malformed: such a field is ignored."""
    if header is None:
        return None
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
