"""``uneventful token`` and ``uneventful approval``, as people use them."""

from __future__ import annotations

import pytest


@pytest.fixture
async def somebody(terminal, terminal_with, control, tmp_path):
    """Makes a terminal of somebody with a token of some role, made by the command."""

    async def make(name: str, role: str, *more: str):
        made = await terminal.json("token", "create", name, "--role", role, *more)
        path = tmp_path / f"{name}.token"
        path.write_text(made["token"])
        return terminal_with("--url", control.url, "--token-file", str(path))

    return make


async def test_tokens_are_made_listed_rotated_and_revoked(terminal, somebody, app):
    """The secret is printed by the making and by the rotation, and nowhere else."""
    ana = await somebody("ana", "approver", "--app", "os", "--expires-in", "12h")
    listed = await terminal.text("token", "list")
    assert "ana" in listed
    assert "une_" not in listed
    (token,) = [item for item in (await terminal.json("token", "list"))["items"] if item["name"] == "ana"]
    assert (token["role"], token["applications"]) == ("approver", [app["application_id"]])
    assert token["expires_at"] is not None
    assert (await ana.json("app", "show", "os"))["name"] == "os"
    assert "this once" in await terminal.text("token", "rotate", "ana", "--reason", "leaked", "--expires-in", "2w")
    assert "not valid" in await ana.fails(1, "app", "show", "os")
    assert "-" in await terminal.text("token", "revoke", "ana", "--reason", "left")
    assert "90d" in await terminal.fails(2, "token", "create", "x", "--expires-in", "soon")


async def test_four_eyes_at_two_terminals(terminal, somebody, operator, app):
    """Exit status 4 with what to do; the other one looks, approves or refuses; the command is repeated with it."""
    await operator.channel()
    await operator.group(policy={"four_eyes": ["promote"]})
    await operator.changeset("2.0.0")
    ana, olaf = await somebody("ana", "approver"), await somebody("olaf", "operator")
    promote = ("channel", "promote", "stable", "2.0.0", "--reason", "fixes")
    said = await olaf.fails(4, *promote)
    assert "uneventful approval approve" in said
    (asked,) = (await ana.json("approval", "list", "--state", "open"))["items"]
    assert asked["approval_id"] in said
    assert "olaf" in await ana.text("approval", "list")
    assert "promote" in await ana.text("approval", "show", asked["approval_id"])
    await ana.text("approval", "refuse", asked["approval_id"], "--reason", "not today")
    again = await olaf.fails(4, *promote)
    (asked,) = (await ana.json("approval", "list", "--state", "open"))["items"]
    assert asked["approval_id"] in again
    await ana.text("approval", "approve", asked["approval_id"], "--reason", "today")
    assert "has to come with it" in await olaf.fails(4, *promote)
    assert len((await olaf.json("--approval", asked["approval_id"], *promote))["rollouts"]) == 1
