"""What versions tell by the scheme of their application: the channel, the major, fixes, and what came before. Pure.

Flatcar: ``major.minor.patch``, where the minor says how stable a release is (0 alpha, 1 beta, 2 stable, 3 LTS), the
patch counts its fixes, and a build may follow after ``+``. Semantic versions: a pre-release (``-beta.1``) comes before
its release. Calendar versions: dates, where nothing is said but the order.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

from shared.domain.version import Version, parse

_FLATCAR_CHANNELS: Final = {0: "alpha", 1: "beta", 2: "stable", 3: "lts"}
_BETA: Final = 1
_STABLE: Final = 2


class VersionScheme(enum.StrEnum):
    """How an application's versions are read."""

    FLATCAR = "flatcar"
    SEMVER = "semver"
    CALENDAR = "calendar"


def channel_of(scheme: VersionScheme, version: str) -> str | None:
    """The channel that a version belongs to by itself; None where the scheme does not tell."""
    parsed = parse(version)
    if parsed is None or scheme is VersionScheme.CALENDAR:
        return None
    if scheme is VersionScheme.FLATCAR:
        return _FLATCAR_CHANNELS.get(parsed.numbers[1])
    if parsed.is_release:
        return "stable"
    stage = parsed.pre_release[0][2].lower()
    return {"alpha": "alpha", "beta": "beta", "rc": "beta"}.get(stage.rstrip("0123456789"))


def predecessor(scheme: VersionScheme, version: str, published: Iterable[str]) -> str | None:
    """The version whose soaking speaks for ``version``, out of those that were published; None where none does.

    Flatcar: the newest M.1.x for M.2.0. Semantic versions: the newest pre-release of M.N.0. A later patch soaks itself.
    """
    parsed = parse(version)
    if parsed is None or parsed.numbers[2] != 0:
        return None
    candidates = [
        (known.order, text) for text in published if (known := parse(text)) and _precedes(scheme, known, parsed)
    ]
    return max(candidates)[1] if candidates else None


def _precedes(scheme: VersionScheme, candidate: Version, release: Version) -> bool:
    if scheme is VersionScheme.FLATCAR:
        major, minor = release.numbers[:2]
        return minor == _STABLE and candidate.numbers[:2] == (major, _BETA)
    if scheme is VersionScheme.SEMVER:
        return release.is_release and not candidate.is_release and candidate.numbers == release.numbers
    return False
