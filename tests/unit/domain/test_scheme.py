"""What versions tell by their scheme."""

from __future__ import annotations

import pytest

from shared.domain.scheme import VersionScheme, channel_of, predecessor

FLATCAR, SEMVER, CALENDAR = VersionScheme.FLATCAR, VersionScheme.SEMVER, VersionScheme.CALENDAR
PUBLISHED = ["3066.0.0", "3066.1.0", "3066.1.2", "3066.1.10", "3033.1.4", "3066.2.1", "3066.1.1+build", "no version"]


@pytest.mark.parametrize(
    ("scheme", "version", "channel"),
    [
        (FLATCAR, "3066.0.0", "alpha"),
        (FLATCAR, "3066.1.1", "beta"),
        (FLATCAR, "3066.2.0+nightly", "stable"),
        (FLATCAR, "3033.3.18", "lts"),
        (FLATCAR, "3066.4.0", None),
        (FLATCAR, "nightly", None),
        (SEMVER, "1.4.0-alpha.1", "alpha"),
        (SEMVER, "1.4.0-beta2", "beta"),
        (SEMVER, "1.4.0-rc.1", "beta"),
        (SEMVER, "1.4.0-7", None),
        (SEMVER, "1.4.0", "stable"),
        (CALENDAR, "2026.11.22", None),
    ],
)
def test_the_channel_of_a_version(scheme, version, channel):
    """Where the scheme tells."""
    assert channel_of(scheme, version) == channel


@pytest.mark.parametrize(
    ("scheme", "version", "found"),
    [
        (FLATCAR, "3066.2.0", "3066.1.10"),
        (FLATCAR, "3066.2.0+build", "3066.1.10"),
        (FLATCAR, "3066.2.1", None),
        (FLATCAR, "3066.1.0", None),
        (FLATCAR, "3066.3.0", None),
        (FLATCAR, "3100.2.0", None),
        (FLATCAR, "rubbish", None),
        (SEMVER, "3066.2.0", None),
        (CALENDAR, "2026.2.0", None),
    ],
)
def test_the_predecessor_of_a_version(scheme, version, found):
    """The newest M.1.x speaks for M.2.0 and for nothing else; the numbers are ordered as numbers."""
    assert predecessor(scheme, version, PUBLISHED) == found


def test_a_pre_release_comes_before_its_semantic_version():
    """And for no fix of it."""
    published = ["1.4.0-beta.2", "1.4.0-rc.1", "1.3.0-rc.9", "1.4.1-rc.1"]
    assert predecessor(SEMVER, "1.4.0", published) == "1.4.0-rc.1"
    assert predecessor(SEMVER, "1.4.1", published) is None
    assert predecessor(SEMVER, "1.4.0-rc.1", published) is None
