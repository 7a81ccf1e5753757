"""Intervals, payload back-off, downloads and fates, each by its own rule."""

from __future__ import annotations

import base64
import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.simulator.fates import Fate, FleetPlan
from services.simulator.intervals import INITIAL, REGULAR, Interval, next_interval
from services.simulator.node import Download, DownloadDone, Sabotage
from services.simulator.payload_download import MAX_TRIES, PayloadDownload
from shared.errors import InvalidInput

HOUR = 3600


@pytest.mark.parametrize(
    ("last", "poll_interval_s", "slow_down", "expected"),
    [
        (INITIAL, 0, False, REGULAR),
        (INITIAL, 0, True, REGULAR),
        (REGULAR, 0, True, Interval(90 * 60, 90 * 60)),
        (Interval(90 * 60, 90 * 60), 0, True, Interval(3 * HOUR, 3 * HOUR)),
        (Interval(3 * HOUR, 3 * HOUR), 0, True, Interval(4 * HOUR, 4 * HOUR)),
        (Interval(4 * HOUR, 4 * HOUR), 0, False, REGULAR),
        (REGULAR, 44 * 60, False, REGULAR),
        (REGULAR, -1, False, REGULAR),
        (REGULAR, HOUR, False, Interval(HOUR, HOUR)),
        (REGULAR, 24 * HOUR, False, Interval(4 * HOUR, 4 * HOUR)),
    ],
)
def test_the_next_interval(last, poll_interval_s, slow_down, expected):
    """A server can slow its nodes down to 4 hours and never speed them up."""
    assert next_interval(last, poll_interval_s=poll_interval_s, slow_down=slow_down) == expected


@given(seconds=st.integers(600, 14400), fuzz=st.integers(0, 14400), seed=st.integers())
def test_fuzz_stays_within_half_its_range(seconds, fuzz, seed):
    """FuzzInt(v, range) is within v ± range / 2."""
    drawn = Interval(seconds, fuzz).draw(random.Random(seed))
    assert seconds - fuzz / 2 <= drawn <= seconds + (fuzz + 1) / 2


@given(seed=st.integers(0, 2**32), machine=st.text("0123456789abcdef", min_size=32, max_size=32))
def test_fates_follow_from_the_seed(seed, machine):
    """Equal for equal arguments, in another plan object too; and only fates that have a rate."""
    rates = {"*": {Fate.SILENT: 0.5}, "2.0.0": {Fate.ROLLS_BACK: 1.0}}
    fate = FleetPlan(rates).fate(seed, machine, "1.0.0")
    assert fate is FleetPlan(dict(rates)).fate(seed, machine, "1.0.0")
    assert fate in {Fate.GOOD, Fate.SILENT}
    assert FleetPlan(rates).fate(seed, machine, "2.0.0") is Fate.ROLLS_BACK
    assert FleetPlan().fate(seed, machine, "1.0.0") is Fate.GOOD


def test_fates_come_at_their_rates_and_independently():
    """Of 20,000 nodes each fate gets its share within four standard deviations, whatever befell them before."""
    plan = FleetPlan({"a": {Fate.ROLLS_BACK: 0.3, Fate.SILENT: 0.1}, "b": {Fate.ROLLS_BACK: 0.3}})
    nodes = [f"{index:032x}" for index in range(20_000)]
    first = {node for node in nodes if plan.fate(7, node, "a") is Fate.ROLLS_BACK}
    silent = sum(plan.fate(7, node, "a") is Fate.SILENT for node in nodes)
    both = sum(plan.fate(7, node, "b") is Fate.ROLLS_BACK for node in first)
    assert abs(len(first) - 6000) < 260
    assert abs(silent - 2000) < 170
    assert abs(both - 0.3 * len(first)) < 145


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"1.0.0": {"explodes": 0.1}}',
        '{"1.0.0": {"silent": "often"}}',
        '{"1.0.0": {"silent": -0.1}}',
        '{"1.0.0": {"silent": 0.6, "lies": 0.6}}',
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(text):
    """Malformed JSON, unknown fates, rates that are none."""
    with pytest.raises(InvalidInput):
        FleetPlan.from_json(text)


def test_a_plan_from_json():
    """The form that the command line takes."""
    assert FleetPlan.from_json('{"3033.2.1": {"rolls_back": 0.3}}').rates == {"3033.2.1": {Fate.ROLLS_BACK: 0.3}}


PAYLOAD = bytes(range(256)) * 40


SIZE = len(PAYLOAD)


def wanted(sabotage=Sabotage.NONE, size=SIZE, content=PAYLOAD):
    sha256 = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return PayloadDownload(0, Download("http://127.0.0.1/x", size, sha256, sabotage))


@given(cuts=st.lists(st.integers(0, len(PAYLOAD)), max_size=8))
def test_a_download_in_pieces_over_broken_connections(cuts):
    """However often it breaks, the rest is asked for by Range, and the whole verifies."""
    download = wanted()
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(PAYLOAD)], strict=True):
        assert download.request_headers() == ({"Range": f"bytes={start}-"} if start else {})
        content_range = f"bytes {start}-{len(PAYLOAD) - 1}/{len(PAYLOAD)}" if start else ""
        assert download.begin(206 if start else 200, content_range) is None
        assert download.take(PAYLOAD[start:end]) is None
        assert download.broken() is None
    assert download.finish() == DownloadDone()


def test_a_server_without_ranges_starts_over():
    """A 200 to a Range request is the whole payload."""
    download = wanted()
    download.take(PAYLOAD[:1000])
    assert download.begin(200, "") is None
    download.take(PAYLOAD)
    assert download.finish() == DownloadDone()


def test_what_a_download_ends_with():
    """HTTP status, wrong range, wrong size, wrong hash, sabotage and too many tries, each with its code."""
    assert wanted().begin(403, "") == DownloadDone(2403)
    resumed = wanted()
    resumed.take(PAYLOAD[:10])
    assert resumed.begin(206, "bytes 0-9/10240") == DownloadDone(9)
    assert wanted(size=100).take(PAYLOAD) == DownloadDone(11)
    short = wanted()
    short.take(PAYLOAD[:-1])
    assert short.finish() == DownloadDone(11)
    for download in (wanted(Sabotage.CORRUPT), wanted(content=b"other")):
        download.take(PAYLOAD)
        assert download.finish() == DownloadDone(10)
    assert wanted(Sabotage.BREAKS_OFF).take(PAYLOAD[: len(PAYLOAD) // 2]) == DownloadDone(9)
    tired = wanted()
    assert [tired.broken() for _ in range(MAX_TRIES)] == [None] * MAX_TRIES
    assert tired.broken() == DownloadDone(9)
