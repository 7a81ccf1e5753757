"""Cincinnati: hashes and graphs as Fedora CoreOS' server makes them, and whom an edge is shown."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.update_check.cincinnati import (
    LEAST_WARINESS,
    MAX_DRAWN,
    PREFIX,
    Catalogue,
    Hold,
    Query,
    Release,
    Throttle,
    by_age,
    edges_of,
    graph,
    may_take,
    overlaid,
    poll_of,
    pullspec_of,
    query_of,
    siphash13,
    wariness_of,
)
from services.update_check.configuration import ApplicationView, ArchRollouts, Configuration, GroupView, RolloutView
from services.update_check.poll import contact_of
from shared.domain.observation import ObservationSource
from shared.errors import InvalidInput
from shared.events.types import NodeEnrolled
from shared.omaha.response import Package, UpdateAnswer

NOW = 1_700_000_000.0
SHA = "ab" * 32
PULLSPEC = f"quay.io/fedora/fedora-coreos@sha256:{SHA}"
ANSWER = UpdateAnswer(
    version="3",
    packages=[Package(name="a", sha1_base64="I6DGNAOrJRUxPbCuLw+AITfiVMo=", sha256_hex=SHA, size=1, required=True)],
    codebases=["http://127.0.0.1/"],
)
ALWAYS = Throttle(start_epoch=0, start_value=1)


def asked(**changes: str) -> Query:
    return query_of(
        {
            "basearch": "x86_64",
            "stream": "stable",
            "os_version": "1.0.0",
            "os_checksum": SHA,
            "node_uuid": "e0f3745b108f471cbd4883c6fbed8cdd",
            "group": "default",
            "platform": "metal",
            **changes,
        }
    )


def release(version: str, **changes) -> Release:
    return Release(**{"version": version, "checksum": SHA, "channels": frozenset({"stable"})} | changes)


# Wariness


@pytest.mark.parametrize(
    ("node_uuid", "wariness"),
    [
        ("", 0.188483),
        ("e0f3745b108f471cbd4883c6fbed8cdd", 0.653323),
        ("c988d2509fdf5cdcbed39037c56406fb", 0.246290),
    ],
)
def test_the_golden_hashes_of_the_reference(node_uuid, wariness):
    """What Fedora CoreOS' own server computes for these nodes."""
    assert wariness_of(node_uuid, None) == pytest.approx(wariness, abs=5e-7)


def test_siphash_is_the_one_of_its_paper():
    """SipHash-1-3 with a zero key, of nothing; how much there is counts too."""
    assert siphash13(b"") == 0xD1FBA762150C532C
    assert len({siphash13(bytes(length)) for length in range(20)}) == 20


@given(st.text(max_size=64))
def test_nobody_who_does_not_ask_for_it_is_first(node_uuid):
    """0 is for those that say so."""
    assert LEAST_WARINESS <= wariness_of(node_uuid, None) <= 1


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("0.000000", 0), ("1", 1), ("0.25", 0.25), ("1e-3", 0.001), (".5", 0.5)]
)
def test_a_node_may_say_how_wary_it_is(text, value):
    """It counts in place of the hash."""
    assert wariness_of("m", text) == value


@pytest.mark.parametrize(
    "text", ["NaN", "nan", "-nan", "inf", "-0.1", "1.000001", "1e9", "", " 0.5", "0.5 ", "0x1", "1_0", "\u0660", "0,5"]
)
def test_what_is_no_wariness_is_refused(text):
    """NaN would never be throttled, and what is out of range is no share of the fleet."""
    with pytest.raises(InvalidInput):
        wariness_of("m", text)


# Throttling


def test_the_throttle_of_the_reference():
    """Nobody before its start, a line between start and end, everybody after it; without a duration it stands still."""
    rolled = Throttle(start_epoch=1_000, start_value=0.2, duration_minutes=10)
    assert [rolled.share(now) for now in (999, 1_000, 1_300, 1_600, 9_999)] == [0, 0.2, pytest.approx(0.6), 1, 1]
    assert Throttle(start_epoch=1_000, start_value=0.2).share(9_999) == 0.2


def test_wariness_0_sees_a_release_before_its_start():
    """A canary by its own wish; whoever is as wary as the share sees it too."""
    rolled = Throttle(start_epoch=1_000, start_value=0.2)
    assert not rolled.hides(0.0, 0)
    assert rolled.hides(1e-6, 0)
    assert not rolled.hides(0.2, 1_000)
    assert rolled.hides(0.2000001, 1_000)


