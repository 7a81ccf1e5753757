"""Groups in order, selectors over facts, and what a changeset is newer than."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from services.update_check.configuration import (
    EMPTY,
    ApplicationView,
    ArchRollouts,
    Configuration,
    GroupView,
    RolloutView,
)
from services.update_check.store import arch_rollouts
from shared.domain.rollout import Purpose
from shared.domain.selector import NOBODY, assign
from shared.domain.windows import Weekday, WeeklyWindow, Windows

FACTS = ("arch", "oem", "track")


def group(name: str, selector: dict[str, tuple[str, ...]]) -> GroupView:
    return GroupView(
        uuid.uuid5(uuid.NAMESPACE_DNS, name), name, selector, updates_enabled=True, poll_interval_s=2700, rollouts={}
    )


def application(*groups: GroupView, omaha_id: str | None = "id") -> ApplicationView:
    facts = tuple(sorted({name for g in groups for name in g.selector}))
    return ApplicationView(uuid.UUID(int=1), "flatcar", omaha_id, groups, facts)


def name_of(app: ApplicationView, **facts: str) -> str | None:
    found = app.group_of(facts.get, "m1")
    return None if found is None else found.name


def test_the_first_group_in_order_has_the_node():
    """Also where a later one would match better."""
    canary, rest = group("canary", {"track": ("alpha", "beta")}), group("rest", {})
    app = application(canary, rest)
    assert name_of(app, track="beta") == "canary"
    assert name_of(app, track="stable") == "rest"
    assert name_of(application(rest, canary), track="beta") == "rest"


def test_an_unknown_fact_matches_no_value():
    """A node that does not say its track is not in the group of any track."""
    app = application(group("stable", {"track": ("stable",), "oem": ("ami", "gce")}))
    assert name_of(app, track="stable") is None
    assert name_of(app, track="stable", oem="azure") is None
    assert name_of(app, track="stable", oem="gce") == "stable"
    assert name_of(application()) is None


selectors = st.dictionaries(
    st.sampled_from(FACTS), st.lists(st.sampled_from("abc"), min_size=1, max_size=2).map(tuple), max_size=3
)


@settings(deadline=None)
@given(
    asked=st.lists(selectors, max_size=4),
    nodes=st.lists(st.dictionaries(st.sampled_from(FACTS), st.sampled_from("abc")), min_size=1, max_size=6),
)
def test_what_is_remembered_is_what_the_selectors_say(asked, nodes):
    """The answer does not depend on who asked before."""
    app = application(*(group(str(n), selector) for n, selector in enumerate(asked)))
    for facts in nodes * 2:
        first = next(
            (str(n) for n, s in enumerate(asked) if all(facts.get(name) in values for name, values in s.items())), None
        )
        assert name_of(app, **facts) == first


def test_nodes_that_make_up_facts_fill_no_memory():
    """What is remembered is bounded."""
    app = application(group("a", {"oem": ("x",)}))
    for number in range(5000):
        assert name_of(app, oem=str(number)) is None
    assert len(app._by_facts) <= 4096
    rollouts = ArchRollouts(view("2.0.0"))
    for number in range(5000):
        assert isinstance(rollouts.pick("m1", f"1.0.{number}"), RolloutView)
    assert len(rollouts._picked) <= 4096


def test_a_named_node_is_in_the_group_that_names_it():
    """Whatever its facts are; a group that only names nodes selects no others. The same as what operators are shown."""
    canary, named, rest = group("canary", {"track": ("beta",)}), group("named", NOBODY), group("rest", {})
    app = replace(application(canary, named, rest), named={"m1": named, "m2": rest})
    for facts in ({"track": "beta"}, {"track": "stable"}, {}):
        for machine_id in ("m1", "m2", "m3"):
            names_it = app.named.get(machine_id)
            known = {name: facts.get(name) for name in app.selecting_facts}
            expected = assign(app.groups, None if names_it is None else names_it.group_id, known)
            assert app.group_of(facts.get, machine_id) is expected
    assert app.group_of({"track": "beta"}.get, "m1") is named
    assert app.group_of({"track": "beta"}.get, "m3") is canary


def view(version: str, **changes) -> RolloutView:
    some = uuid.UUID(int=1)
    return RolloutView(
        **{
            "rollout_id": some,
            "changeset_id": some,
            "group_id": some,
            "arch": "amd64",
            "version": version,
            "state": "running",
            "group_pace": 1,
            "gate_state": "open",
            "braked_reason": None,
            "changeset_pace": 1,
            "suspended": False,
            "retry_after_s": 60.0,
            "answer": None,
        }
        | changes
    )


def picked(rollouts: ArchRollouts, version: str, machine_id: str = "m1") -> str:
    """The version that a node is to take, or the reason for none."""
    found = rollouts.pick(machine_id, version)
    return found.version if isinstance(found, RolloutView) else found.reason.value


def test_a_changeset_is_newer_equal_or_cannot_be_compared():
    """0.0.0 is what clients say that want any version."""
    rollouts = ArchRollouts(view("3033.2.1"))
    for _ in range(2):
        assert picked(rollouts, "3033.2.0") == "3033.2.1"
        assert picked(rollouts, "3033.2.1") == "up_to_date"
        assert picked(rollouts, "3033.3.0") == "up_to_date"
        assert picked(rollouts, "dev") == "version_unknown"
        assert picked(rollouts, "0.0.0") == "3033.2.1"
    assert picked(ArchRollouts(None), "1.0.0") == "no_rollout"


def test_floors_are_taken_in_turn():
    """The smallest that is newer first; those beyond the update are nobody's; who says 0.0.0 takes none."""
    floors = [view(version, purpose=Purpose.FLOOR) for version in ("4.0.0", "2.0.0", "1.5.0")]
    rollouts = arch_rollouts([view("3.0.0"), *floors], frozenset())
    assert [floor.version for floor in rollouts.floors] == ["1.5.0", "2.0.0", "4.0.0"]
    walked, version = [], "1.0.0"
    while (version := picked(rollouts, version)) != "up_to_date":
        walked.append(version)
    assert walked == ["1.5.0", "2.0.0", "3.0.0"]
    assert picked(rollouts, "0.0.0") == "3.0.0"


