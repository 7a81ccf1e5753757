"""Which group a node belongs to."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.selector import (
    NOBODY,
    GroupChoice,
    Shadow,
    assign,
    first_match,
    is_catch_all,
    known_facts,
    matches,
    selecting_facts,
    shadows,
)

A, B, C = (uuid.UUID(int=number) for number in (1, 2, 3))
CANARIES = GroupChoice(A, {"site": ("ber", "muc"), "label:canary": ("yes",)})
NAMED = GroupChoice(B, NOBODY)
EVERYONE = GroupChoice(C, {})
GROUPS = (CANARIES, NAMED, EVERYONE)

facts_of_nodes = st.dictionaries(
    st.sampled_from(["site", "label:canary", "nobody"]), st.sampled_from(["ber", "yes", ""])
)


def test_every_named_fact_must_be_known_and_have_one_of_the_values():
    """Both facts decide; one that the node does not tell matches nothing."""
    assert matches(CANARIES.selector, {"site": "muc", "label:canary": "yes"})
    assert not matches(CANARIES.selector, {"site": "muc"})
    assert not matches(CANARIES.selector, {"site": "ham", "label:canary": "yes"})


@given(facts_of_nodes)
def test_nobody_matches_nobody(facts):
    """Whatever a node tells, even a fact of that name; and the empty selector takes each."""
    assert not matches(NOBODY, facts)
    assert matches({}, facts)
    assert is_catch_all({})
    assert not is_catch_all(NOBODY)


@given(facts_of_nodes)
def test_a_catch_all_at_the_end_leaves_no_node_without_a_group(facts):
    """Every node is in exactly one group."""
    assert assign(GROUPS, None, facts) in (CANARIES, EVERYONE)


def test_a_group_that_names_a_node_has_it_whatever_its_facts_are():
    """Naming goes before every selector; a group that is not there any more names nothing."""
    canary = {"site": "ber", "label:canary": "yes"}
    assert assign(GROUPS, B, canary) is NAMED
    assert assign(GROUPS, None, canary) is CANARIES
    assert assign(GROUPS, uuid.UUID(int=9), canary) is CANARIES
    assert first_match((NAMED,), canary) is None


def test_the_facts_that_decide_are_those_that_selectors_name():
    """Sorted, each once; an empty selector names none."""
    assert selecting_facts(GROUPS) == ("label:canary", "nobody", "site")
    assert selecting_facts((EVERYONE,)) == ()


def test_what_a_node_tells_goes_before_what_was_imported():
    """Imported facts fill what is unknown; the version and arch are facts too."""
    known = known_facts(
        {"site": "ber", "alias": "told"},
        {"site": "muc", "rack": "r1", "version": "9"},
        version="1.0.0",
        arch="amd64",
        alias="given",
    )
    assert known == {"site": "ber", "alias": "told", "rack": "r1", "version": "1.0.0", "arch": "amd64"}
    assert known_facts({}, {}, version="1", arch=None, alias="given") == {"alias": "given", "version": "1"}


def test_groups_behind_one_that_takes_every_node_are_shadowed():
    """Those that only have the nodes that they name are not: they lose none."""
    late = GroupChoice(uuid.UUID(int=4), {"site": ("ber",)})
    assert shadows((CANARIES, EVERYONE, late, NAMED)) == (Shadow(late.group_id, C),)
    assert shadows(GROUPS) == ()
