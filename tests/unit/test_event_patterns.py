"""Patterns over event types mean what they mean on a topic exchange."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidInput
from shared.events.patterns import matches, to_regex


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("#", ["a.b.v1"], []),
        ("update.#", ["update.offered.v1"], ["updates.offered.v1", "node.gone.v1"]),
        ("*.halted.v1", ["changeset.halted.v1"], ["changeset.halted.v2", "changeset.rehalted.v1"]),
        ("#.v2", ["a.b.v2"], ["a.b.v1", "a.bv2.v1"]),
        ("update.*.v1", ["update.rolled_back.v1"], ["update.a.b.v1"]),
        ("#.halted.#", ["changeset.halted.v1", "halted.a.v1"], ["changeset.unhalted.v1"]),
        ("log.ticked.v1", ["log.ticked.v1"], ["log.ticked.v11", "logxticked.v1"]),
    ],
)
def test_patterns(pattern, fits, fits_not):
    """Words, one word, any words."""
    assert [kind for kind in fits if not matches(pattern, kind)] == []
    assert [kind for kind in fits_not if matches(pattern, kind)] == []


@pytest.mark.parametrize(
    "pattern", ["", "update.*", "a", "a..b", "a.b.c.d", "A.b.v1", "a.b*.v1", "#" * 300, "(a).b.v1"]
)
def test_patterns_that_fit_nothing_are_refused(pattern):
    """A subscription that would never hear anything is a mistake."""
    with pytest.raises(InvalidInput):
        to_regex(pattern)


def topic_match(pattern: list[str], words: list[str]) -> bool:
    """The definition (AMQP 0-9-1, 3.1.3.3), slow and plain."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(topic_match(pattern[1:], words[place:]) for place in range(len(words) + 1))
    return bool(words) and pattern[0] in {"*", words[0]} and topic_match(pattern[1:], words[1:])


@given(
    pattern=st.lists(st.sampled_from(["#", "*", "a", "b", "v1"]), min_size=1, max_size=5),
    words=st.lists(st.sampled_from(["a", "b", "c", "v1"]), min_size=3, max_size=3),
)
def test_the_regular_expression_is_the_definition(pattern, words):
    """Whatever the pattern, it takes in what a topic exchange takes in."""
    try:
        regex = to_regex(".".join(pattern))
    except InvalidInput:
        assert "#" not in pattern
        assert len(pattern) != 3
        return
    assert (re.fullmatch(regex, ".".join(words)) is not None) == topic_match(pattern, words)
