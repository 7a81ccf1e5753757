"""What happens to a node that takes a version: drawn by a seeded hash, so that every run tells the same story."""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from shared.errors import InvalidInput


class Fate(enum.StrEnum):
    """How one node's update to one version goes."""

    GOOD = "good"
    """It boots the new version and says so."""
    ROLLS_BACK = "rolls_back"
    """It comes back on the old version and reports error 44."""
    SILENT = "silent"
    """It never comes back from its reboot."""
    FAILS_TO_DOWNLOAD = "fails_to_download"
    """Its downloads break off: error 9, at every attempt."""
    CORRUPT = "corrupt"
    """What it downloads is not what was offered: error 10, at every attempt."""
    LIES = "lies"
    """It updates well, but repeats its events and sends them out of order."""
    LOSES_REPORT = "loses_report"
    """It boots the new version, but the one request that says so is lost."""
    LOSES_ROLLBACK_REPORT = "loses_rollback_report"
    """It comes back on the old version, but the one request that says so is lost."""
    RESETS_STATUS = "resets_status"
    """Somebody resets update_engine before the reboot: it reports error 44 in the same boot; its next try is good."""


ANY_VERSION = "*"
"""The key of the rates for versions that have none of their own."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """How often each fate befalls the nodes that take a version.

    Attributes:
        rates: By version (or ``*``), then by fate: a probability. What is left to 1 is ``good``.

    Raises:
        InvalidInput: A rate outside 0..1, or rates of one version that add up to more than 1.
    """

    rates: Mapping[str, Mapping[Fate, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for version, rates in self.rates.items():
            if any(not 0.0 <= rate <= 1.0 for rate in rates.values()):
                raise InvalidInput(f"Give every rate of version {version} as a number from 0 to 1.")
            if math.fsum(rates.values()) > 1.0 + 1e-9:
                raise InvalidInput(f"Lower the rates of version {version}: they add up to more than 1.")

    @classmethod
    def from_json(cls, text: str | bytes) -> FleetPlan:
        """Reads ``{"3033.2.1": {"rolls_back": 0.3}}``.

        Raises:
            InvalidInput: It is no such JSON, or names an unknown fate.
        """
        try:
            return cls(msgspec.json.decode(text, type=dict[str, dict[Fate, float]]))
        except msgspec.MsgspecError as error:
            raise InvalidInput(
                f'Give the fates as JSON like {{"3033.2.1": {{"rolls_back": 0.3}}}}: {error}.',
            ) from error

    def fate(self, seed: int, machine_id: str, version: str) -> Fate:
        """The fate of one node with one version: equal for equal arguments, independent between nodes and versions."""
        rates = self.rates.get(version)
        if rates is None:
            rates = self.rates.get(ANY_VERSION, {})
        drawn = hash_fraction(f"fate:{seed}:{machine_id}:{version}")
        for fate in Fate:
            if fate is Fate.GOOD:
                continue
            drawn -= rates.get(fate, 0.0)
            if drawn < 0.0:
                return fate
        return Fate.GOOD


def hash_fraction(text: str) -> float:
    """A number in [0, 1), uniform over texts and always the same for the same text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
