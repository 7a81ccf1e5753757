"""The command against a running control and distribution, as an operator uses it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from typing import Any

import pytest

from services.event_log.mover import Mover


@pytest.fixture
def payload(tmp_path):
    """A payload of more than one piece."""
    path = tmp_path / "update.gz"
    path.write_bytes(bytes(range(256)) * 4_000)
    return path


async def released(terminal, payload, version: str = "2.0.0") -> dict[str, Any]:
    """Everything that a rollout needs, by the command; what the promotion answered."""
    await terminal.json("app", "add", "os", "--omaha-id", "{ABC}")
    await terminal.json("changeset", "add", "os", version, "--arch", "x86_64", "--payload", str(payload), "--publish")
    await terminal.json("channel", "add", "os", "stable", "--arch", "x86_64", "--position", "0")
    await terminal.json("group", "add", "os", "all", "--channel", "stable", "--policy", "allowed_bad_rate=0.02")
    return await terminal.json("channel", "promote", "stable", version, "--reason", "it is time")


async def test_from_a_file_to_a_running_rollout(terminal, payload, distribution, session):
    """Five commands; the payload is hashed, stored and served byte for byte; a rollout runs."""
    promoted = await released(terminal, payload)
    assert len(promoted["rollouts"]) == 1
    changeset = await terminal.json("changeset", "show", "2.0.0")
    content = payload.read_bytes()
    (stored,) = changeset["payloads"]
    assert (stored["sha256"], stored["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
    async with asyncio.timeout(10):
        while True:
            async with session.get(f"{distribution}/payloads/{stored['sha256']}/update.gz") as answer:
                if answer.status == 200:
                    assert await answer.read() == content
                    break
            await asyncio.sleep(0.05)
    rollout = await terminal.json("rollout", "show", "all")
    assert (rollout["state"], rollout["reason"]) == ("running", "it is time")
    assert rollout["standstill"] == "no_nodes"
    # All of it again changes nothing.
    assert (await released(terminal, payload))["rollouts"] == []


async def test_every_list_and_show_has_a_table_and_json(terminal, payload, fleet_of):
    """People get tables with what they look for, programs get JSON."""
    await released(terminal, payload)
    group = await terminal.json("group", "show", "all")
    await fleet_of(group, "machine-1", "1.0.0")
    for command, words in [
        (("app", "list"), "abc"),
        (("app", "show", "os"), "abc"),
        (("changeset", "list"), "published"),
        (("changeset", "show", "2.0.0"), "1000.0 KiB"),
        (("channel", "list"), "stable"),
        (("channel", "history", "stable"), "operator"),
        (("group", "list"), "allowed_bad_rate=0.02"),
        (("group", "show", "all"), "How often nodes are told to poll"),
        (("rollout", "list"), "running"),
        (("rollout", "show", "all"), "0 of 1 on 2.0.0, 1 left"),
        (("node", "list"), "machine-1"),
        (("node", "list", "--group", "all", "--version", "1.0.0", "--state", "none"), "machine-1"),
        (("node", "show", "machine-1"), "192.0.2.7"),
        (("halt",), "yes"),
        (("ledger", "show"), "2000-01-01"),
    ]:
        assert words in await terminal.text(*command), command
        assert await terminal.json(*command), command
    assert "No such node" in await terminal.text("node", "list", "--cloned")


async def test_halting_and_resuming(terminal, payload):
    """A changeset, a rollout, everything: each by its command, each with a reason."""
    await released(terminal, payload)
    assert "halted: smoke" in await terminal.text("changeset", "halt", "2.0.0", "--reason", "smoke")
    assert "changeset_halted" in await terminal.text("rollout", "show", "all")
    refused = await terminal.fails(1, "channel", "promote", "stable", "2.0.0")
    assert "Resume it first" in refused
    assert "open" in await terminal.text("changeset", "resume", "2.0.0", "--reason", "a candle")
    assert "0 rollouts started" in await terminal.text("channel", "promote", "stable", "2.0.0")
    for verb, state in [("pause", "paused"), ("resume", "running"), ("halt", "halted"), ("abort", "aborted")]:
        shown = await terminal.json("rollout", verb, "all", "--reason", verb)
        assert shown["state"] == state
    assert "already" not in await terminal.fails(1, "rollout", "resume", "all", "--reason", "r")
    assert (await terminal.json("halt", "--all", "--reason", "fire"))["open"] is False
    assert (await terminal.json("unhalt", "--reason", "out"))["open"] is True


async def test_groups_are_changed(terminal, payload):
    """What is given changes, `default` takes a value back, a wrong one is refused with its name."""
    await released(terminal, payload)
    for wrong in (("--policy", "max_attempts"), ("--select", "oem"), ("--everything", "--select", "oem=ec2")):
        assert "--" in await terminal.fails(2, "group", "set", "all", *wrong)
    assert "stable" in await terminal.text("group", "set", "all", "--channel", "stable")
    assert "only one that takes every node" in await terminal.fails(1, "group", "set", "all", "--select", "oem=ec2")
    await terminal.json("group", "add", "os", "rest", "--channel", "stable", "--position", "9")
    changed = await terminal.json(
        "group", "set", "all", "--policy", "allowed_bad_rate=default", "--policy", "max_attempts=2",
        "--select", "oem=azure,ec2", "--disable", "--position", "7",
    )  # fmt: skip
    assert changed["policy"] == {"max_attempts": 2}
    assert (changed["selector"], changed["updates_enabled"], changed["position"]) == (
        {"oem": ["azure", "ec2"]},
        False,
        7,
    )
    assert (await terminal.json("group", "set", "all", "--everything", "--enable"))["selector"] == {}
    assert "max_atempts" in await terminal.fails(1, "group", "set", "all", "--policy", "max_atempts=2")


async def test_drafts_with_several_payloads(terminal, payload, tmp_path):
    """A draft, its payloads one by one, then published; an ambiguous name is asked back."""
    await terminal.json("app", "add", "os")
    for arch in ("x86_64", "aarch64"):
        await terminal.json("changeset", "add", "os", "3.0.0", "--arch", arch, "--notes", "two files")
    ambiguous = await terminal.fails(1, "changeset", "payload", "add", "3.0.0", str(payload))
    assert "--arch" in ambiguous
    where = ("--app", "os", "--arch", "x86_64")
    await terminal.json("changeset", "payload", "add", "3.0.0", str(payload), *where)
    extra = tmp_path / "extra.raw"
    extra.write_bytes(b"extra")
    await terminal.json(
        "changeset", "payload", "add", "3.0.0", str(extra), "--role", "extra", "--optional", "--name", "oem.raw", *where
    )
    published = await terminal.json("changeset", "publish", "3.0.0", *where)
    assert [(item["name"], item["required"]) for item in published["payloads"]] == [
        ("update.gz", True),
        ("oem.raw", False),
    ]
    (tmp_path / "empty").touch()
    empty = await terminal.fails(1, "changeset", "payload", "add", "3.0.0", str(tmp_path / "empty"), *where)
    assert "empty" in empty


async def test_events_are_listed_tailed_shown_and_verified(terminal, payload, pool):
    """The ledger by the command: pages, patterns, one event, the end as it grows, and the chain."""
    await released(terminal, payload)
    async with pool.acquire() as connection:
        mover = Mover(connection, batch_size=2, idle_s=0.01, partitions_ahead=1)
        while await mover.step():
            pass
    everything = (await terminal.json("event", "list"))["items"]
    assert [item["type"] for item in everything][-2:] == ["rollout.started.v1", "operator.acted.v1"]
    some = (await terminal.json("event", "list", "--type", "rollout.#", "--after", "1", "--limit", "1"))["items"]
    assert [item["type"] for item in some] == ["rollout.created.v1"]
    assert "rollout.started.v1" in await terminal.text("event", "list")
    assert (await terminal.json("event", "show", "1"))["type"] == "operator.acted.v1"
    assert '"specversion"' in await terminal.text("event", "show", "1")
    tailed = (await terminal.text("event", "tail", "--for", "0", "-n", "2")).splitlines()
    assert len(tailed) == 2
    lines = (await terminal.text("--json", "event", "tail", "--for", "0", "-n", "3")).splitlines()
    assert [json.loads(line)["type"] for line in lines][-2:] == ["rollout.started.v1", "operator.acted.v1"]
    assert (await terminal.json("ledger", "verify"))["ok"] is True
    await pool.execute("ALTER TABLE event_log.ledger DISABLE TRIGGER USER")
    await pool.execute("UPDATE event_log.ledger SET subject = 'forged' WHERE seq = 2")
    broken = await terminal.run("ledger", "verify")
    assert broken.exit_code == 1
    assert "broken at 2" in broken.stderr


async def test_watching_ends_when_the_rollout_does(terminal, payload):
    """A line when something changes, the end when it is over."""
    promoted = await released(terminal, payload)
    watching = await terminal.start("rollout", "watch", promoted["rollouts"][0])
    async with asyncio.timeout(30):
        first = await watching.stdout.readline()
        assert first.startswith(b"running: 0 of 0 on 2.0.0")
        await terminal.json("rollout", "abort", "all", "--reason", "enough")
        rest, _ = await watching.communicate()
    assert watching.returncode == 0
    assert rest.splitlines()[-1].startswith(b"aborted: ")
    lines = (await terminal.text("--json", "rollout", "watch", "all")).splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["aborted"]


async def test_a_quarantine_is_lifted(terminal, payload, fleet_of, pool):
    """A node by its machine id, a changeset by its version."""
    await released(terminal, payload)
    node_id = await fleet_of(await terminal.json("group", "show", "all"), "machine-1", "1.0.0")
    await pool.execute(
        "INSERT INTO fleet.quarantine (node_id, changeset_id, reason) "
        "SELECT $1, changeset_id, 'reported' FROM control.changesets",
        node_id,
    )
    assert "reported" in await terminal.text("node", "show", "machine-1")
    lifted = await terminal.json("node", "lift", "machine-1", "2.0.0", "--reason", "new disk")
    assert lifted["quarantines"] == []


async def test_refusals_and_silence_have_their_exit_codes(terminal, terminal_with, control, tmp_path):
    """1 with the server's own words; 1 with a wrong token and what to do; 3 where nobody answers."""
    assert "uneventful app add" in await terminal.fails(1, "app", "show", "nobody")
    assert "changeset list" in await terminal.fails(1, "changeset", "show", "9.9.9")
    assert "has no rollout" not in await terminal.fails(1, "rollout", "show", "nobody")
    with_json = await terminal.fails(1, "app", "show", "nobody", "--json")
    assert json.loads(with_json)["code"] == "not_found"
    (tmp_path / "wrong").write_text("une_" + "x" * 43)
    stranger = terminal_with("--url", control.url, "--token-file", str(tmp_path / "wrong"))
    assert "--token-file" in await stranger.fails(1, "app", "list")
    nobody = terminal_with("--url", "http://127.0.0.1:9")
    assert "cannot be reached" in await nobody.fails(3, "app", "list")
    assert "cannot be reached" in await nobody.fails(3, "app", "add", "os")


