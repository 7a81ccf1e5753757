"""What the command shows and reads, and how it finds its server; no I/O but small files."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from services.cli import rollout_view, text
from services.cli.__main__ import LAZY, cli
from services.cli.errors import Unreachable, from_problem
from services.cli.payload_file import read_payload_file
from services.cli.target import Options, find_target, ready_path


@given(st.text())
def test_nothing_shown_moves_a_terminals_cursor(said):
    """Nodes say what they like; what is shown is printable."""
    assert all(character.isprintable() or character == "\n" for character in text.printable(said))
    assert all(character.isprintable() for character in text.cell(said))
    assert "\x1b" not in text.cell({said: [said]})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (12, "12"),
        ([], "-"),
        (["a", "b"], "a, b"),
        ({"oem": ["azure", "ec2"]}, "oem=azure, ec2"),
        ("2026-11-22T20:50:01.25Z", "2026-11-22 20:50:01"),
        ("2026-11-22T20:50:01+02:00", "2026-11-22 18:50:01"),
        ("2026-11-22Tnonsense!!", "2026-11-22Tnonsense!!"),
        ("two\nlines", "two lines"),
    ],
)
def test_cells(value, shown):
    """JSON values as people read them."""
    assert text.cell(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 50, "3072.0 TiB")]
)
def test_sizes(count, shown):
    """Bytes in binary units."""
    assert text.size(count) == shown


def test_tallies_keep_their_order_and_lose_nothing():
    """Known states first, in order; a state that is new is shown too."""
    counts = {"zombie": 2, "rolled_back": 1, "committed": 3, "offered": 0}
    assert text.tally(counts, text.ATTEMPT_STATES) == "committed 3, rolled back 1, zombie 2"
    assert text.tally({}, text.ATTEMPT_STATES) == "-"


def test_pairs_are_read():
    """Numbers and words of policies; lists of values of selectors."""
    read = text.settings_of(("a=1", "b=0.5", "c=true", "d=default", "e=x=y", 'f=[{"fraction": 1}]'))
    assert read == {"a": 1, "b": 0.5, "c": True, "d": None, "e": "x=y", "f": [{"fraction": 1}]}
    with pytest.raises(ValueError, match="begins like JSON"):
        text.settings_of(("waves=[1",))
    assert text.selector_of(("oem=azure,ec2", "oem=gce", "track=beta")) == {
        "oem": ["azure", "ec2", "gce"],
        "track": ["beta"],
    }
    for wrong in ("a", "=1"):
        with pytest.raises(ValueError, match="NAME=VALUE"):
            text.settings_of((wrong,))
    for wrong in ("a", "a=", "=b", "a=,"):
        with pytest.raises(ValueError, match="FACT=VALUE"):
            text.selector_of((wrong,))


def test_a_payload_file_is_read_once_for_size_and_digests(tmp_path):
    """The digests are those of its bytes, each in the form in which it is used."""
    content = bytes(range(256)) * 9_000
    path = tmp_path / "update.gz"
    path.write_bytes(content)
    steps: list[int] = []
    file = read_payload_file(path, steps.append)
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert base64.b64decode(file.sha1_base64) == hashlib.sha1(content, usedforsecurity=False).digest()
    assert file.size == sum(steps) == len(content)


def _ready(tmp_path, **more):
    path = tmp_path / "ready.json"
    path.write_text(
        json.dumps(
            {
                "services": {
                    "control": {"url": "http://127.0.0.1:8700/", "status_url": "x"},
                    "distribution": {"url": "http://127.0.0.1:8702"},
                },
                "token_file": str(tmp_path / "token"),
                **more,
            }
        )
    )
    (tmp_path / "token").write_text("une_secret\n")
    return path


def test_a_running_up_is_found_by_its_ready_file(tmp_path):
    """URLs and token come from the file; options win over it."""
    _ready(tmp_path)
    target = find_target(Options(data=tmp_path))
    assert (target.url, target.token) == ("http://127.0.0.1:8700", "une_secret")
    assert target.distribution_url == "http://127.0.0.1:8702"
    other = tmp_path / "other"
    other.write_text("une_other")
    target = find_target(Options(ready_file=tmp_path / "ready.json", url="http://elsewhere", token_file=other))
    assert (target.url, target.token, target.distribution_url) == ("http://elsewhere", "une_other", None)


def test_the_token_of_one_server_is_not_sent_to_another(tmp_path):
    """A URL that is named does not get the token of the `up` on this machine."""
    _ready(tmp_path)
    assert find_target(Options(data=tmp_path, url="http://elsewhere")).token is None
    assert find_target(Options(url="http://elsewhere")).token is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"services": {"x": {"url": "http://y"}}}'])
def test_a_ready_file_that_does_not_help_is_said_so(tmp_path, content):
    """Broken or without control: unreachable, naming the file."""
    (tmp_path / "ready.json").write_text(content)
    with pytest.raises(Unreachable, match=r"ready\.json"):
        find_target(Options(data=tmp_path))


def test_where_the_ready_file_is_looked_for(tmp_path, monkeypatch):
    """In the state directory unless told otherwise."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ready_path(Options()) == tmp_path / "uneventful" / "ready.json"
    assert ready_path(Options(data=tmp_path)) == tmp_path / "ready.json"
    with pytest.raises(Unreachable, match="nothing seems to run"):
        find_target(Options())


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff"])
def test_a_token_file_holds_one_token(tmp_path, content):
    """Anything else is refused before it is sent anywhere."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(Unreachable, match="token"):
        find_target(Options(url="http://x", token_file=tmp_path / "token"))


def test_problems_are_said_with_what_to_do():
    """The server's detail, and a hint where one helps."""
    error = from_problem(401, {"code": "not_authenticated", "detail": "no"})
    assert (error.message, error.exit_code) == ("no", 1)
    assert "--token-file" in str(error.hint)
    assert from_problem(502, {}).message == "the server answered 502"


