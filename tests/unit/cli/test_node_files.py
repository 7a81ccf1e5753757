"""Files about nodes, and the configuration that points a node here."""

from __future__ import annotations

import io
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from services.cli import node_file
from services.cli.__main__ import cli
from services.cli.confirm import confirm
from services.cli.errors import Refused
from services.cli.node_file import BATCH, MAX_LINE, batches, machines_of, rows_of
from services.cli.node_watch import poll_line
from services.cli.output import Output
from services.cli.snippets import NodeOs, butane, snippet


@pytest.fixture
def written(tmp_path):
    """Writes a file of a name."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_csv_has_a_machine_an_alias_and_facts(written):
    """Empty cells say nothing; quotes are CSV's."""
    path = written("facts.csv", 'machine_id,site,rack,alias\nm1,ber,,"Web, one"\nm2,,r1,\n')
    assert rows_of(path) == [
        {"machine": "m1", "facts": {"site": "ber"}, "alias": "Web, one"},
        {"machine": "m2", "facts": {"rack": "r1"}},
    ]


def test_ndjson_has_an_object_per_line(written):
    """A null takes a fact away; empty lines are nothing."""
    lines = '{"machine": "m1", "facts": {"site": null}}\n\n{"machine": "m2", "alias": "x"}\n'
    expected = [{"machine": "m1", "facts": {"site": None}}, {"machine": "m2", "alias": "x"}]
    assert rows_of(written("facts.ndjson", lines)) == expected


def test_stdin_is_told_by_its_first_character(monkeypatch):
    """JSON begins with a brace, CSV with a heading."""
    for text in ('{"machine": "m1", "facts": {"a": "b"}}\n', "machine,a\nm1,b\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert rows_of(Path("-")) == [{"machine": "m1", "facts": {"a": "b"}}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("f.csv", "site,rack\nber,r1\n", "no column machine"),
        ("f.csv", "machine,site\nm1\n", "line 2 has not as many columns"),
        ("f.csv", "machine,site\nm1,a,b\n", "line 2 has not as many columns"),
        ("f.csv", 'machine,site\n"m1,a\n', "is not CSV"),
        ("f.csv", "machine,site\nm1,a\nm1,b\n", "twice"),
        ("f.csv", "machine,site\n", "says nothing"),
        ("f.csv", b"machine,site\nm1,\xff\n", "not UTF-8"),
        ("f.csv", "machine," + "x" * MAX_LINE, "longer than"),
        ("f.json", "{\n", "line 1 is not JSON"),
        ("f.json", '{"machine": 1}\n', "line 1 is not like"),
        ("f.json", '{"machine": "a", "colour": "blue"}\n', "line 1 is not like"),
        ("f.json", "[]\n", "line 1 is not like"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(written, name, content, words):
    """Before anything is sent."""
    with pytest.raises(Refused, match=words):
        rows_of(written(name, content))


def test_files_are_bounded(written, monkeypatch, tmp_path):
    """Too many lines, none at all, or no file."""
    monkeypatch.setattr(node_file, "MAX_ROWS", 2)
    with pytest.raises(Refused, match="split the file"):
        rows_of(written("f.csv", "machine,a\n" + "".join(f"m{number},b\n" for number in range(3))))
    with pytest.raises(Refused, match="names no machine"):
        machines_of(written("none", "\n# nothing\n"))
    with pytest.raises(Refused, match="cannot be read"):
        machines_of(tmp_path / "nowhere")


def test_machines_are_lines(written):
    """Each once; remarks are left out; batches lose nothing."""
    assert machines_of(written("machines", "m1\n# old\n\n m2 \nm1\n")) == ["m1", "m2"]
    many = list(range(2 * BATCH + 1))
    assert [len(batch) for batch in batches(many)] == [BATCH, BATCH, 1]
    assert [item for batch in batches(many) for item in batch] == many


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://u.example.org", "https://u.example.org/v1/update/"),
        ("https://u.example.org/", "https://u.example.org/v1/update/"),
        ("https://u.example.org/v1/update/secret", "https://u.example.org/v1/update/secret/"),
    ],
)
def test_flatcar_posts_to_the_whole_url(url, server):
    """SERVER is what the client posts to, a secret path included; GROUP is told as the track."""
    made = snippet(NodeOs.FLATCAR, url, group="canary", application="flatcar")
    (file,) = made.files
    assert (file.path, file.content) == ("/etc/flatcar/update.conf", f"SERVER={server}\nGROUP=canary\n")
    assert "track=canary" in made.notes[0]
    assert "GROUP" not in snippet(NodeOs.FLATCAR, url, group=None, application="flatcar").files[0].content


