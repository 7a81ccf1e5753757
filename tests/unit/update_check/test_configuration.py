"""Groups in order, selectors over facts, and what a changeset is newer than."""

from __future__ import annotations

import uuid

from hypothesis import given, settings
from hypothesis import strategies as st

from services.update_check.configuration import EMPTY, ApplicationView, Configuration, GroupView, RolloutView

FACTS = ("arch", "oem", "track")


def group(name: str, selector: dict[str, tuple[str, ...]]) -> GroupView:
    return GroupView(
        uuid.uuid5(uuid.NAMESPACE_DNS, name), name, selector, updates_enabled=True, poll_interval_s=2700, rollouts={}
    )


def application(*groups: GroupView, omaha_id: str | None = "id") -> ApplicationView:
    facts = tuple(sorted({name for g in groups for name in g.selector}))
    return ApplicationView(uuid.UUID(int=1), "flatcar", omaha_id, groups, facts)


def name_of(app: ApplicationView, **facts: str) -> str | None:
    found = app.group_of(facts.get)
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
    rollout = view("2.0.0")
    for number in range(1500):
        assert rollout.is_newer_than(f"1.0.{number}")
    assert len(rollout._newer) <= 1024


def view(version: str) -> RolloutView:
    some = uuid.UUID(int=1)
    return RolloutView(
        some, some, some, version, "running", 1, "open", None, 1, suspended=False, retry_after_s=60.0, answer=None
    )


def test_a_changeset_is_newer_equal_or_cannot_be_compared():
    """0.0.0 is what clients say that want any version."""
    rollout = view("3033.2.1")
    for _ in range(2):
        assert rollout.is_newer_than("3033.2.0") is True
        assert rollout.is_newer_than("3033.2.1") is False
        assert rollout.is_newer_than("dev") is None
        assert rollout.is_newer_than("0.0.0") is True


def test_applications_are_found_by_both_ids():
    """One without an omaha id is not there for Omaha; before the first snapshot nothing is, and the gate is shut."""
    flatcar, packages = application(), application(omaha_id=None)
    configuration = Configuration.of(7, [flatcar, packages], is_open=True)
    assert configuration.by_omaha_id == {"id": flatcar}
    assert len(configuration.applications) == 1
    assert (EMPTY.open, EMPTY.by_omaha_id) == (False, {})
