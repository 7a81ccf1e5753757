"""From Omaha's words to observations."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.update_check import omaha
from services.update_check.configuration import ApplicationView, GroupView
from services.update_check.poll import Poll, contact_of, observation_of
from shared.domain.identity import node_id_for
from shared.domain.observation import Observation, ObservationKind
from shared.events.types import NodeEnrolled, UpdateEvent
from shared.omaha.request import MAX_ATTRIBUTE_CHARS, App, Event, Request

GROUP = GroupView(
    uuid.UUID(int=2), "stable", {"track": ("stable",)}, updates_enabled=True, poll_interval_s=2700, rollouts={}
)
FLATCAR = ApplicationView(uuid.UUID(int=1), "flatcar", "id", (GROUP,), ("track",))
AT = datetime(2026, 1, 1, tzinfo=UTC)


def app(**changes: object) -> App:
    return App(
        **{
            "appid": "{id}",
            "version": "3033.2.0",
            "track": "stable",
            "bootid": "{ABC}",
            "oem": "ami",
            "oemversion": "1",
            "alephversion": "3033.0.0",
            "machineid": "m1",
            "machinealias": "web 1",
            "board": "amd64-usr",
            "update_check": True,
        }
        | changes
    )


def poll(request: Request | None = None, **changes: object) -> Poll:
    request = request or Request(protocol="3.0", os_platform="CoreOS")
    return omaha.poll_of(request, app(**changes), FLATCAR, at=AT, address="192.0.2.7", traceparent="00-a")


def observe(request: Request | None = None, event: Event | None = None, **changes: object) -> Observation:
    if event is None:
        return contact_of(poll(request, **changes), uuid.UUID(int=5))
    said = poll(request, events=(event,), **changes)
    return observation_of(said, said.news[0], uuid.UUID(int=5))


def test_a_poll_says_who_where_and_in_which_boot():
    """All of it, as a report takes it."""
    said = observe()
    assert said.node_id == node_id_for(FLATCAR.application_id, "m1")
    assert (said.version, said.boot_id, said.arch, said.group_id) == ("3033.2.0", "abc", "amd64", GROUP.group_id)
    assert said.facts == {
        "arch": "amd64",
        "track": "stable",
        "board": "amd64-usr",
        "oem": "ami",
        "oemversion": "1",
        "alephversion": "3033.0.0",
        "alias": "web 1",
        "platform": "CoreOS",
    }
    assert (said.error_code, said.error_base, said.error_class) == (None, None, None)
    assert (said.address, said.traceparent, said.at, said.event_id) == ("192.0.2.7", "00-a", AT, uuid.UUID(int=5))


def test_flag_bits_are_split_from_the_error():
    """44 has none; the others say that the server is not the public one."""
    failed = observe(None, Event(3, 0, 9 | 1 << 28))
    assert (failed.error_code, failed.error_base, failed.error_class) == (9 | 1 << 28, 9, "network")
    updated = observe(None, Event(3, 2, None, "3033.1.0"))
    assert updated.previous_version == "3033.1.0"
    assert failed.previous_version is None


def test_a_node_outside_every_group_is_still_observed():
    """Its group is unknown, not wrong."""
    assert observe(None, None, track="mine").group_id is None


def test_only_news_become_reports_in_their_order():
    """The steady 3/2, deferrals and other updaters' extras are none."""
    events = (Event(3, 2), Event(13, 1), Event(3, 9, 40), Event(800, 1), Event(14, 1), Event(3, 0, 44), Event(99, 7))
    kinds = [news.kind for news in omaha.news_of(app(events=events))]
    assert kinds == [ObservationKind.DOWNLOAD_STARTED, ObservationKind.DOWNLOADED, ObservationKind.ROLLED_BACK]


def test_without_a_boot_id_another_version_is_another_boot():
    """That is all there is to go by; such ids never tell a clone."""
    assert omaha.boot_id_of(app(bootid="{}")) == "unknown-3033.2.0"
    assert omaha.boot_id_of(app(bootid="", version="3033.2.1")) == "unknown-3033.2.1"


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, True),
        ({"machineid": ""}, False),
        ({"machineid": "m" * 129}, False),
        ({"version": ""}, False),
        ({"version": "1" * 129}, False),
    ],
)
def test_who_does_not_say_who_it_is_is_not_remembered(changes, known):
    """No machine id, no version, or none that fits."""
    assert omaha.identifies_node(app(**changes)) is known


def test_each_fact_alone_is_as_all_together():
    """What selectors ask for one by one; what nobody knows is unknown."""
    request = Request(protocol="3.0", os_platform="CoreOS")
    one = app()
    facts = observe(request).facts
    assert {name: omaha.fact(request, one, name) for name in facts} == facts
    assert omaha.fact(request, one, "version") == "3033.2.0"
    assert omaha.fact(request, one, "site") is None
    empty = app(track="", board="", oem="", oemversion="", alephversion="", machinealias="", version="")
    for name in ("track", "board", "oem", "oemversion", "alephversion", "alias", "version"):
        assert omaha.fact(request, empty, name) is None


def test_what_a_node_tells_wins_over_what_was_imported():
    """Its group is found by both; its reports say what it told alone."""
    request = Request(protocol="3.0", install_source="ondemandupdate")
    imported = {"track": "stable", "site": "fra"}

    def poll_with(track: str) -> Poll:
        return omaha.poll_of(
            request, app(track=track), FLATCAR, at=AT, address=None, traceparent=None, imported=imported
        )

    silent, says = poll_with(""), poll_with("edge")
    assert (silent.group, says.group) == (GROUP, None)
    assert [silent.fact(name) for name in ("track", "site", "rack")] == ["stable", "fra", None]
    assert says.fact("track") == "edge"
    assert "site" not in says.facts()
    assert silent.on_demand
    assert not poll().on_demand


words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=MAX_ATTRIBUTE_CHARS)


@settings(deadline=None)
@given(arch=words, said=st.fixed_dictionaries(dict.fromkeys(("bootid", "track", "machineid", "version"), words)))
def test_whatever_a_node_says_fits_its_events(arch, said):
    """An event that followers cannot read would stop them all."""
    request = Request(protocol="3.0", os_arch=arch)
    changes = said | {"board": ""}
    if not omaha.identifies_node(app(**changes)):
        return
    said = observe(request, **changes)
    common = {
        "node_id": str(said.node_id),
        "machine_id": said.machine_id,
        "application_id": str(said.application_id),
        "version": said.version,
        "boot_id": said.boot_id,
        "facts": said.facts,
    } | ({} if said.arch is None else {"arch": said.arch})
    msgspec.convert(common, NodeEnrolled)
    msgspec.convert(common | {"applied": True, "source": "omaha"}, UpdateEvent)


def test_an_arch_that_is_none_is_left_out():
    """No changeset could have one so long."""
    request = Request(protocol="3.0", os_arch="x" * 300)
    assert observe(request, board="").arch is None
    assert observe(Request(protocol="3.0", os_arch="riscv64"), board="").arch == "riscv64"
