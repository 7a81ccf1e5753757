"""Compliance and audit: exact, from what the database counted."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.auditing import ACTS, act_of
from services.control.compliance import (
    Arrivals,
    Demand,
    Pointed,
    Stock,
    complies,
    demand_of,
    group_report,
    percentile,
    totals,
)
from shared.events.registry import EVENT_TYPES

NOW = datetime(2026, 11, 25, tzinfo=UTC)
GROUP = uuid.UUID(int=1)


def pointed(version: str, days_ago: float, *, withdrawn: bool = False) -> Pointed:
    return Pointed(version=version, at=NOW - timedelta(days=days_ago), withdrawn=withdrawn)


@pytest.mark.parametrize(
    ("history", "within_days", "version"),
    [
        ([], 14, None),
        ([pointed("1.0.0", 13)], 14, None),
        ([pointed("1.0.0", 14)], 14, "1.0.0"),
        ([pointed("1.0.0", 30), pointed("2.0.0", 20), pointed("3.0.0", 1)], 14, "2.0.0"),
        ([pointed("2.0.0", 30), pointed("1.0.0", 20)], 14, "1.0.0"),
        ([pointed("1.0.0", 30), pointed("2.0.0", 20, withdrawn=True)], 14, "1.0.0"),
        ([pointed("1.0.0", 30, withdrawn=True)], 14, None),
        ([pointed("1.0.0", 1), pointed("2.0.0", 0)], 0, "2.0.0"),
    ],
)
def test_what_is_demanded_is_what_the_channel_pointed_to_then(history, within_days, version):
    """Also after a rollback; nothing that was withdrawn, and nothing where the channel was empty."""
    demand = demand_of(history, before=NOW - timedelta(days=within_days))
    assert (None if demand is None else demand.version) == version


def test_a_node_complies_with_what_is_demanded_or_newer():
    """A version that is none complies with itself alone."""
    demand = Demand(version="2.0.0", since=NOW)
    assert [complies(version, demand) for version in ("1.9.9", "2.0.0", "2.0.1", "what")] == [False, True, True, False]
    assert complies("what", None)
    assert complies("what", Demand(version="what", since=NOW))


@given(st.lists(st.integers(0, 50), min_size=1), st.sampled_from([1, 50, 90, 99, 100]))
def test_percentiles_are_those_of_the_values_written_out(values, percent):
    """Nearest rank: the smallest value that at least so many percent do not exceed."""
    counts = {value: values.count(value) for value in values}
    expected = sorted(values)[max(1, -(-len(values) * percent // 100)) - 1]
    assert percentile(counts, percent) == expected


def test_a_group_is_counted_per_arch_and_whole():
    """Nodes without an arch are counted, and nothing is asked of them."""
    stocks = [
        Stock(group_id=GROUP, arch="amd64", version="2.0.0", nodes=6),
        Stock(group_id=GROUP, arch="amd64", version="1.0.0", nodes=3, unseen=2),
        Stock(group_id=GROUP, arch=None, version="1.0.0", nodes=1),
    ]
    demands = {"amd64": Demand(version="2.0.0", since=NOW), "arm64": None}
    arrivals = [
        Arrivals(group_id=GROUP, minutes=minutes, nodes=nodes) for minutes, nodes in [(10, 5), (60, 4), (600, 1)]
    ]
    report = group_report({"group": "all"}, demands, stocks, arrivals)
    assert [(part["arch"], part["nodes"], part["compliant"], part["unseen"]) for part in report["archs"]] == [
        (None, 1, 1, 0),
        ("amd64", 9, 6, 2),
        ("arm64", 0, 0, 0),
    ]
    assert report["archs"][1]["versions"] == {"2.0.0": 6, "1.0.0": 3}
    assert (report["nodes"], report["compliant"], report["share"], report["unseen"]) == (10, 7, 0.7, 2)
    assert report["latency"] == {
        "commits": 10,
        "p50_minutes": 10,
        "p90_minutes": 60,
        "p99_minutes": 600,
        "slowest_minutes": 600,
    }


def test_nothing_is_no_share():
    """An empty group is neither compliant nor not."""
    report = group_report({}, {}, [], [])
    assert (report["share"], report["latency"]["p50_minutes"]) == (None, None)
    assert totals([])["share"] is None


def test_every_act_is_an_event_that_says_who():
    """The audit asks only for types that exist and that have a ``by``."""
    for kind in ACTS:
        assert "by" in EVENT_TYPES[kind].data.__struct_fields__, kind


def test_an_act_says_who_did_what_to_what_and_why():
    """What nobody did is none."""
    event = {
        "subject": "channels/1",
        "data": {"by": "ann", "reason": "it is time", "version": "2.0.0", "kind": "promote", "other": 1},
    }
    act = act_of(7, NOW, "channel.promoted.v1", event)
    assert act is not None
    assert (act["by"], act["action"], act["subject"], act["reason"]) == (
        "ann",
        "channel.promoted",
        "channels/1",
        "it is time",
    )
    assert act["details"] == {"version": "2.0.0", "kind": "promote"}
    acted = act_of(8, NOW, "operator.acted.v1", {"data": {"by": "bob", "action": "POST /halt", "subject": "halt"}})
    assert acted is not None
    assert (acted["action"], acted["subject"], acted["details"]) == ("POST /halt", "halt", {})
    assert act_of(9, NOW, "node.quarantined.v1", {"data": {}}) is None
