"""Files about many nodes: facts as CSV or NDJSON, machine ids one per line. Pure but for reading the file."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, TextIO

import orjson

from services.cli.errors import Refused

MAX_ROWS: Final = 100_000
MAX_LINE: Final = 64 * 1024
BATCH: Final = 1_000
_MACHINE: Final = ("machine", "machine_id", "machineid")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What a file says of nodes, all of it, so that a wrong line is found before anything is sent.

    Args:
        path: NDJSON where it ends in ``.ndjson``, ``.jsonl`` or ``.json``, else CSV with a heading; ``-``: stdin, by
            its first character.

    Raises:
        Refused: A line is wrong or the file is too long; the message names the line.
    """
    with _open(path) as file:
        lines = _bounded(file)
        first = next(lines, "")
        as_json = path.suffix in (".ndjson", ".jsonl", ".json") or (str(path) == "-" and first.lstrip().startswith("{"))
        everything = _again(first, lines)
        rows = list(_json_rows(everything) if as_json else _csv_rows(everything))
    if not rows:
        raise Refused(f"{path} says nothing of any machine")
    seen: set[str] = set()
    for row in rows:
        if row["machine"] in seen:
            raise Refused(f"{path} names {row['machine']!r} twice: say all of a machine at once")
        seen.add(row["machine"])
    return rows


def machines_of(path: Path) -> list[str]:
    """Machine ids, one per line; empty lines and those that begin with # are left out.

    Raises:
        Refused: There is none, or the file is too long.
    """
    with _open(path) as file:
        stripped = (line.strip() for line in _bounded(file))
        found = [line for line in stripped if line and not line.startswith("#")]
    if not found:
        raise Refused(f"{path} names no machine")
    return list(dict.fromkeys(found))


def batches(rows: list[Any]) -> Iterator[list[Any]]:
    """Rows as they are sent: each batch is one transaction."""
    for first in range(0, len(rows), BATCH):
        yield rows[first : first + BATCH]


def _open(path: Path) -> Any:
    if str(path) == "-":
        return nullcontext(sys.stdin)
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as fault:
        raise Refused(f"{path} cannot be read: {fault}") from fault


def _bounded(file: TextIO) -> Iterator[str]:
    try:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), start=1):
            if len(line) > MAX_LINE:
                raise Refused(f"line {number} is longer than {MAX_LINE} characters")
            # The heading is no row.
            if number > MAX_ROWS + 1:
                raise Refused(f"there are more than {MAX_ROWS} lines: split the file")
            yield line
    except UnicodeDecodeError as fault:
        raise Refused(f"the file is not UTF-8: {fault}") from fault


def _again(first: str, rest: Iterable[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _json_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as fault:
            raise Refused(f"line {number} is not JSON: {fault}") from fault
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("machine"), str)
            or set(row) - {"machine", "facts", "alias"}
        ):
            raise Refused(f'line {number} is not like {{"machine": "...", "facts": {{"site": "..."}}, "alias": "..."}}')
        yield row


def _csv_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(lines, strict=True)
    try:
        names = reader.fieldnames or []
        column = next((name for name in names if name.strip().lower() in _MACHINE), None)
        if column is None:
            raise Refused(f"the heading has no column {_MACHINE[0]}: it begins with {', '.join(names[:3])!r}")
        for row in reader:
            if None in row or None in row.values():
                raise Refused(f"line {reader.line_num} has not as many columns as the heading")
            facts = {name.strip(): value for name, value in row.items() if name not in (column, "alias") and value}
            said: dict[str, Any] = {"machine": row[column].strip(), "facts": facts}
            if row.get("alias"):
                said["alias"] = row["alias"]
            yield said
    except csv.Error as fault:
        raise Refused(f"line {reader.line_num} is not CSV: {fault}") from fault