def test_zincati_gets_toml_that_it_can_read():
    """base_url, the group, and the lock as a remark."""
    (file,) = snippet(NodeOs.FCOS, "https://u.example.org/", group="canary", application="fcos").files
    assert file.path == "/etc/zincati/config.d/55-updates-driver.toml"
    read = tomllib.loads(file.content)
    assert read["cincinnati"]["base_url"] == "https://u.example.org/cincinnati/fcos"
    assert (read["identity"]["group"], read["updates"]) == ("canary", {"strategy": "immediate"})
    assert "# fleet_lock.base_url" in file.content


def test_zincati_asks_behind_the_secret_that_omaha_nodes_have():
    """The secret comes behind the application, whose name may be any."""
    made = snippet(NodeOs.FCOS, "https://u.example.org/v1/update/s3cret/", group=None, application="my os")
    read = tomllib.loads(made.files[0].content)
    assert read["cincinnati"]["base_url"] == "https://u.example.org/cincinnati/my%20os/s3cret"
    assert "https://u.example.org/v1/update" not in made.files[0].content


def test_the_agent_gets_its_file_and_a_drop_in():
    """Marked as for the package that is still to come."""
    made = snippet(NodeOs.DEBIAN, "https://u.example.org", group="canary", application="debian")
    config, unit = made.files
    read = tomllib.loads(config.content)
    assert (read["check_url"], read["application"]) == ("https://u.example.org/v1/check", "debian")
    assert read["facts"] == {"group": "canary"}
    assert unit.path.endswith(".service.d/10-server.conf")
    assert all("uneventful-agent" in text for text in (config.content, unit.content, made.notes[0]))


@pytest.mark.parametrize("node_os", list(NodeOs))
def test_butane_holds_the_same_bytes(node_os):
    """What the first boot writes is what the files are."""
    files = snippet(node_os, "https://u.example.org", group=None, application="x").files
    read = yaml.safe_load(butane(node_os, files))
    assert [(file["path"], file["contents"]["inline"]) for file in read["storage"]["files"]] == [
        (file.path, file.content) for file in files
    ]


def test_the_snippet_command_needs_no_server(tmp_path):
    """Only a URL, else a running `up`; what would break the file is refused; notes go beside it."""

    def run(*arguments: str):
        return CliRunner().invoke(cli, ["--data", str(tmp_path), "node", "snippet", *arguments])

    good = run("--os", "flatcar", "--url", "https://u.example.org", "--group", "canary")
    assert (good.exit_code, good.stdout) == (
        0, "# /etc/flatcar/update.conf\nSERVER=https://u.example.org/v1/update/\nGROUP=canary\n",
    )  # fmt: skip
    assert "restart update-engine" in good.stderr
    assert '"files"' in run("--os", "fcos", "--url", "https://u.example.org", "--json").stdout
    assert run("--os", "flatcar", "--url", "https://u", "--butane").stdout.startswith("variant: flatcar\n")
    assert run("--os", "flatcar").exit_code == 1
    for wrong in (("--url", "ftp://x"), ("--url", "https://x\nGROUP=y"), ("--url", "https://x", "--group", "a b")):
        assert run("--os", "flatcar", *wrong).exit_code == 2
    (tmp_path / "ready.json").write_text('{"services": {"update_check": {"url": "http://127.0.0.1:8701"}}}')
    assert "SERVER=http://127.0.0.1:8701/v1/update/" in run("--os", "flatcar").stdout


@pytest.mark.parametrize(("typed", "status"), [("y\n", 0), ("n\n", 1)])
def test_people_are_asked_before_nodes_move(typed, status, monkeypatch):
    """On a terminal the answer decides; a program has to say --yes."""

    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def move(*, as_json: bool) -> None:
        confirm(Output(as_json=as_json), "3 nodes will move.", yes=False)

    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    asked = CliRunner().invoke(move, input=typed)
    assert asked.exit_code == status
    assert "3 nodes will move." in asked.stderr
    program = CliRunner().invoke(move, ["--json"], input=typed)
    assert (program.exit_code, "say --yes" in program.stderr) == (1, True)


def test_a_poll_is_one_line():
    """Cut to its columns, and without what could move the cursor."""
    line = poll_line(
        {
            "at": "2026-11-22T20:50:01Z", "dialect": "omaha", "address": "192.0.2.7", "application": None,
            "machine_id": "m\x1b[2J" + "x" * 100, "version": "1.0.0", "group_name": None,
            "answer": "unknown_application", "detail": "track stable",
        }
    )  # fmt: skip
    assert "\x1b" not in line
    assert line.endswith("-: unknown_application (track stable)")
    assert len(line) < 160
