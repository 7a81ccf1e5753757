"""Tokens of nodes: their form, how one is derived again, and how they ride on requests."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from shared.errors import NotAuthenticated
from shared.fleet.node_tokens import (
    NodeTokenKind,
    bearer_of,
    derive_node_token,
    make_node_token,
    node_token_hash,
)

APPLICATION = uuid.UUID(int=1)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@pytest.mark.parametrize("kind", NodeTokenKind)
def test_a_new_token_tells_its_kind_and_is_never_made_twice(kind):
    """256 random bits; every kind fits a URL's path and a header."""
    one, two = make_node_token(kind), make_node_token(kind)
    assert one != two
    assert one[:4] == {"enrolment": "unr_", "node": "unn_", "path": "unp_"}[kind.value]
    assert len(one) == 47
    assert bearer_of(CIMultiDict(Authorization=f"Bearer {one}")) == one
    assert len(node_token_hash(one)) == 32


@given(machine=texts, nonce=texts, other=texts)
def test_a_derived_token_is_of_one_machine_and_one_nonce(machine, nonce, other):
    """The same words give the same token, others another one."""
    token = derive_node_token("unr_x", APPLICATION, machine, nonce)
    assert token == derive_node_token("unr_x", APPLICATION, machine, nonce)
    assert token.startswith("unn_")
    assert len(token) == 47
    if other != nonce:
        assert derive_node_token("unr_x", APPLICATION, machine, other) != token
    assert derive_node_token("unr_y", APPLICATION, machine, nonce) != token
    assert derive_node_token("unr_x", uuid.UUID(int=2), machine, nonce) != token


def test_no_header_is_no_token():
    """Whether one is wanted is for the caller to say."""
    assert bearer_of(CIMultiDict()) is None


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "Bearer a b", "Bearer ü", "", "Bearer " + "x" * 129])
def test_what_is_no_bearer_token_is_refused(header):
    """A node that sends a broken token is not taken for one that sends none."""
    with pytest.raises(NotAuthenticated):
        bearer_of(CIMultiDict(Authorization=header))
