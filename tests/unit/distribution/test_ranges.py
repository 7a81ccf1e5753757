"""Range headers, by RFC 9110 section 14, against an oracle that walks every byte."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.distribution.ranges import (
    MAX_RANGES,
    ByteRange,
    Whole,
    content_range,
    multipart_end,
    part_head,
    select,
    unsatisfied_range,
)


def oracle(specs: list[tuple[str, str]], size: int) -> list[list[int]]:
    """The positions that each range selects, found by asking of every byte whether it is in."""
    chosen = []
    for first, last in specs:
        if first:
            positions = [i for i in range(size) if i >= int(first) and (not last or i <= int(last))]
        else:
            positions = [i for i in range(size) if i >= size - int(last)]
        if positions:
            chosen.append(positions)
    return chosen


POSITION = st.integers(0, 70).map(str)
INT_RANGE = st.tuples(POSITION, st.one_of(st.just(""), POSITION)).filter(
    lambda spec: not spec[1] or int(spec[0]) <= int(spec[1])
)
SUFFIX = st.tuples(st.just(""), POSITION)
SPACE = st.sampled_from(["", " ", "\t", " ,", ", ,"])


@given(
    specs=st.lists(st.one_of(INT_RANGE, SUFFIX), min_size=1, max_size=MAX_RANGES),
    size=st.integers(1, 60),
    unit=st.sampled_from(["bytes", "Bytes", "BYTES"]),
    before=SPACE,
    after=SPACE,
)
def test_valid_ranges_select_what_the_oracle_selects(specs, size, unit, before, after):
    """Any valid set, however it is spaced, selects exactly its bytes; one that selects too many sends the whole."""
    header = f"{unit}=" + ",".join(f"{before}{first}-{last}{after}" for first, last in specs)
    expected = oracle(specs, size)
    selected = select(header, size)
    if not expected:
        assert selected is Whole.UNSATISFIABLE
    elif sum(map(len, expected)) > size:
        assert selected is Whole.WHOLE
    else:
        assert not isinstance(selected, Whole)
        assert [list(range(part.start, part.last + 1)) for part in selected] == expected


@given(header=st.text(max_size=40), size=st.integers(1, 10**12))
@example(header="bytes=" + "9" * 8000 + "-", size=10)
@example(header="bytes=-" + "9" * 8000, size=10)
@example(header="bytes=\u0661-\u0662", size=10)
def test_no_text_makes_it_fail_or_leave_the_file(header, size):
    """Whatever comes, the answer is whole, unsatisfiable, or ranges inside the file."""
    selected = select(header, size)
    if not isinstance(selected, Whole):
        assert all(0 <= part.start <= part.last < size for part in selected)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes= , ",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=2-1",
        "bytes=0-0,2-1",
        "bytes 0-1",
        "items=0-1",
        "seconds=1-",
        "bytes=0x1-2",
        "bytes=1-2;q=1",
        "bytes=" + ",".join(f"{i}-{i}" for i in range(MAX_RANGES + 1)),
        "bytes=0-,0-,0-",
        "bytes=0-99,0-0",
    ],
)
def test_what_is_no_good_range_is_ignored(header):
    """Malformed sets, other units, too many ranges and overlaps that exceed the file mean the whole file."""
    assert select(header, 100) is Whole.WHOLE


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=500-,-0", "bytes=" + "9" * 30 + "-"]
)
def test_ranges_past_the_end_are_unsatisfiable(header):
    """A valid set without one satisfiable range is a 416."""
    assert select(header, 100) is Whole.UNSATISFIABLE


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("bytes=0-", [(0, 100)]),
        ("bytes=0-0", [(0, 1)]),
        ("bytes=99-", [(99, 1)]),
        ("bytes=99-1000", [(99, 1)]),
        ("bytes=-1", [(99, 1)]),
        ("bytes=-1000", [(0, 100)]),
        ("bytes=007-0009", [(7, 3)]),
        ("bytes=0-41,73-", [(0, 42), (73, 27)]),
        ("bytes=50-59,0-9", [(50, 10), (0, 10)]),
        ("bytes=0-9,5-14", [(0, 10), (5, 10)]),
        ("bytes=0-9,500-", [(0, 10)]),
    ],
)
def test_ranges_are_cut_to_the_file_and_keep_their_order(header, parts):
    """Two ranges as update_engine resumes with, suffixes, and ranges that end past the file."""
    assert select(header, 100) == tuple(ByteRange(start, length) for start, length in parts)


def test_multipart_text_is_that_of_rfc_9110():
    """Delimiters, part headers and Content-Range are written as in RFC 9110 14.4 and 14.6."""
    part = ByteRange(500, 500)
    assert content_range(part, 8000) == "bytes 500-999/8000"
    assert unsatisfied_range(8000) == "bytes */8000"
    head = part_head(part, 8000, "SEPARATOR", "application/pdf")
    assert re.fullmatch(
        rb"\r\n--SEPARATOR\r\nContent-Type: application/pdf\r\nContent-Range: bytes 500-999/8000\r\n\r\n", head
    )
    assert multipart_end("SEPARATOR") == b"\r\n--SEPARATOR--\r\n"