@given(
    start=st.floats(0, 1),
    minutes=st.one_of(st.none(), st.floats(0.1, 10_000)),
    times=st.lists(st.floats(0, 1e6), min_size=2, max_size=2),
    warinesses=st.lists(st.floats(0, 1), min_size=2, max_size=2),
)
def test_what_was_seen_stays_seen_and_the_less_wary_see_more(start, minutes, times, warinesses):
    """The share never shrinks, and stays within 0 and 1."""
    rolled = Throttle(start_epoch=1_000, start_value=start, duration_minutes=minutes)
    early, late = sorted(times)
    assert 0 <= rolled.share(early) <= rolled.share(late) + 1e-12 <= 1 + 1e-9
    less, more = sorted(warinesses)
    if rolled.hides(less, late):
        assert rolled.hides(more, late)
    if rolled.hides(less, late):
        assert rolled.hides(less, early)


# Edges


def shown(*releases: Release) -> list[tuple[int, int]]:
    return edges_of(releases, lambda _: False)


def test_golden_graph_without_barriers():
    """What is rolled out is reached from all that is older."""
    assert shown(release("1"), release("2"), release("3", throttle=ALWAYS)) == [(0, 2), (1, 2)]


def test_golden_graph_with_a_barrier():
    """The barrier from all before it, the release from the barrier on; nothing jumps the barrier."""
    releases = [
        release("1"),
        release("2"),
        release("3", barrier_reason="signing key"),
        release("4"),
        release("5", throttle=ALWAYS),
    ]
    assert shown(*releases) == [(0, 2), (1, 2), (2, 4), (3, 4)]


def test_golden_graph_with_two_barriers_and_a_dead_end():
    """Barrier to barrier; a dead end has nothing that leads on."""
    releases = [
        release("1"),
        release("2", barrier_reason="a"),
        release("3", deadend_reason="bootloader"),
        release("4", barrier_reason="b"),
        release("5", throttle=ALWAYS),
    ]
    assert shown(*releases) == [(0, 1), (1, 3), (3, 4)]


def test_what_is_hidden_has_no_edges_to_it():
    """Its node stays."""
    releases = [release("1"), release("2", throttle=ALWAYS), release("3", throttle=ALWAYS)]
    assert edges_of(releases, lambda one: one.version == "3") == [(0, 1)]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=12))
def test_no_edge_jumps_a_barrier_or_leads_back(kinds):
    """Whatever is rolled out."""
    releases = [
        release(
            str(place),
            barrier_reason="" if barrier else None,
            deadend_reason="" if dead else None,
            throttle=ALWAYS if rolled else None,
        )
        for place, (barrier, dead, rolled) in enumerate(kinds)
    ]
    for source, target in shown(*releases):
        assert source < target
        assert releases[source].deadend_reason is None
        assert all(one.barrier_reason is None for one in releases[source + 1 : target])


def test_age_is_the_order_of_versions():
    """Not that of the alphabet; what is no version comes first."""
    assert [one.version for one in by_age(map(release, ["10.0.0", "9.0.0", "9.0.0-rc1", "odd"]))] == [
        "odd", "9.0.0-rc1", "9.0.0", "10.0.0",
    ]  # fmt: skip


# Asking


@pytest.mark.parametrize("name", ["basearch", "stream", "os_version", "os_checksum", "node_uuid"])
def test_what_is_needed_is_asked_for_by_name(name):
    """A client that leaves it out is told."""
    with pytest.raises(InvalidInput, match=name):
        asked(**{name: ""})


@pytest.mark.parametrize(
    "changes",
    [
        {"node_uuid": "m" * 129},
        {"os_version": "1" * 129},
        {"basearch": "x" * 33},
        {"group": "g" * 129},
        {"platform": "p\0"},
        {"stream": "a\nb"},
        {"os_checksum": "x" * 513},
        {"oci": "maybe"},
        {"rollout_wariness": "NaN"},
    ],
)
def test_values_are_bounded(changes):
    """What no column holds is refused before it is looked at."""
    with pytest.raises(InvalidInput):
        asked(**changes)


def test_a_pullspec_is_found_without_its_transport():
    """As registries name images; anything else is none."""
    assert pullspec_of(PULLSPEC) == PULLSPEC
    assert pullspec_of("docker://" + PULLSPEC) == PULLSPEC
    assert pullspec_of("ostree-unverified-registry:" + PULLSPEC) == PULLSPEC
    assert pullspec_of("quay.io/fedora/fedora-coreos:stable") is None
    assert pullspec_of("") is None