def test_what_a_node_runs_may_be_too_old_or_a_dead_end():
    """A floor that it can take leads on from what is too old."""
    update = view("3.0.0", minimum_version="2.0.0")
    assert picked(ArchRollouts(update), "1.0.0") == "minimum_version"
    assert picked(ArchRollouts(update), "2.0.0") == "3.0.0"
    assert picked(ArchRollouts(update, floors=(view("2.0.0"),)), "1.0.0") == "2.0.0"
    dead = ArchRollouts(update, dead_ends=frozenset({"2.5.0", "3.0.0"}))
    assert picked(dead, "2.5.0") == "dead_end"
    assert picked(dead, "3.0.0") == "up_to_date"


def test_a_downgrade_is_for_who_runs_what_is_left():
    """Others go on as they did; the newest one counts."""
    back = view("2.0.0", purpose=Purpose.DOWNGRADE, leaves_version="3.0.0")
    older = view("1.0.0", purpose=Purpose.DOWNGRADE, leaves_version="3.0.0")
    rollouts = arch_rollouts([back, view("4.0.0"), older], frozenset())
    assert picked(rollouts, "3.0.0") == "2.0.0"
    assert picked(rollouts, "2.0.0") == "4.0.0"
    assert picked(arch_rollouts([back], frozenset()), "2.0.0") == "no_rollout"
    assert picked(arch_rollouts([back], frozenset({"3.0.0"})), "3.0.0") == "dead_end"


def test_a_drill_leads_its_machines_there_and_back():
    """Nobody else, and nothing moves them on while it lasts."""
    there = view("2.0.0", purpose=Purpose.DRILL, only_machines=frozenset({"m1"}))
    back = view("1.0.0", purpose=Purpose.DRILL, only_machines=frozenset({"m1"}), leaves_version="2.0.0")
    update = view("3.0.0")
    first = arch_rollouts([there, update], frozenset())
    assert [picked(first, version) for version in ("1.0.0", "2.0.0")] == ["2.0.0", "up_to_date"]
    assert [picked(first, version, "m2") for version in ("1.0.0", "2.0.0")] == ["3.0.0", "3.0.0"]
    second = arch_rollouts([back, there, update], frozenset())
    assert [picked(second, version) for version in ("2.0.0", "1.0.0")] == ["1.0.0", "up_to_date"]
    assert picked(arch_rollouts([back, update], frozenset()), "2.5.0") == "3.0.0"
    assert picked(arch_rollouts([there], frozenset({"1.0.0"})), "1.0.0") == "dead_end"
    everybody = arch_rollouts([replace(there, only_machines=None), update], frozenset())
    assert picked(everybody, "1.0.0") == "3.0.0"


def test_the_former_update_serves_until_the_newer_one_does():
    """Latecomers are not left where they are because something newer waits; what the channel left is not given out."""
    former = view("2.0.0", state="completed")
    waiting = arch_rollouts([view("3.0.0", state="waiting_for_gate"), former], frozenset())
    assert [picked(waiting, version) for version in ("1.0.0", "2.0.0")] == ["2.0.0", "3.0.0"]
    running = arch_rollouts([view("3.0.0"), former], frozenset())
    assert picked(running, "1.0.0") == "3.0.0"
    assert picked(arch_rollouts([former], frozenset()), "1.0.0") == "2.0.0"
    left = arch_rollouts([view("1.5.0", state="waiting_for_gate"), former], frozenset())
    assert picked(left, "1.0.0") == "1.5.0"
    alone = arch_rollouts([view("3.0.0", state="halted")], frozenset())
    assert picked(alone, "1.0.0") == "3.0.0"
    unreadable = arch_rollouts([view("x", purpose=Purpose.FLOOR), view("3.0.0")], frozenset())
    assert picked(unreadable, "1.0.0") == "3.0.0"


def test_a_window_is_judged_anew_when_it_opens_or_shuts():
    """And not at every poll between."""
    at = datetime(2026, 3, 2, 21, 0, tzinfo=UTC)
    night = Windows(weekly=(WeeklyWindow(days=(Weekday.MONDAY,), start="22:00", length_s=3600.0),))
    rollout = view("2.0.0", windows=night)
    seen = [(hours, rollout.is_window_open(at + timedelta(hours=hours))) for hours in (0, 0.5, 1, 1.9, 2, 24, 169, 170)]
    assert [is_open for _, is_open in seen] == [False, False, True, True, False, False, True, False]
    assert view("2.0.0").is_window_open(at)
    gone = view("2.0.0", windows=Windows(weekly=night.weekly, must_fit=True), expected_s=7200.0)
    assert not gone.is_window_open(at)
    assert not gone.is_window_open(at + timedelta(days=400))


def test_applications_are_found_by_both_ids():
    """One without an omaha id is not there for Omaha; before the first snapshot nothing is, and the gate is shut."""
    flatcar, packages = application(), application(omaha_id=None)
    configuration = Configuration.of(7, [flatcar, packages], is_open=True)
    assert configuration.by_omaha_id == {"id": flatcar}
    assert len(configuration.applications) == 1
    assert (EMPTY.open, EMPTY.by_omaha_id) == (False, {})
