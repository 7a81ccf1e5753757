"""What may be promoted, what a channel goes back to, what new nodes boot, and how changesets differ."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.releasing import (
    Image,
    MissingTest,
    changes,
    check_changeset,
    fault_of_stability,
    fault_of_version,
    image_to_boot,
    missing_tests,
    payload_changes,
    position_of,
    predecessors,
    said_of,
    standing,
)
from shared.domain.scheme import VersionScheme
from shared.errors import InvalidInput

FLATCAR, SEMVER, CALENDAR = VersionScheme.FLATCAR, VersionScheme.SEMVER, VersionScheme.CALENDAR
IDS = [uuid.UUID(int=number) for number in range(6)]


@pytest.mark.parametrize(
    ("scheme", "version", "good"),
    [
        (FLATCAR, "3975.2.1", True),
        (FLATCAR, "3340.0.0+nightly-20220823-2100", True),
        (FLATCAR, "3975.2", False),
        (FLATCAR, "nonsense", False),
        (SEMVER, "1.4.2-beta.1+build.5", True),
        (SEMVER, "1.4", False),
        (CALENDAR, "2026.11.22", True),
        (CALENDAR, "2026.11", True),
        (CALENDAR, "26.11", False),
    ],
)
def test_versions_by_scheme(scheme, version, good):
    """What is none is said with an example of one that is."""
    fault = fault_of_version(scheme, version)
    assert (fault is None) == good
    assert good or "like " in fault or "begin with the year" in fault


def described(**changes):
    return {
        "version": "3975.2.1",
        "minimum_version": None,
        "floor": False,
        "floor_reason": None,
        "dead_end": False,
        "dead_end_reason": None,
    } | changes


def test_a_changeset_that_contradicts_itself_is_refused():
    """Versions that are none, a minimum above it, flags without a reason; each names its field."""
    check_changeset(FLATCAR, described(minimum_version="3033.2.4", floor=True, floor_reason="boot loader"))
    for wrong, field in [
        ({"version": "latest"}, "version"),
        ({"minimum_version": "3975.2.1"}, "minimum_version"),
        ({"minimum_version": "latest"}, "minimum_version"),
        ({"floor": True}, "floor_reason"),
        ({"dead_end": True, "dead_end_reason": ""}, "dead_end_reason"),
    ]:
        with pytest.raises(InvalidInput) as refused:
            check_changeset(FLATCAR, described(**wrong))
        assert refused.value.details["field"] == field


def test_what_is_missing_of_a_channels_demands():
    """Absent, failed and skipped are all missing; named once, in the channel's order."""
    missing = missing_tests(["net", "k8s", "boot", "net"], {"boot": "passed", "k8s": "failed"})
    assert missing == [MissingTest(name="net", verdict=None), MissingTest(name="k8s", verdict="failed")]
    assert said_of(missing) == "net (none), k8s (failed)"
    assert missing_tests([], {}) == []


@pytest.mark.parametrize(
    ("scheme", "version", "channel", "good"),
    [
        (FLATCAR, "3975.0.0", "alpha", True),
        (FLATCAR, "3975.0.0", "beta", False),
        (FLATCAR, "3975.1.0", "stable", False),
        (FLATCAR, "3975.2.0", "stable", True),
        (FLATCAR, "3975.2.0", "lts", False),
        (FLATCAR, "3975.3.0", "stable", True),
        (FLATCAR, "3975.9.0", "lts", True),
        (SEMVER, "1.0.0-rc.1", "stable", False),
        (SEMVER, "1.0.0", "stable", True),
        (CALENDAR, "2026.0.1", "stable", True),
    ],
)
def test_stability_by_scheme(scheme, version, channel, good):
    """A version that its scheme calls less stable than the channel is a fault; where it does not tell, none is."""
    assert (fault_of_stability(scheme, version, position_of(channel)) is None) == good


def test_positions():
    """Known names have theirs, others are as stable as stable; a position beyond the known ones demands nothing."""
    assert [position_of(name) for name in ("alpha", "Beta", "stable", "LTS", "production")] == [0, 1, 2, 3, 2]
    assert fault_of_stability(FLATCAR, "3975.0.0", 7) is None


@given(st.lists(st.sampled_from(IDS)))
def test_what_a_channel_goes_back_to(history):
    """Never what it points to; each once; and going back as it says leads to the rest of the same way."""
    way = predecessors(history)
    assert len(way) == len(set(way))
    if history:
        assert history[-1] not in way
        assert set(way) <= set(history)
    if way:
        assert predecessors([*history, way[0]]) == way[1:]


def test_going_back_twice_goes_back_twice():
    """After A, B, C and back to B, what comes before is A; back to A, nothing is left."""
    a, b, c, *_ = IDS
    assert predecessors([a, b, c]) == [b, a]
    assert predecessors([a, b, c, b]) == [a]
    assert predecessors([a, b, c, b, a]) == []
    assert predecessors([a, b, c, b, a, c]) == [a]
    assert predecessors([]) == []


def image(number: int, *, usable: bool = True, proven: bool = True) -> Image:
    return Image(changeset_id=IDS[number], version=f"{number}.2.0", usable=usable, proven=proven)


@pytest.mark.parametrize(
    ("images", "chosen", "said"),
    [
        ([], None, "nothing was promoted"),
        ([image(1, usable=False)], None, "halted, braked or withdrawn"),
        ([image(2), image(1)], 2, "the channel points to it"),
        ([image(2, proven=False), image(1)], 1, "2.2.0, which is not rolled out yet"),
        ([image(2, usable=False), image(1)], 1, "2.2.0, which is halted, braked or withdrawn"),
        ([image(2, proven=False)], 2, "nothing is before it"),
        ([image(3, proven=False), image(2, usable=False), image(1, proven=False)], 1, "3.2.0"),
    ],
)
def test_new_nodes_boot_what_a_rollout_has_proven(images, chosen, said):
    """Never what is halted; what is not proven only where nothing else is."""
    choice = image_to_boot(images)
    assert choice.changeset_id == (None if chosen is None else IDS[chosen])
    assert said in choice.reason


@pytest.mark.parametrize(
    ("target", "version", "word"),
    [
        (None, "1.2.0", "unknown"),
        ("1.2.0", "1.2.0", "on_target"),
        ("1.2.1", "1.2.0", "behind"),
        ("1.2.0", "1.2.1", "ahead"),
        ("1.2.0", "what", "unknown"),
    ],
)
def test_drift(target, version, word):
    """How a node stands to its channel."""
    assert standing(target, version) == word


def test_differences():
    """By name: added, removed, changed; payloads by content."""
    assert changes({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}) == {
        "added": {"d": "1"},
        "removed": {"a": "1"},
        "changed": {"b": {"from": "1", "to": "2"}},
    }
    main = {"name": "update.gz", "role": "main", "sha256": "a", "size": 1}
    oem = {"name": "oem.gz", "role": "extra", "sha256": "b", "size": 2}
    assert payload_changes([main, oem], [main | {"sha256": "c", "size": 3}]) == [
        {"name": "oem.gz", "role": "extra", "size_before": 2, "size_after": None, "same": False},
        {"name": "update.gz", "role": "main", "size_before": 1, "size_after": 3, "same": False},
    ]
    assert payload_changes([main], [main])[0]["same"]
