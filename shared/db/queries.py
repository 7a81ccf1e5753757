r"""SQL in files: named statements, loaded once, never built from values.

A file is a row of statements, each under ``-- name: some_name`` and, if need be, comment lines that say what it is
for::

    -- name: node_by_id
    -- One node, or no row.
    SELECT * FROM fleet.nodes WHERE node_id = $1
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import LiteralString, NoReturn

from shared.errors import QueriesInvalid

_HEADER = re.compile(r"--\s*name:\s*(?P<name>\S*)\s*")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class _Query:
    sql: LiteralString
    doc: str


class Queries(Mapping[str, LiteralString]):
    """The statements of one file by name; an unknown name is a KeyError that names the file."""

    __slots__ = ("_queries", "_where")

    def __init__(self, queries: Mapping[str, _Query], where: str) -> None:
        self._queries = dict(queries)
        self._where = where

    @classmethod
    def load(cls, package: str, filename: str = "queries.sql") -> Queries:
        """Read ``filename`` from ``package`` (import path of the package that ships it).

        Raises:
            QueriesInvalid: A name is malformed or used twice, a statement is empty, or SQL stands before a name.
        """
        where = f"{package}/{filename}"
        return cls.parse(resources.files(package).joinpath(filename).read_text(encoding="utf-8"), where)

    @classmethod
    def parse(cls, text: str, where: str) -> Queries:
        """Read statements from ``text``; ``where`` names it in errors."""
        queries: dict[str, _Query] = {}
        name: str | None = None
        lines: list[str] = []
        for number, line in enumerate(text.splitlines(), start=1):
            header = _HEADER.fullmatch(line.rstrip())
            if header is None:
                if name is None and line.strip() and not line.lstrip().startswith("--"):
                    _refuse(where, f"line {number} stands before the first `-- name:`")
                lines.append(line)
                continue
            if name is not None:
                queries[name] = _query(name, lines, where)
            name = header["name"]
            lines = []
            if _NAME.fullmatch(name) is None:
                _refuse(where, f"line {number}: {name!r} is no name; use lower-case letters, digits and _")
            if name in queries:
                _refuse(where, f"line {number}: the name {name!r} is used twice")
        if name is not None:
            queries[name] = _query(name, lines, where)
        return cls(queries, where)

    def __getitem__(self, name: str) -> LiteralString:
        try:
            return self._queries[name].sql
        except KeyError:
            msg = f"{self._where} has no query named {name!r}"
            raise KeyError(msg) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)

    def doc(self, name: str) -> str:
        """The comment lines under a statement's name."""
        return self._queries[name].doc


def _query(name: str, lines: list[str], where: str) -> _Query:
    first = 0
    while first < len(lines) and (not lines[first].strip() or lines[first].startswith("--")):
        first += 1
    sql = "\n".join(lines[first:]).strip().removesuffix(";").rstrip()
    if not sql:
        _refuse(where, f"the query {name!r} is empty")
    doc = " ".join(line.lstrip("- ").strip() for line in lines[:first] if line.strip())
    # The text is ours, shipped with the code: as literal as if it stood in the source.
    return _Query(sql, doc)


def _refuse(where: str, what: str) -> NoReturn:
    raise QueriesInvalid(f"{where}: {what}")
