"""The order of OS versions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.version import is_newer, parse

OLDEST_FIRST = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "2905.2.6",
    "3033.2.0",
    "3033.2.0+nightly-20220822-2100",
    "3033.2.0+nightly-20220823-2100",
    "3033.2.0+nightly-20220823-2101",
    "3033.2.1",
    "3033.10.0",
    "3340.0.0",
]


def test_flatcar_and_semantic_versions_in_order():
    """Nightlies follow each other and their base; pre-releases come before their release."""
    for old, new in itertools.combinations(OLDEST_FIRST, 2):
        assert is_newer(new, old) is True, (old, new)
        assert is_newer(old, new) is False, (old, new)


@pytest.mark.parametrize(
    "text", ["", "dev", "1.0.0.0.0", "1..0", "1.0.0-", "1.0.0+", "1.0.0 ", "\u0661.0.0", "1" * 10, "v"]
)
def test_what_is_no_version_compares_to_nothing(text):
    """Nodes say what they like."""
    assert parse(text) is None
    assert is_newer(text, "1.0.0") is None
    assert is_newer("1.0.0", text) is None


def test_missing_numbers_are_zero_and_a_v_is_nothing():
    """1.2 is 1.2.0."""
    assert parse("v1.2") == parse("1.2.0") == parse("1.2.0.0")
    assert is_newer("2026.11.22", "2026.9.30") is True


identifiers = st.lists(st.from_regex(r"[0-9A-Za-z]{1,4}", fullmatch=True), min_size=1, max_size=3).map(".".join)
versions = st.builds(
    lambda numbers, pre, build: (
        ".".join(map(str, numbers)) + (f"-{pre}" if pre else "") + (f"+{build}" if build else "")
    ),
    st.lists(st.integers(0, 12), min_size=1, max_size=4),
    st.none() | identifiers,
    st.none() | identifiers,
)


@settings(deadline=None)
@given(a=versions, b=versions, c=versions)
def test_the_order_is_total(a, b, c):
    """Any two compare, one way only, and what is between is between."""
    a_b, b_a = is_newer(a, b), is_newer(b, a)
    assert a_b is not None
    assert (a_b, b_a, parse(a) == parse(b)).count(True) == 1
    if a_b and is_newer(b, c):
        assert is_newer(a, c)


@settings(deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_is_read_without_harm(text):
    """A version or none; and equal to itself."""
    assert is_newer(text, text) in {False, None}