# The graph that a node sees


def test_a_granted_node_sees_its_one_edge():
    """In the reference's exact shape: index pairs, ages, scheme and the throttle in the metadata."""
    releases = [release("1.0.0"), release("2.0.0", throttle=ALWAYS)]
    assert graph(releases, asked(), target="2.0.0", now_s=NOW) == {
        "nodes": [
            {
                "version": "1.0.0",
                "payload": SHA,
                "metadata": {PREFIX + "releases.age_index": "0", PREFIX + "scheme": "checksum"},
            },
            {
                "version": "2.0.0",
                "payload": SHA,
                "metadata": {
                    PREFIX + "releases.age_index": "1",
                    PREFIX + "scheme": "checksum",
                    PREFIX + "updates.rollout": "true",
                    PREFIX + "updates.start_epoch": "0",
                    PREFIX + "updates.start_value": "1.000000",
                },
            },
        ],
        "edges": [[0, 1]],
    }


def test_a_node_that_was_granted_nothing_sees_no_edge_of_its_own():
    """Others' edges stay, for whoever looks."""
    releases = [release("1.0.0"), release("1.5.0"), release("2.0.0", throttle=ALWAYS)]
    assert graph(releases, asked(), target=None, now_s=NOW)["edges"] == [[1, 2]]
    assert graph(releases, asked(), target="2.0.0", now_s=NOW)["edges"] == [[0, 2], [1, 2]]


def test_a_wary_node_does_not_see_others_edges_to_a_narrow_rollout():
    """Throttled as the reference does."""
    narrow = Throttle(start_epoch=0, start_value=0.3)
    releases = [release("1.0.0"), release("1.5.0"), release("2.0.0", throttle=narrow)]
    assert graph(releases, asked(rollout_wariness="0.31"), target=None, now_s=NOW)["edges"] == []
    assert graph(releases, asked(rollout_wariness="0.3"), target=None, now_s=NOW)["edges"] == [[1, 2]]


def test_a_node_finds_itself_whatever_it_runs():
    """By the payload that it says, though the version is not known here or was published with other bytes."""
    found = graph([release("2.0.0", throttle=ALWAYS)], asked(os_checksum="cd" * 32), target="2.0.0", now_s=NOW)
    assert [(node["version"], node["payload"]) for node in found["nodes"]] == [("1.0.0", "cd" * 32), ("2.0.0", SHA)]
    assert found["edges"] == [[0, 1]]


def test_only_the_streams_releases_are_shown():
    """Ages count over all of them, so that they are the same in every stream."""
    releases = [
        release("1.0.0"), release("1.5.0", channels=frozenset({"testing"})), release("2.0.0"),
    ]  # fmt: skip
    found = graph(releases, asked(), target=None, now_s=NOW)
    ages = [(node["version"], node["metadata"][PREFIX + "releases.age_index"]) for node in found["nodes"]]
    assert ages == [("1.0.0", "0"), ("2.0.0", "2")]


def test_oci_nodes_get_pullspecs():
    """A release that has none is not there for them."""
    releases = [release("1.5.0"), release("2.0.0", pullspec=PULLSPEC, throttle=ALWAYS)]
    found = graph(releases, asked(oci="true", os_checksum="registry/os@sha256:0"), target="2.0.0", now_s=NOW)
    assert [(node["version"], node["payload"]) for node in found["nodes"]] == [
        ("1.0.0", "registry/os@sha256:0"), ("2.0.0", PULLSPEC),
    ]  # fmt: skip
    assert {node["metadata"][PREFIX + "scheme"] for node in found["nodes"]} == {"oci"}
    assert found["edges"] == [[0, 1]]


def test_barriers_and_dead_ends_say_why():
    """In the metadata, as zincati shows them."""
    releases = [release("1.0.0", deadend_reason="grub"), release("2.0.0", barrier_reason="key")]
    own, floor = (node["metadata"] for node in graph(releases, asked(), target=None, now_s=NOW)["nodes"])
    assert (own[PREFIX + "updates.deadend"], own[PREFIX + "updates.deadend_reason"]) == ("true", "grub")
    assert (floor[PREFIX + "updates.barrier"], floor[PREFIX + "updates.barrier_reason"]) == ("true", "key")