async def test_a_server_that_is_no_control_is_said_so(terminal, terminal_with, distribution):
    """Not JSON, or not ours: a clear refusal, no traceback."""
    result = await terminal_with("--url", distribution).run("app", "list")
    assert result.exit_code == 1
    assert "nothing at" in result.stderr


async def test_migrate(empty_database_url, terminal_with):
    """The schema is brought up to date once; then there is nothing to do; an unknown server is unreachable."""
    terminal = terminal_with()
    first = await terminal.text("migrate", "--database-url", empty_database_url)
    assert "0001_pre_event_log.sql" in first
    assert (await terminal.json("migrate", "--database-url", empty_database_url))["applied"] == []


async def test_the_command_as_a_process(terminal, terminal_with):
    """JSON on stdout, the exit code of the command, and nothing but the error on stderr."""
    process = await terminal.start("--json", "app", "list")
    stdout, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(stdout) == {"items": []}
    process = await terminal_with("--url", "http://127.0.0.1:9").start("app", "list")
    stdout, stderr = await process.communicate()
    assert (process.returncode, stdout) == (3, b"")
    assert stderr.startswith(b"Error: control at http://127.0.0.1:9 cannot be reached")


async def test_the_token_command(database_url, operator_at, control):
    """`python -m services.control token` prints a token that works, once per name."""
    environ = {**os.environ, "UNEVENTFUL_DATABASE_URL": database_url}

    async def make(*more: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.control", "token", "--name", "ci", "--role", "viewer", *more,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environ,
        )  # fmt: skip
        stdout, stderr = await process.communicate()
        return process.returncode, stdout.decode(), stderr.decode()

    status, token, _ = await make()
    assert status == 0
    principal = (await operator_at(control.url, token.strip()).get("/server"))["principal"]
    assert principal == {"name": "ci", "role": "viewer", "applications": None}
    status, _, said = await make()
    assert status == 1
    assert "replace" in said
    assert (await make("--replace"))[0] == 0


