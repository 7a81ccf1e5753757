"""Floods: what a site sends in normal life is taken, what a liar sends is not, and memory has an end."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.update_check import flood
from services.update_check.flood import Flood, FloodGuard, FloodKind, Rate, TokenBuckets, site_of

APP = uuid.UUID(int=1)
MACHINE = Rate(30, 60)
ADDRESS = Rate(600, 2_000)


def guard(**changes) -> FloodGuard:
    return FloodGuard(**{"machine": MACHINE, "address": ADDRESS} | changes)


def test_a_burst_then_the_rate():
    """As many at once as the bucket holds; then one each time that a token has come."""
    buckets = TokenBuckets(Rate(60, 3))
    assert [buckets.take("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert not buckets.take("a", 0.9)
    assert buckets.take("a", 1.9)
    assert not buckets.take("a", 1.95)
    assert buckets.take("b", 1.95)


@given(
    gaps=st.lists(st.floats(min_value=0, max_value=100), max_size=200),
    per_minute=st.floats(min_value=0.1, max_value=600),
    burst=st.integers(min_value=1, max_value=50),
)
def test_no_source_is_ever_above_burst_plus_rate(gaps, per_minute, burst):
    """Whenever it comes: in no time more than the bucket and what flowed in."""
    buckets, now, taken = TokenBuckets(Rate(per_minute, burst)), 0.0, 0
    for gap in gaps:
        now += gap
        taken += buckets.take("a", now)
    assert taken <= burst + now * per_minute / 60 + 1e-6


def test_without_a_rate_there_is_no_limit_and_no_memory():
    """0 turns it off."""
    buckets = TokenBuckets(Rate(0, 1))
    assert all(buckets.take("a", 0.0) for _ in range(10))
    assert len(buckets) == 0


def test_a_whole_site_behind_one_address_is_not_hit():
    """2,000 nodes that update within a quarter of an hour, five reports each, from one address: all taken."""
    taken = guard()
    for number in range(2_000):
        for _ in range(5):
            assert taken.take(APP, f"m{number}", "192.0.2.1", number * 0.45) is None


def test_a_machine_that_floods_does_not_use_up_its_site():
    """Its own bucket is empty first; its neighbours go on."""
    taken = guard(address=Rate(600, 100))
    outcomes = [taken.take(APP, "loud", "192.0.2.1", 0.0) for _ in range(1_000)]
    assert outcomes.count(None) == 60
    assert taken.take(APP, "quiet", "192.0.2.1", 0.0) is None
    assert taken.drain() == [Flood(APP, FloodKind.MACHINE, "loud", 940)]
    assert taken.drain() == []


def test_who_pretends_to_be_many_uses_up_the_address():
    """A new machine id with each request helps nothing; another address is not touched."""
    taken = guard()
    outcomes = [taken.take(APP, f"m{number}", "192.0.2.99", 0.0) for number in range(3_000)]
    assert outcomes.count(None) == 2_000
    assert set(outcomes[2_000:]) == {FloodKind.ADDRESS}
    assert taken.take(APP, "m", "192.0.2.98", 0.0) is None
    assert taken.drain() == [Flood(APP, FloodKind.ADDRESS, "192.0.2.99", 1_000)]


def test_what_could_not_be_told_is_told_later():
    """Counts add up."""
    taken = guard(machine=Rate(1, 1))
    for _ in range(3):
        taken.take(APP, "m", None, 0.0)
    taken.put_back(taken.drain())
    taken.take(APP, "m", None, 0.0)
    assert taken.drain() == [Flood(APP, FloodKind.MACHINE, "m", 3)]


def test_memory_has_an_end(monkeypatch):
    """Buckets that were used longest ago are forgotten, and so many floods are told of at a time."""
    monkeypatch.setattr(flood, "MAX_UNTOLD", 5)
    taken = guard(machine=Rate(1, 1), max_sources=10)
    for number in range(100):
        taken.take(APP, f"m{number}", None, 0.0)
        taken.take(APP, f"m{number}", None, 0.0)
    assert len(taken._machines) == 10
    assert len(taken.drain()) == 5
    assert taken.take(APP, "m0", None, 0.0) is None


@pytest.mark.parametrize(
    ("address", "site"),
    [
        (None, None),
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_what_of_an_address_tells_senders_apart(address, site):
    """An IPv6 host has a whole /64; this machine itself says nothing."""
    assert site_of(address) == site