def test_a_duration_is_told():
    """Where a throttle has one."""
    timed = Throttle(start_epoch=5.7, start_value=0.5, duration_minutes=90)
    node = graph([release("2.0.0", throttle=timed)], asked(), target=None, now_s=NOW)["nodes"][1]
    assert node["metadata"][PREFIX + "updates.duration_minutes"] == "90"
    assert node["metadata"][PREFIX + "updates.start_epoch"] == "5"


def test_a_held_segment_is_a_conditional_edge():
    """In OpenShift's shape; never beside a plain edge, and the asking node's own is not among them."""
    hold = Hold(segment=(("platform", "metal"),))
    releases = [release("1.0.0"), release("1.5.0"), release("2.0.0", throttle=ALWAYS, holds=(hold,))]
    found = graph(releases, asked(), target=None, now_s=NOW)
    assert found["edges"] == []
    assert found["conditionalEdges"] == [
        {
            "edges": [{"from": "1.5.0", "to": "2.0.0"}],
            "risks": [
                {
                    "url": "",
                    "name": "Held.platform=metal",
                    "message": "held for nodes with platform=metal, and for those that do not tell",
                    "matchingRules": [{"type": "Facts", "facts": {"platform": "metal"}}],
                }
            ],
        }
    ]


# From the configuration


def view(version: str = "2.0.0", **changes) -> RolloutView:
    return RolloutView(
        **{
            "rollout_id": uuid.UUID(int=9),
            "changeset_id": uuid.UUID(int=8),
            "group_id": uuid.UUID(int=2),
            "arch": "amd64",
            "version": version,
            "state": "running",
            "group_pace": 1,
            "gate_state": "open",
            "braked_reason": None,
            "changeset_pace": 1,
            "suspended": False,
            "retry_after_s": 1.0,
            "answer": ANSWER,
        }
        | changes
    )


def world(update: RolloutView | None, **changes) -> tuple[Configuration, ApplicationView]:
    group = GroupView(
        uuid.UUID(int=2),
        "stable",
        {"track": ("stable",)},
        updates_enabled=changes.pop("updates_enabled", True),
        poll_interval_s=300,
        rollouts={} if update is None else {"amd64": ArchRollouts(update=update)},
    )
    application = ApplicationView(uuid.UUID(int=1), "fedora-coreos", None, (group,), ("track",), **changes)
    return Configuration.of(1, [application], is_open=True), application


def poll(query: Query, application: ApplicationView, **more):
    return poll_of(query, application, at=datetime(2026, 1, 1, tzinfo=UTC), address=None, traceparent=None, **more)


def test_the_request_says_who_it_is():
    """A machine id of its own kind, our names for the arch and the stream, and no boot id."""
    _, application = world(view())
    said = poll(asked(basearch="aarch64", group=""), application, imported={"site": "fra1", "platform": "imported"})
    assert said.source is ObservationSource.CINCINNATI
    assert said.key[1] == "e0f3745b108f471cbd4883c6fbed8cdd"
    assert said.boot_id == "unknown-1.0.0"
    assert said.facts() == {"arch": "arm64", "platform": "metal", "track": "stable"}
    assert (said.fact("site"), said.fact("platform"), said.fact("version")) == ("fra1", "metal", "1.0.0")
    assert said.group is application.groups[0]


@pytest.mark.parametrize(
    "changes",
    [{"gate_state": "halted"}, {"suspended": True}, {"braked_reason": "r"}, {"state": "paused"}],
)
def test_what_is_not_served_has_no_throttle(changes):
    """So no edge leads to it, for anybody."""
    configuration, application = world(view(**changes))
    (one,) = overlaid([release("2.0.0")], configuration, poll(asked(), application))
    assert one.throttle is None


def test_what_is_served_has_its_share_and_its_holds():
    """The rollout's fraction is the throttle."""
    configuration, application = world(view(fraction=0.25, holds=((("platform", "metal"),),)))
    other, one = overlaid([release("1.0.0"), release("2.0.0")], configuration, poll(asked(), application))
    assert other.throttle is None
    assert one.throttle is not None
    assert one.throttle.share(NOW) == 0.25
    assert one.holds == (Hold(segment=(("platform", "metal"),)),)


