"""Which URL update_engine downloads from and when it waits with a payload: the rules of its ``payload_state.cc``."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from services.simulator.wire import Offer

_DAY_S: Final = 24 * 60 * 60
_BACKOFF_FUZZ_S: Final = 12 * 60 * 60
_LONGEST_BACKOFF_DAYS: Final = 16
_TRANSIENT: Final = frozenset({1, 9, 14, 20, 37})
_PAYLOAD: Final = frozenset({10, 11, 12, 17, 18, *range(21, 30), 32, 33, 38, 39})


@dataclass(slots=True)
class PayloadState:
    """How the attempts at one payload went; forgotten when the server offers another one.

    Attributes:
        backoff_until_s: In the node's own time (seconds that it lived); no attempt before.
    """

    signature: tuple[object, ...] = ()
    url_index: int = 0
    failures: int = 0
    attempts: int = 0
    backoff_until_s: float = 0.0

    def admit(self, offer: Offer, *, lived_s: float) -> bool:
        """Takes note of an offer and says whether it may be tried now."""
        signature = (offer.urls, offer.size, offer.sha256, offer.delta, offer.backoff_disabled)
        if signature != self.signature:
            self.signature = signature
            self.url_index = self.failures = self.attempts = 0
            self.backoff_until_s = 0.0
        return offer.backoff_disabled or offer.delta or lived_s >= self.backoff_until_s

    def url(self, offer: Offer) -> str:
        """Where to download from now."""
        return offer.urls[self.url_index % len(offer.urls)]

    def downloaded(self, *, lived_s: float, rng: random.Random) -> None:
        """The whole payload came."""
        self._count_attempt(lived_s, rng)

    def failed(self, offer: Offer, code: int, *, lived_s: float, rng: random.Random) -> None:
        """The attempt failed: a broken payload switches the URL at once, a transient fault after several."""
        if code in _PAYLOAD:
            self._next_url(offer, lived_s, rng)
        elif code in _TRANSIENT:
            self.failures += 1
            if self.failures >= offer.max_failures_per_url:
                self._next_url(offer, lived_s, rng)

    def _next_url(self, offer: Offer, lived_s: float, rng: random.Random) -> None:
        self.failures = 0
        self.url_index += 1
        if self.url_index >= len(offer.urls):
            self.url_index = 0
            self._count_attempt(lived_s, rng)

    def _count_attempt(self, lived_s: float, rng: random.Random) -> None:
        self.attempts += 1
        days = min(2 ** (self.attempts - 1), _LONGEST_BACKOFF_DAYS)
        self.backoff_until_s = lived_s + days * _DAY_S + rng.randint(-_BACKOFF_FUZZ_S // 2, _BACKOFF_FUZZ_S // 2)