def run(*arguments: str):
    return CliRunner().invoke(cli, arguments)


def test_every_command_has_help():
    """All nouns and verbs, down to the last, say what they do."""

    def walk(command: click.Command, path: tuple[str, ...]) -> None:
        result = run(*path, "--help")
        assert result.exit_code == 0, (path, result.output)
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                if inner is not None:
                    walk(inner, (*path, name))
        else:
            assert command.help, path

    walk(cli, ())
    assert {"app", "changeset", "channel", "group", "rollout", "node", "event", "up", "migrate"} <= set(LAZY)


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("app",),
        ("app", "add"),
        ("changeset", "add", "os", "1.0", "--arch", "x", "--payload", "/nowhere/at/all"),
        ("changeset", "halt", "1.0"),
        ("rollout", "show"),
        ("node", "list", "--limit", "0"),
        ("event", "show", "0"),
        ("completion", "tcsh"),
        ("migrate",),
    ],
)
def test_wrong_use_ends_with_2(arguments, monkeypatch):
    """Before anything is sent."""
    monkeypatch.delenv("UNEVENTFUL_DATABASE_URL", raising=False)
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [("halt", "--all"), ("halt", "--reason", "r"), ("group", "set", "g")])
def test_contradictions_end_with_2(arguments, tmp_path):
    """Options that make no sense together are wrong use, not a refusal."""
    _ready(tmp_path)
    result = run("--data", str(tmp_path), *arguments)
    assert result.exit_code == 2, result.output


def test_nothing_running_ends_with_3(tmp_path):
    """No server known: unreachable, with what to do; with --json as JSON."""
    result = run("--data", str(tmp_path), "app", "list")
    assert result.exit_code == 3
    assert "uneventful up" in result.stderr
    result = run("--data", str(tmp_path), "app", "list", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stderr)["code"] == "unreachable"


def test_a_part_that_is_not_installed_is_said_so(monkeypatch):
    """The command is named with what it lacks; help goes without it."""
    monkeypatch.setitem(cli._lazy, "orbit", "services.cli.not_there:orbit")
    result = run("orbit")
    assert result.exit_code == 1
    assert "services.cli.not_there" in result.stderr
    assert run("--help").exit_code == 0