def test_nothing_is_served_while_everything_is_shut():
    """The global gate, a group's switch, an application that is only observed, a node in no group."""
    configuration, application = world(view())
    shut = dataclasses.replace(configuration, open=False)
    assert overlaid([release("2.0.0")], shut, poll(asked(), application))[0].throttle is None
    for changes in ({"updates_enabled": False}, {"observe_only": True}):
        configuration, application = world(view(), **changes)
        assert overlaid([release("2.0.0")], configuration, poll(asked(), application))[0].throttle is None
    lost = poll(asked(stream="next"), application)
    assert lost.group is None
    assert overlaid([release("2.0.0")], configuration, lost) == [release("2.0.0")]


def test_nothing_is_granted_in_vain():
    """A release that the node cannot fetch, or that it is too wary for; its own word makes it later, never earlier."""
    _, application = world(view(fraction=0.3))
    known = [release("2.0.0")]

    def may(releases, **changes: str) -> bool:
        query = asked(**changes)
        return may_take(query, poll(query, application), releases)

    assert may(known)
    assert may(known, rollout_wariness="0.3")
    assert not may(known, rollout_wariness="0.31")
    assert not may(known, oci="true")
    assert not may([])
    assert may([], os_version="2.0.0"), "it is up to date: the decision says so"
    assert may([], stream="next"), "no group: the decision says so"


words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=140)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        dict.fromkeys(("basearch", "stream", "os_version", "os_checksum", "node_uuid", "group", "platform"), words)
    )
)
def test_whatever_a_node_says_fits_its_events(said):
    """An event that followers cannot read would stop them all."""
    try:
        query = query_of(said)
    except InvalidInput:
        return
    _, application = world(None)
    contact = contact_of(poll(query, application), uuid.UUID(int=5))
    msgspec.convert(
        {
            "node_id": str(contact.node_id),
            "machine_id": contact.machine_id,
            "application_id": str(contact.application_id),
            "version": contact.version,
            "boot_id": contact.boot_id,
            "facts": contact.facts,
            "arch": contact.arch,
        },
        NodeEnrolled,
    )


# Graphs that were drawn before

_FLEETING = st.fixed_dictionaries(
    {
        "fraction": st.sampled_from([0.0, 0.4, 1.0]),
        "holds": st.sampled_from([(), ((("platform", "metal"),),)]),
        "state": st.sampled_from(["running", "paused"]),
        "version": st.sampled_from(["2.0.0", "2.5.0", "9.9.9"]),
    }
)
_ASKED = st.fixed_dictionaries(
    {
        "os_version": st.sampled_from(["1.0.0", "1.5.0", "0.1.0"]),
        "os_checksum": st.sampled_from([SHA, "cd" * 32]),
        "stream": st.sampled_from(["stable", "testing"]),
        "oci": st.sampled_from(["true", "false"]),
        "node_uuid": st.sampled_from(["a", "b", "c", "d"]),
    },
    optional={"rollout_wariness": st.sampled_from(["0", "0.4", "0.41", "1"])},
)


@settings(deadline=None)
@given(
    asks=st.lists(
        st.tuples(_FLEETING, _ASKED, st.sampled_from([None, "2.0.0"]), st.sampled_from([50.0, NOW])), max_size=12
    )
)
def test_a_graph_drawn_before_is_the_one_that_would_be_drawn(asks):
    """Whoever asked before, with whatever rolled out: each node gets its own graph."""
    releases = [
        release("1.0.0"),
        release("1.5.0", barrier_reason="key", published_s=100.0),
        release("2.0.0", pullspec=PULLSPEC, published_s=100.0),
        release("2.5.0", channels=frozenset({"testing", "stable"})),
    ]
    catalogue = Catalogue(releases)
    for rolled_out, changes, target, now_s in asks * 2:
        configuration, application = world(view(**rolled_out))
        query = asked(**changes)
        said = poll(query, application)
        expected = graph(overlaid(releases, configuration, said), query, target=target, now_s=now_s)
        drawn = catalogue.draw(configuration, said, query, target=target, now_s=now_s)
        assert msgspec.json.decode(drawn) == expected


def test_graphs_are_drawn_once_and_not_kept_without_bound():
    """The same bytes for nodes that ask alike; nodes that make up what they run push out others, no more."""
    catalogue = Catalogue([release("2.0.0")])
    configuration, application = world(view())

    def draw(**changes: str) -> bytes:
        query = asked(**changes)
        return catalogue.draw(configuration, poll(query, application), query, target=None, now_s=NOW)

    first = draw(node_uuid="a")
    assert draw(node_uuid="b") is first
    for number in range(MAX_DRAWN):
        draw(os_checksum=f"{number:064x}")
    assert draw() == first
    assert draw() is not first
