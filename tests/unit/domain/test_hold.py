"""Segments that are held."""

from __future__ import annotations

import pytest

from shared.domain.hold import Segment
from shared.errors import InvalidInput


@pytest.mark.parametrize(
    ("facts", "belongs"),
    [
        ({"model": "A", "site": "fra"}, True),
        ({"model": "A", "site": "ber"}, False),
        ({"model": "B", "site": "fra"}, False),
        ({"model": "A"}, True),
        ({"model": None, "site": "fra"}, True),
        ({}, True),
    ],
)
def test_a_node_belongs_unless_it_tells_another_value(facts, belongs):
    """What is unknown is held too."""
    assert Segment.of({"site": "fra", "model": "A"}).matches(facts) is belongs


def test_a_segment_reads_like_one_and_is_never_empty():
    """Everything is halted, not held."""
    assert str(Segment.of({"site": "fra", "model": "A"})) == "model A, site fra"
    with pytest.raises(InvalidInput, match="halt it"):
        Segment.of({})
