"""Which nodes move between groups when groups change."""

from __future__ import annotations

import json
import uuid

from hypothesis import given
from hypothesis import strategies as st

from services.control.placement import Stock, choices, fitting_position, place, warnings_of
from shared.domain.policy import Policy
from shared.domain.policy_words import SENTENCES, explain
from shared.domain.selector import GroupChoice, assign

A, B = uuid.UUID(int=1), uuid.UUID(int=2)
SITES = (GroupChoice(A, {"site": ("ber",)}), GroupChoice(B, {}))
keys = st.sampled_from(["ber", "muc", None]).map(lambda site: json.dumps([site]))
stocks = st.lists(
    st.builds(
        Stock,
        keys,
        st.sampled_from([None, A, B]),
        st.sampled_from([None, A, B]),
        st.integers(1, 1_000),
    ),
    max_size=8,
)


@given(stocks)
def test_every_stock_is_placed_by_the_rule_of_polls(given_stocks):
    """What is shown is what `assign` says of a node with these facts; nothing is lost or counted twice."""
    placement = place(SITES, given_stocks)
    assert [item.stock for item in placement.placed] == given_stocks
    for item in placement.placed:
        (site,) = json.loads(item.stock.key)
        group = assign(SITES, item.stock.named, {"site": site})
        assert group is not None
        assert item.group_id == group.group_id
    assert placement.moving == sum(placement.moves().values())
    for group_id in (A, B):
        assert sum(stock.nodes for stock in placement.leaving(group_id)) == sum(
            nodes for (before, _), nodes in placement.moves().items() if before == group_id
        )
        assert sum(stock.nodes for stock in placement.coming(group_id)) == sum(
            nodes for (_, after), nodes in placement.moves().items() if after == group_id
        )


def test_keys_of_named_nodes_decide_nothing():
    """A named node's facts may match another group than the one it is in."""
    placement = place(SITES, [Stock('["ber"]', B, A, 1), Stock('["muc"]', None, None, 2)])
    assert placement.by_key() == {'["muc"]': B}


def test_without_a_catch_all_some_nodes_belong_nowhere():
    """They are placed in no group, and the operator is told."""
    groups = choices([{"group_id": A, "selector": {"site": ["ber"]}}])
    placement = place(groups, [Stock('["muc"]', None, A, 3)])
    assert placement.moves() == {(A, None): 3}
    (warning,) = warnings_of(groups, {A: "berlin"})
    assert "no group takes every node" in warning


def test_a_shadowed_group_is_told():
    """By the names that operators know."""
    (warning,) = warnings_of((SITES[1], SITES[0]), {A: "berlin", B: "all"})
    assert warning.startswith("group berlin is behind all")
    assert warnings_of(SITES, {A: "berlin", B: "all"}) == []
    assert warnings_of((), {}) == []


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=8, unique_by=lambda item: item[0]), st.booleans()
)
def test_a_new_group_finds_a_free_place(positions, before_catch_all):
    """Free once those behind it have moved; before the first catch-all where it wants to be, else behind all."""
    positions = sorted(positions)
    position, moves = fitting_position(positions, before_catch_all=before_catch_all)
    after = [(at + (moves and at >= position), catches) for at, catches in positions]
    assert position not in [at for at, _ in after]
    catch_alls = [at for at, catches in after if catches]
    if before_catch_all and catch_alls:
        assert position < catch_alls[0]
        assert all(at < position for at, catches in after if at < catch_alls[0])
    else:
        assert position > max((at for at, _ in after), default=0)


def test_every_field_of_a_policy_is_explained():
    """With its value, its default, and whether it differs."""
    assert set(SENTENCES) == set(Policy.__struct_fields__)
    explained = explain(Policy(max_attempts=2))
    assert explained["max_attempts"] == {
        "value": 2, "default": 5, "changed": True, "means": SENTENCES["max_attempts"],
    }  # fmt: skip
    assert not explained["waves"]["changed"]