async def test_node_tokens_from_the_terminal(terminal, control, pool):
    """Made, listed without the secret, revoked; and floods are shown."""
    await terminal.json("app", "add", "os")
    await terminal.json("channel", "add", "os", "stable", "--arch", "x86_64")
    await terminal.json("group", "add", "os", "edge", "--channel", "stable")
    made = await terminal.json("node", "token", "create", "--app", "os", "--group", "edge", "--expires-in", "90d")
    assert made["token"].startswith("unr_")
    secret = await terminal.json("node", "token", "create", "--app", "os", "--path", "--machine", "m1")
    assert secret["machine_id"] == "m1"

    listed = await terminal.text("node", "token", "list")
    assert "enrolment" in listed
    assert made["token"] not in listed
    await terminal.json("node", "token", "revoke", made["token_id"], "--reason", "leaked")
    assert len((await terminal.json("node", "token", "list"))["items"]) == 1
    assert len((await terminal.json("node", "token", "list", "--all", "--app", "os"))["items"]) == 2
    await terminal.fails(2, "node", "token", "create", "--app", "os")
    await terminal.fails(2, "node", "token", "create", "--app", "os", "--path", "--expires-in", "soon")

    assert "No floods." in await terminal.text("node", "floods")


async def test_a_rollout_is_steered(terminal, payload, fleet_of):
    """Gates, waves, caps, exclusions, drills: shown in words, tried dry, and done."""
    await released(terminal, payload)
    group = await terminal.json("group", "show", "all")
    await fleet_of(group, "machine-1", "1.0.0")
    await fleet_of(group, "machine-2", "1.0.0")
    gates = '[{"groups": ["all"], "mode": "time", "soak_s": 60}]'
    waves = '[{"fraction": 0.5, "soak_s": 60}, {"fraction": 1}]'
    await terminal.json(
        "group", "add", "os", "prod", "--channel", "stable", "--policy", f"gates={gates}", "--policy", f"waves={waves}",
        "--policy", "approval=true", "--select", "site=fra",
    )  # fmt: skip
    shown = await terminal.text("rollout", "show", "prod")
    assert "1 more node of all to commit 2.0.0" in shown
    assert "a soak of 1 min on all, which has not begun" in shown
    assert "50% of the group" in shown
    assert "waiting_for_gate" in await terminal.text("rollout", "list", "--purpose", "update")
    dry = await terminal.text("rollout", "expedite", "prod", "--reason", "CVE", "--dry-run")
    assert "would: rollout.expedited.v1" in dry
    assert "Nothing was changed." in dry
    assert (await terminal.json("rollout", "show", "prod"))["expedited_by"] is None
    assert "expedited" in await terminal.text("rollout", "expedite", "prod", "--reason", "CVE")
    assert (await terminal.json("rollout", "approve", "prod", "--reason", "fine"))["approved_by"] == "operator"
    assert "Nothing would change." in await terminal.text("rollout", "approve", "prod", "--reason", "x", "--dry-run")
    assert "only one that runs" in await terminal.fails(1, "rollout", "widen", "prod", "--reason", "r")
    assert "whole group" in await terminal.fails(1, "rollout", "widen", "all", "--fraction", "0.9", "--reason", "r")
    assert (await terminal.json("rollout", "cap", "all", "0", "--reason", "slow"))["pace_cap"] == 0
    assert (await terminal.json("rollout", "cap", "all", "none", "--reason", "go"))["pace_cap"] is None
    assert "a number of nodes" in await terminal.fails(2, "rollout", "cap", "all", "many", "--reason", "r")
    assert "machine-1" in await terminal.text("rollout", "exclude", "all", "machine-1", "--reason", "in repair")
    assert (await terminal.json("rollout", "include", "all", "machine-1", "--reason", "r"))["excluded"] == []
    drill = await terminal.fails(1, "rollout", "drill", "all", "--node", "machine-1", "--reason", "r")
    assert "no way back" in drill
    would = await terminal.json("rollout", "abort", "all", "--reason", "r", "--dry-run")
    assert (would["dry_run"], would["would"][0]["type"]) == (True, "rollout.aborted.v1")
    assert "policy" in await terminal.fails(1, "rollout", "abort", "all", "--revert", "--reason", "r")
    assert (await terminal.json("rollout", "abort", "all", "--reason", "r"))["state"] == "aborted"
