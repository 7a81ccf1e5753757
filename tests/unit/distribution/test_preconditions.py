"""Conditional requests, by RFC 9110 section 13."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from services.distribution.preconditions import Precondition, evaluate, http_date, if_range_holds

ETAG = '"' + "ab" * 32 + '"'
MODIFIED = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
SAME, OLDER, NEWER = (http_date(MODIFIED + timedelta(seconds=s)) for s in (0, -1, 1))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, Precondition.PROCEED),
        ({"if-none-match": ETAG}, Precondition.NOT_MODIFIED),
        ({"If-None-Match": f"W/{ETAG}"}, Precondition.NOT_MODIFIED),
        ({"If-None-Match": f'"x", W/"y" ,{ETAG}'}, Precondition.NOT_MODIFIED),
        ({"If-None-Match": "*"}, Precondition.NOT_MODIFIED),
        ({"If-None-Match": '"x"'}, Precondition.PROCEED),
        ({"If-None-Match": ETAG.strip('"')}, Precondition.PROCEED),
        ({"If-Match": ETAG}, Precondition.PROCEED),
        ({"If-Match": "*"}, Precondition.PROCEED),
        ({"If-Match": f"W/{ETAG}"}, Precondition.FAILED),
        ({"If-Match": '"x"'}, Precondition.FAILED),
        ({"If-Match": '"x"', "If-None-Match": ETAG}, Precondition.FAILED),
        ({"If-Match": ETAG, "If-None-Match": ETAG}, Precondition.NOT_MODIFIED),
        ({"If-Modified-Since": SAME}, Precondition.NOT_MODIFIED),
        ({"If-Modified-Since": NEWER}, Precondition.NOT_MODIFIED),
        ({"If-Modified-Since": OLDER}, Precondition.PROCEED),
        ({"If-Modified-Since": "yesterday"}, Precondition.PROCEED),
        ({"If-Modified-Since": SAME, "If-None-Match": '"x"'}, Precondition.PROCEED),
        ({"If-Unmodified-Since": SAME}, Precondition.PROCEED),
        ({"If-Unmodified-Since": OLDER}, Precondition.FAILED),
        ({"If-Unmodified-Since": OLDER, "If-Match": ETAG}, Precondition.PROCEED),
        ({"If-Unmodified-Since": "Sun, 99 Nov"}, Precondition.PROCEED),
    ],
)
def test_conditions_are_evaluated_in_the_order_of_the_rfc(headers, expected):
    """If-Match before If-Unmodified-Since before If-None-Match before If-Modified-Since; bad dates are ignored."""
    assert evaluate(CIMultiDict(headers), ETAG, MODIFIED) is expected


@pytest.mark.parametrize(
    ("header", "holds"),
    [
        (None, True),
        (ETAG, True),
        (f" {ETAG} ", True),
        (f"W/{ETAG}", False),
        ('"other"', False),
        ("", False),
        ("*", False),
        (SAME, True),
        (OLDER, False),
        (NEWER, False),
        (f"{ETAG}, {ETAG}", False),
    ],
)
def test_if_range_compares_strongly(header, holds):
    """Only the very entity tag, or the very date, lets a Range through."""
    assert if_range_holds(header, ETAG, MODIFIED) is holds


@given(st.text(max_size=60))
def test_no_text_makes_conditions_fail(text):
    """Any field value is judged, none raises."""
    names = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
    assert {evaluate(CIMultiDict({name: text}), ETAG, MODIFIED) for name in names} <= set(Precondition)
    assert isinstance(if_range_holds(text, ETAG, MODIFIED), bool)