def test_up_refuses_what_it_cannot_start(tmp_path, monkeypatch):
    """Settings that are not usable end it before anything starts; variables of the client do not disturb it."""
    monkeypatch.setenv("UNEVENTFUL_URL", "http://elsewhere")
    wrong = run("up", "--data", str(tmp_path), "--set", "orbit.speed=7")
    assert wrong.exit_code == 2
    assert "orbit.speed" in wrong.stderr
    assert "UNEVENTFUL_URL" not in wrong.stderr
    monkeypatch.setenv("UNEVENTFUL_NONSENSE", "1")
    assert "UNEVENTFUL_NONSENSE" in run("up", "--data", str(tmp_path)).stderr
    assert run("up", "--base-port", "70000").exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    """Each shell gets a script that calls the command back."""
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_UNEVENTFUL_COMPLETE" in result.output


def _rollout(**changes):
    return {
        "rollout_id": "r",
        "version": "2.0.0",
        "arch": "x86_64",
        "group_name": "all",
        "state": "running",
        "shown": changes.get("state", "running"),
        "purpose": "update",
        "leaves_version": None,
        "only_machines": None,
        "fraction": 1.0,
        "wave": 0,
        "waits_for": [],
        "until": None,
        "eta": None,
        "expedited_by": None,
        "expedite_reason": None,
        "approved_by": None,
        "excluded": [],
        "gates": [],
        "reason": None,
        "pace": 3,
        "pace_cap": None,
        "group_in_flight": 1,
        "changeset_in_flight": 2,
        "parked": 0,
        "group_owner": "",
        "group_contact": "",
        "severity": "page",
        "staged_but_halted": 0,
        "attempts": {"committed": 4},
        "nodes": {"total": 9, "on_target": 4, "left": 4, "quarantined": 1, "excluded": 0, "silent": 0, "cloned": 0},
        "gate": {"state": "open", "reason": None, "braked_reason": None, "pace": 10, "evidence": None},
        "evidence": None,
        "standstill": None,
        "explanation": None,
        **changes,
    }


def test_a_rollout_on_one_screen():
    """Progress, paces, counts and, when it stands still, why."""
    shown = dict(rollout_view.lines(_rollout(standstill="pace_of_group", explanation="full", parked=2)))
    assert shown["nodes"] == "4 of 9 on 2.0.0, 4 left, 1 quarantined"
    assert shown["in flight"] == "1 of 3 in the group, 2 of 10 of the changeset, 2 parked"
    assert shown["stands still"] == "pace_of_group: full"
    assert shown["evidence"] == "nothing has started yet"
    assert "stands still" not in dict(rollout_view.lines(_rollout()))


def test_a_halt_shows_whom_to_tell_and_what_will_boot_it():
    """The group's owner and contact, how loudly, and who staged it before; nothing of it while all is well."""
    gate = {"state": "halted", "reason": "too many", "braked_reason": None, "pace": 10, "evidence": None}
    owned = {"group_owner": "Team B", "group_contact": "b@example.org", "staged_but_halted": 3}
    shown = dict(rollout_view.lines(_rollout(gate=gate, state="halted", **owned)))
    assert shown["tell"] == "Team B b@example.org, page"
    assert shown["will boot it"] == "3 nodes, at their next reboot"
    alone = dict(rollout_view.lines(_rollout(state="halted", severity=None)))
    assert (alone["tell"], "will boot it" in alone) == ("nobody is named", False)
    assert "tell" not in dict(rollout_view.lines(_rollout(**owned)))


def test_what_a_rollout_waits_for_is_on_its_screen():
    """Until when, in which wave, who hurried it, who is left out, and what it is for."""
    shown = dict(
        rollout_view.lines(
            _rollout(
                state="waiting_for_gate",
                purpose="downgrade",
                leaves_version="3.0.0",
                only_machines=["m1"],
                fraction=0.25,
                wave=1,
                waits_for=["a soak", "3 nodes"],
                until="2026-11-22T20:50:01Z",
                eta="2026-11-23T20:50:01Z",
                expedited_by="ana",
                expedite_reason="CVE",
                approved_by="bob",
                excluded=[{"machine_id": None, "node_id": "n1"}, {"machine_id": "m2", "node_id": "n2"}],
                pace_cap=1,
            )
        )
    )
    assert shown["state"] == "waiting_for_gate"
    assert shown["purpose"] == "downgrade, from 3.0.0, only m1"
    assert shown["wave"] == "2, 25% of the group"
    assert shown["waits for"] == "a soak; 3 nodes"
    assert shown["until"] == "2026-11-22 20:50:01 at the earliest"
    assert shown["done by"] == "2026-11-23 20:50:01, as it went lately"
    assert (shown["expedited"], shown["approved"], shown["excluded"]) == ("by ana: CVE", "by bob", "n1, m2")
    assert shown["in flight"].startswith("1 of 1 in the group")
    assert "waits for a soak; 3 nodes" in rollout_view.news(_rollout(waits_for=["a soak", "3 nodes"]))


