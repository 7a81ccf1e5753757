"""Named queries in files."""

from __future__ import annotations

import pytest

from shared.db.queries import Queries
from shared.errors import QueriesInvalid

TEXT = """\
-- The queries of an example.

-- name: one
-- What it is for,
-- on two lines.
SELECT 1;

-- name: two_b
SELECT a -- inner comments stay
FROM b
-- so do these
WHERE c = $1
"""


def test_statements_are_found_by_name():
    """Without the comments above and the semicolon at the end; order and number are kept."""
    queries = Queries.parse(TEXT, "x/queries.sql")

    assert queries["one"] == "SELECT 1"
    assert queries["two_b"] == "SELECT a -- inner comments stay\nFROM b\n-- so do these\nWHERE c = $1"
    assert list(queries) == ["one", "two_b"]
    assert len(queries) == 2


def test_the_comments_are_its_documentation():
    """Joined to one line."""
    queries = Queries.parse(TEXT, "x/queries.sql")

    assert queries.doc("one") == "What it is for, on two lines."
    assert queries.doc("two_b") == ""


def test_an_unknown_name_names_the_file():
    """So that one knows where to look."""
    with pytest.raises(KeyError, match=r"x/queries\.sql has no query named 'three'"):
        Queries.parse(TEXT, "x/queries.sql")["three"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1\n-- name: a\nSELECT 2", "line 1 stands before"),
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", "line 3: the name 'a' is used twice"),
        ("-- name: A-b\nSELECT 1", "line 1: 'A-b' is no name"),
        ("-- name:\nSELECT 1", "line 1: '' is no name"),
        ("-- name: a\n-- only words\n-- name: b\nSELECT 1", "the query 'a' is empty"),
        ("-- name: a\n;\n", "the query 'a' is empty"),
    ],
)
def test_malformed_files_are_refused(text, message):
    """By file and line."""
    with pytest.raises(QueriesInvalid, match=message) as caught:
        Queries.parse(text, "x/queries.sql")

    assert str(caught.value).startswith("x/queries.sql: ")


def test_queries_are_read_from_packages():
    """As they are shipped; the runner's own are an example."""
    queries = Queries.load("shared.db", "migrate.sql")

    assert "pg_advisory_lock" in queries["lock"]


def test_an_empty_file_has_no_queries():
    """That is no fault."""
    assert dict(Queries.parse("", "x")) == {}
