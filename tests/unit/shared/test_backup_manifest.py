"""What a backup says of itself, and in which order its tables come in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.backup.manifest import load_order, read_manifest, safe_settings
from shared.errors import InvalidInput

names = st.sampled_from("abcdef")


@given(st.sets(st.tuples(names, names)))
def test_tables_come_after_those_that_they_refer_to(references):
    """Whatever refers to what; a ring is refused, and a table may refer to itself."""
    try:
        order = load_order("abcdef", references)
    except InvalidInput:
        return
    assert sorted(order) == list("abcdef")
    assert all(order.index(parent) < order.index(child) for child, parent in references if child != parent)


def test_a_ring_of_tables_is_refused():
    """Named, for whoever adds a reference."""
    with pytest.raises(InvalidInput, match="a, b"):
        load_order("abc", [("a", "b"), ("b", "a")])


def test_settings_are_kept_without_secrets():
    """Neither what is named like one nor what looks like a URL with a password."""
    kept = safe_settings(
        {
            "UNEVENTFUL_PORT": "1",
            "UNEVENTFUL_DATABASE_URL": "x",
            "UNEVENTFUL_TOKEN_FILE": "x",
            "UNEVENTFUL_PEER": "amqp://guest:guest@host",
            "HOME": "/root",
        },
        "UNEVENTFUL_",
    )
    assert kept == {"UNEVENTFUL_PORT": "1"}


@pytest.mark.parametrize("raw", [b"", b"{}", b"[" * 100_000, b'{"format": 2}'])
def test_what_is_no_manifest_is_refused(raw):
    """With words, whatever it is."""
    with pytest.raises(InvalidInput, match=r"manifest\.json cannot be read"):
        read_manifest(raw)


@pytest.mark.parametrize("name", ["../up", "/root", "a/../b", ".hidden", "a//b", "a/b\x00", "x" * 241])
def test_names_that_lead_elsewhere_are_refused(name):
    """A manifest comes from outside: no file of it may land anywhere else."""
    said = {
        "format": 1,
        "program": "1",
        "made_at": "2026-01-01T00:00:00Z",
        "migrations": [{"number": 1, "filename": "0001_pre_a.sql", "sha256": "0" * 64}],
        "tables": [],
        "ledger_seq": 0,
        "ledger_hash": "0" * 64,
        "files": [{"name": name, "sha256": "0" * 64, "size": 1}],
    }
    with pytest.raises(InvalidInput):
        read_manifest(json.dumps(said).encode())
    said["files"][0]["name"] = "keys/a.key"
    assert read_manifest(json.dumps(said).encode()).contents == {"files/keys/a.key": ("0" * 64, 1)}
