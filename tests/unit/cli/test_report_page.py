"""Reports as files."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest

from services.cli.report_page import (
    AUDIT_COLUMNS,
    COMPLIANCE_COLUMNS,
    minutes,
    percent,
    rows_of_compliance,
    to_csv,
    to_html,
)
from services.cli.reports import moment_of

COUNTED = {"nodes": 10, "compliant": 7, "unseen": 1}
LATENCY = {"commits": 3, "p50_minutes": 5, "p90_minutes": 300, "p99_minutes": None, "slowest_minutes": 9_000}
REPORT = {
    "made_at": "2026-11-25T10:00:00Z",
    "within_days": 14,
    "latency_days": 90,
    "total": {**COUNTED, "share": 0.7},
    "groups": [
        {
            "application": "os", "group": "<all>", "owner": "=us", "channel": "stable", "pin": None, **COUNTED,
            "archs": [{"arch": "amd64", "demanded": "2.0.0", "demanded_since": "2026-11-01T00:00:00Z", **COUNTED}],
            "latency": LATENCY,
        },
        {
            "application": "os", "group": "empty", "owner": "", "channel": None, "pin": "1.0.0", "archs": [],
            "latency": LATENCY,
        },
    ],
}  # fmt: skip
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def test_a_page_is_complete_in_itself_and_escapes_what_others_wrote():
    """No script, nothing loaded from elsewhere; names are text."""
    page = to_html(REPORT)
    assert "&lt;all&gt;" in page
    assert "<all>" not in page
    assert "70.0%" in page
    assert "pinned to 1.0.0" in page
    assert "2026-11-25 10:00:00" in page
    for outside in ("<script", "http:", "https:", "src="):
        assert outside not in page


def test_csv_has_a_row_per_group_and_arch_and_no_formulas():
    """A spreadsheet opens it and runs nothing."""
    rows = list(csv.DictReader(io.StringIO(to_csv(rows_of_compliance(REPORT), COMPLIANCE_COLUMNS))))
    assert [(row["group"], row["arch"], row["share"], row["demanded"]) for row in rows] == [
        ("<all>", "amd64", "0.7000", "2.0.0"),
        ("empty", "", "", ""),
    ]
    assert rows[0]["owner"] == "'=us"
    act = {"seq": 1, "by": "ann", "reason": 'a "b", c', "details": {"version": "2.0.0"}}
    (row,) = csv.DictReader(io.StringIO(to_csv([act], AUDIT_COLUMNS)))
    assert (row["reason"], row["details"], row["at"]) == ('a "b", c', "version=2.0.0", "")


@pytest.mark.parametrize(
    ("share", "shown"), [(None, "-"), (0.0, "0.0%"), (0.7, "70.0%"), (0.99999, "99.9%"), (1.0, "100.0%")]
)
def test_a_share_is_whole_only_where_nothing_is_missing(share, shown):
    """One node of a million behind is not 100 %."""
    assert percent(share) == shown


def test_minutes_are_told_in_what_people_count():
    """Minutes, hours, days."""
    assert [minutes(count) for count in (None, 5, 300, 9_000)] == ["-", "5 min", "5.0 h", "6.2 d"]


def test_times_as_operators_give_them():
    """A day, a moment with its offset, or so long ago."""
    assert moment_of("2026-11-25", NOW) == NOW
    assert moment_of("2026-11-25T01:00+01:00", NOW) == NOW
    assert [(NOW - moment_of(text, NOW)).total_seconds() for text in ("2h", "1d", "1w")] == [7_200, 86_400, 604_800]
    with pytest.raises(ValueError, match="isoformat"):
        moment_of("yesterday", NOW)
