"""Who sends more reports than a node has to tell: token buckets per machine id and per address. Pure, with an end.

Only requests that carry reports are counted: polls say nothing that could move evidence, and a site behind one address
polls as one. A machine that is above its rate does not use up what its address may send; who pretends to be many
machines uses up the address.
"""

from __future__ import annotations

import enum
import ipaddress
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MAX_SOURCES: Final = 100_000
"""Buckets that are remembered of each kind; those that were used longest ago are forgotten, and begin full again."""
MAX_UNTOLD: Final = 10_000
"""Sources that are told of at a time; what more sources sent meanwhile is dropped all the same, and not told."""
_IPV6_SITE_BITS: Final = 64
"""An IPv6 host has so many addresses that only its network says who it is (RFC 6177)."""


class FloodKind(enum.StrEnum):
    """What was above its rate."""

    MACHINE = "machine"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests per minute in the long run, and at once; 0 per minute: no limit."""

    per_minute: float
    burst: int


@dataclass(frozen=True, slots=True)
class Flood:
    """Requests whose reports were dropped since they were told of last."""

    application_id: uuid.UUID
    kind: FloodKind
    source: str
    dropped: int


class TokenBuckets:
    """A bucket per source: full at first, one token per request, filled up at the rate.

    Args:
        rate: How fast, and how much a bucket holds.
        max_sources: Buckets that are remembered.
    """

    def __init__(self, rate: Rate, max_sources: int = MAX_SOURCES) -> None:
        self._per_second = rate.per_minute / 60
        self._burst = float(rate.burst)
        self._max_sources = max_sources
        self._buckets: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, source: object, now: float) -> bool:
        """Take a token; False where there is none.

        Args:
            source: Whose bucket.
            now: Seconds; a clock that never goes back.
        """
        if not self._per_second:
            return True
        left, since = self._buckets.pop(source, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._buckets[source] = (left - 1 if allowed else left, now)
        if len(self._buckets) > self._max_sources:
            self._buckets.popitem(last=False)
        return allowed


class FloodGuard:
    """Says whether a request's reports are taken, and remembers what was dropped until it is told.

    Args:
        machine: What one machine id may send.
        address: What one address may send; addresses of this machine itself (a proxy that does not say for whom it
            asks, a fleet that is simulated here) say nothing about who sent a request, and have no limit.
        max_sources: Buckets of each kind.
    """

    def __init__(self, *, machine: Rate, address: Rate, max_sources: int = MAX_SOURCES) -> None:
        self._machines = TokenBuckets(machine, max_sources)
        self._addresses = TokenBuckets(address, max_sources)
        self._dropped: dict[tuple[uuid.UUID, FloodKind, str], int] = {}

    def take(self, application_id: uuid.UUID, machine_id: str, address: str | None, now: float) -> FloodKind | None:
        """Count a request that carries reports.

        Returns:
            None where they may be taken; else what is above its rate, which is remembered.
        """
        if not self._machines.take((application_id, machine_id), now):
            self._note(application_id, FloodKind.MACHINE, machine_id)
            return FloodKind.MACHINE
        site = site_of(address)
        if site is not None and not self._addresses.take(site, now):
            self._note(application_id, FloodKind.ADDRESS, site)
            return FloodKind.ADDRESS
        return None

    def drain(self) -> list[Flood]:
        """What was dropped since the last call."""
        dropped, self._dropped = self._dropped, {}
        return [Flood(*key, dropped=count) for key, count in dropped.items()]

    def put_back(self, floods: list[Flood]) -> None:
        """Remember again what could not be told."""
        for flood in floods:
            self._note(flood.application_id, flood.kind, flood.source, flood.dropped)

    def _note(self, application_id: uuid.UUID, kind: FloodKind, source: str, dropped: int = 1) -> None:
        key = (application_id, kind, source)
        if key in self._dropped or len(self._dropped) < MAX_UNTOLD:
            self._dropped[key] = self._dropped.get(key, 0) + dropped


def site_of(address: str | None) -> str | None:
    """What of an address tells senders apart: an IPv4 address, or an IPv6 one's /64; None where it says nothing."""
    if address is None:
        return None
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        # A proxy's word that is no address: still one sender's.
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            if parsed.is_loopback:
                return None
            return str(ipaddress.ip_network((parsed, _IPV6_SITE_BITS), strict=False))
        parsed = parsed.ipv4_mapped
    return None if parsed.is_loopback else str(parsed)
