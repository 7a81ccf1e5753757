"""What events, error codes and attributes mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.omaha.errorcodes import (
    ErrorClass,
    ErrorCode,
    ErrorFlag,
    base_code,
    classify,
    error_name,
    split_error_code,
)
from shared.omaha.facts import arch_of, facts_of
from shared.omaha.meaning import EventMeaning, event_meaning
from shared.omaha.request import App, Event, Request

TEST_URL = int(ErrorFlag.TEST_OMAHA_URL)


@pytest.mark.parametrize(
    ("event", "meaning"),
    [
        (Event(13, 1), EventMeaning.DOWNLOAD_STARTED),
        (Event(14, 1), EventMeaning.DOWNLOADED),
        (Event(3, 1), EventMeaning.STAGED),
        (Event(3, 2, None, "3510.2.0"), EventMeaning.UPDATED),
        (Event(3, 2, None, ""), EventMeaning.NO_NEWS),
        (Event(3, 2, None, "0.0.0.0"), EventMeaning.NO_NEWS),
        (Event(3, 0, 44), EventMeaning.ROLLED_BACK),
        (Event(3, 0, 44 | TEST_URL), EventMeaning.ROLLED_BACK),
        (Event(3, 0, 2503 | TEST_URL), EventMeaning.FAILED),
        (Event(3, 0, 0), EventMeaning.FAILED),
        (Event(3, 0), EventMeaning.FAILED),
        (Event(13, 0, 44), EventMeaning.FAILED),
        (Event(14, 0, 9), EventMeaning.FAILED),
        (Event(3, 9, 40 | TEST_URL), EventMeaning.DEFERRED),
        (Event(3, 9), EventMeaning.DEFERRED),
        (Event(3, 0, 35), EventMeaning.DEFERRED),
        (Event(13, 9, 36), EventMeaning.DEFERRED),
        (Event(13, 9, 9), EventMeaning.UNKNOWN),
        (Event(800, 1), EventMeaning.INSTALLED_OTHER),
        (Event(1, 1), EventMeaning.INSTALLED_OTHER),
        (Event(2, 1), EventMeaning.INSTALLED_OTHER),
        (Event(6, 1), EventMeaning.INSTALLED_OTHER),
        (Event(0, 0), EventMeaning.UNKNOWN),
        (Event(0, 0, 44), EventMeaning.UNKNOWN),
        (Event(3, 7, 40), EventMeaning.UNKNOWN),
        (Event(77, 1), EventMeaning.UNKNOWN),
    ],
)
def test_events_mean_what_update_engine_means_by_them(event: Event, meaning: EventMeaning) -> None:
    """Each event that clients send, and the ones that nobody should."""
    assert event_meaning(event) is meaning


integers = st.integers(-(2**31), 2**31 - 1)


@settings(deadline=None)
@given(st.builds(Event, integers, integers, st.none() | st.integers(0, 2**32 - 1), st.text(max_size=20)))
def test_every_event_means_something(event: Event) -> None:
    """The meaning is total."""
    assert isinstance(event_meaning(event), EventMeaning)


@pytest.mark.parametrize(
    ("code", "base", "flags"),
    [
        (268435490, 34, ErrorFlag.TEST_OMAHA_URL),
        (268437959, 2503, ErrorFlag.TEST_OMAHA_URL),
        (268435461, 5, ErrorFlag.TEST_OMAHA_URL),
        (44, 44, ErrorFlag(0)),
        (0x40000009, 9, ErrorFlag.RESUMED),
        (0xF0000001, 1, ErrorFlag.TEST_OMAHA_URL | ErrorFlag.TEST_IMAGE | ErrorFlag.RESUMED | ErrorFlag.DEV_MODE),
        (-2147483643, 5, ErrorFlag.DEV_MODE),
    ],
)
def test_flags_are_split_from_the_error(code: int, base: int, flags: ErrorFlag) -> None:
    """The flag bits tell circumstances; the base is the error."""
    split = split_error_code(code)
    assert (split.base, split.flags) == (base, flags)
    assert split.code == code & 0xFFFFFFFF
    assert base_code(code) == base


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_split_code_can_be_put_together_again(code: int) -> None:
    """Nothing is lost in splitting."""
    split = split_error_code(code)
    assert split.base | int(split.flags) == code


def test_every_base_code_has_its_class() -> None:
    """The classes are update_engine's own buckets; what it has no bucket for is unknown."""
    classes = {
        error_class: {int(code) for code in ErrorCode if classify(code) is error_class} for error_class in ErrorClass
    }
    assert classes == {
        ErrorClass.NODE_HEALTH: {5, 15, 16, 44},
        ErrorClass.PAYLOAD: {10, 11, 12, 17, 18, *range(21, 30), 32, 33, 38, 39},
        ErrorClass.NETWORK: {9, 20, 37},
        ErrorClass.DISK: {4, 7, 8, 13, 14},
        ErrorClass.SERVER_ANSWER: {30, 31, 34},
        ErrorClass.NOT_FAILURE: {0, 35, 36, 40},
        ErrorClass.UNKNOWN: {1, 2, 3, 6, 19, 41, 42, 43, 100},
    }
    assert {int(code) for code in ErrorCode} == {*range(45), 100}
    assert classify(2000) is classify(2999) is ErrorClass.NETWORK
    assert classify(1999) is classify(3000) is ErrorClass.UNKNOWN


def test_codes_have_names_for_people() -> None:
    """A code is shown by name where it has one."""
    assert [error_name(base) for base in (44, 2503, 77)] == ["rollback_error", "http_503", "code_77"]


@pytest.mark.parametrize(
    ("board", "os_arch", "service_pack", "arch"),
    [
        ("amd64-usr", "", "3760.2.0_x86_64", "amd64"),
        ("arm64-usr", "", "3760.2.0_aarch64", "arm64"),
        ("arm64-usr", "x64", "3760.2.0_x86_64", "arm64"),
        ("riscv-usr", "aarch64", "", "arm64"),
        ("", "ARM64", "", "arm64"),
        ("", "x64", "", "amd64"),
        ("", "riscv64", "1_x86_64", "riscv64"),
        ("", "", "3760.2.0_x86_64", "amd64"),
        ("", "", "3760.2.0_aarch64", "arm64"),
        ("", "", "3760.2.0", None),
    ],
)
def test_the_architecture_is_found_or_unknown(board: str, os_arch: str, service_pack: str, arch: str | None) -> None:
    """Board, then os@arch, then the machine name in os@sp; never a guess."""
    request = Request("3.0", os_arch=os_arch, os_service_pack=service_pack)
    assert arch_of(request, App("a", board=board)) == arch


def test_facts_are_what_the_node_says_of_itself() -> None:
    """Each fact that stock clients send, by the name that holds use."""
    app = App(
        "a", track="stable", oem="ami", oemversion="1.2", alephversion="3510.2.0", machinealias="n1", board="amd64-usr"
    )
    assert facts_of(Request("3.0", os_platform="CoreOS"), app) == {
        "arch": "amd64",
        "track": "stable",
        "board": "amd64-usr",
        "oem": "ami",
        "oemversion": "1.2",
        "alephversion": "3510.2.0",
        "alias": "n1",
        "platform": "CoreOS",
    }


def test_an_empty_fact_is_an_unknown_fact() -> None:
    """What is empty on the wire is left out."""
    assert facts_of(Request("3.0"), App("a")) == {}