def test_gates_and_dry_runs_in_words():
    """What a gate has seen and still wants; what would have happened."""
    gate = {"open": False, "waits_for": ["a soak", "3 nodes"], "excludes": "excludes nothing", "ln_e": None}
    assert rollout_view.GATE_COLUMNS["gate"](gate) == "shut"
    assert rollout_view.GATE_COLUMNS["waits for"](gate) == "a soak; 3 nodes"
    assert rollout_view.GATE_COLUMNS["evidence"](gate) == "excludes nothing"
    proof = {**gate, "open": True, "ln_e": 3.25, "threshold": 3.0}
    assert rollout_view.GATE_COLUMNS["gate"](proof) == "open"
    assert rollout_view.GATE_COLUMNS["evidence"](proof) == "excludes nothing: ln E' 3.25 against 3.00"
    moved = {"type": "rollout.aborted.v1", "subject": "rollouts/r"}
    assert rollout_view.would(moved) == "would: rollout.aborted.v1 rollouts/r"


def test_evidence_against_the_threshold():
    """A halt shows what decided; before it, what the analysis holds now; floats in hex are read too."""
    gate = {
        "state": "halted", "reason": "too many", "braked_reason": None, "pace": 10,
        "evidence": {"ln_e": 5.25, "threshold": {"hex": (4.5).hex(), "repr": "4.5"}, "bad": 3, "started": 7},
    }  # fmt: skip
    assert rollout_view.evidence_line(_rollout(gate=gate)) == "ln E = 5.25 against 4.50: 3 bad of 7 started"
    assert dict(rollout_view.lines(_rollout(gate=gate)))["gate"] == "halted: too many"
    live = {
        "ln_e": 1.5, "threshold": 4.605, "started": 5, "good": 4, "bad": 1, "pending": 0,
        "rate_lower": 0.01, "rate_upper": 0.6,
    }  # fmt: skip
    said = rollout_view.evidence_line(_rollout(evidence=live))
    assert said == "ln E = 1.50 against 4.61: 5 started, 4 good, 1 bad, 0 pending; bad rate 1.0% to 60.0%"
    assert rollout_view.evidence_line(_rollout(evidence={**live, "started": 0})) == "nothing has started yet"
    assert rollout_view.number({"hex": "nonsense"}) is None
    assert rollout_view.number("1") is None


@pytest.mark.parametrize(
    ("state", "over"),
    [("running", False), ("paused", False), ("halted", True), ("completed", True), ("superseded", True)],
)
def test_when_watching_ends(state, over):
    """When nothing more happens without an operator."""
    assert rollout_view.is_over(_rollout(state=state)) is over
    assert state in rollout_view.news(_rollout(state=state))


@pytest.mark.parametrize(
    ("span", "end"),
    [("30m", "2026-01-01T00:30:00+00:00"), ("12h", "2026-01-01T12:00:00+00:00"), ("2w", "2026-01-15T00:00:00+00:00")],
)
def test_a_span_ends_later(span, end):
    """Minutes, hours, days and weeks from now."""
    assert text.end_of_span(span, datetime(2026, 1, 1, tzinfo=UTC)) == end


@pytest.mark.parametrize("wrong", ["", "12", "0d", "h", "-1h", "1y", "999999d"])
def test_what_is_no_span_is_refused(wrong):
    """A number and a unit, both known."""
    with pytest.raises(ValueError, match="90d"):
        text.end_of_span(wrong)
