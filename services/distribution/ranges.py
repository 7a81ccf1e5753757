"""Byte ranges, exactly by RFC 9110 section 14. Pure: a header's text and a size in, what to send out."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

MAX_RANGES: Final = 8
"""A Range header with more ranges than this is ignored, as RFC 9110 14.2 allows."""

_INT_RANGE: Final = re.compile(r"([0-9]+)-([0-9]*)")
_SUFFIX_RANGE: Final = re.compile(r"-([0-9]+)")
_MAX_DIGITS: Final = 19
_BEYOND_ANY_FILE: Final = 10**_MAX_DIGITS


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A slice of a file: ``length`` bytes (at least one) from ``start``."""

    start: int
    length: int

    @property
    def last(self) -> int:
        """The position of the last byte, as Content-Range writes it."""
        return self.start + self.length - 1


class Whole(enum.Enum):
    """What to do when no ranges are sent."""

    WHOLE = "whole"
    """Send everything with 200: there was no Range header, or one to be ignored."""
    UNSATISFIABLE = "unsatisfiable"
    """Send 416 with ``Content-Range: bytes */size``."""


def select(header: str | None, size: int) -> tuple[ByteRange, ...] | Whole:
    """Decide what a Range header asks of a file.

    Malformed headers and other units are ignored (RFC 9110 14.2), as are sets of more than ``MAX_RANGES`` ranges and
    sets that ask for more bytes than the file has (overlaps made to cost us more than the whole file).

    Args:
        header: The field's value, or None where there was none.
        size: The file's size in bytes.

    Returns:
        The satisfiable ranges in the order asked for (at least one), or which of the two other answers it is.
    """
    if header is None:
        return Whole.WHOLE
    specs = _parse(header)
    if specs is None:
        return Whole.WHOLE
    ranges = tuple(found for first, last in specs if (found := _clip(first, last, size)) is not None)
    if not ranges:
        return Whole.UNSATISFIABLE
    if sum(part.length for part in ranges) > size:
        return Whole.WHOLE
    return ranges


def content_range(part: ByteRange, size: int) -> str:
    """The Content-Range of one part."""
    return f"bytes {part.start}-{part.last}/{size}"


def unsatisfied_range(size: int) -> str:
    """The Content-Range of a 416."""
    return f"bytes */{size}"


def part_head(part: ByteRange, size: int, boundary: str, content_type: str) -> bytes:
    """What stands before a part of a multipart/byteranges body (RFC 9110 14.6), its delimiter included."""
    return (
        f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {content_range(part, size)}\r\n\r\n"
    ).encode("ascii")


def multipart_end(boundary: str) -> bytes:
    """The closing delimiter of a multipart/byteranges body."""
    return f"\r\n--{boundary}--\r\n".encode("ascii")


def _parse(header: str) -> list[tuple[int | None, int | None]] | None:
    """The ranges as (first, last), (first, None) or (None, suffix length); None where the header is to be ignored."""
    unit, equals, listed = header.partition("=")
    if not equals or unit.strip(" \t").lower() != "bytes":
        return None
    specs: list[tuple[int | None, int | None]] = []
    for element in listed.split(","):
        spec = element.strip(" \t")
        if not spec:
            # A recipient must accept a few empty list elements (RFC 9110 5.6.1.2).
            continue
        if (found := _INT_RANGE.fullmatch(spec)) is not None:
            first = _number(found[1])
            last = _number(found[2]) if found[2] else None
            if last is not None and last < first:
                return None
            specs.append((first, last))
        elif (found := _SUFFIX_RANGE.fullmatch(spec)) is not None:
            specs.append((None, _number(found[1])))
        else:
            return None
        if len(specs) > MAX_RANGES:
            return None
    return specs or None


def _number(digits: str) -> int:
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _MAX_DIGITS else _BEYOND_ANY_FILE


def _clip(first: int | None, last: int | None, size: int) -> ByteRange | None:
    """The part of the file that one range covers, or None where it covers nothing."""
    if first is None:
        length = min(last or 0, size)
        return ByteRange(size - length, length) if length else None
    if first >= size:
        return None
    end = size if last is None else min(last + 1, size)
    return ByteRange(first, end - first)
