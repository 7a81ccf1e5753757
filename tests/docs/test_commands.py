"""The commands that the pages show are there, with the options that they are shown with."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from services.cli.__main__ import cli

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"(?:^|[$|;] |\bdo )uneventful ([^\n]*)", re.MULTILINE)
_SPAN = re.compile(r"`(?:\$ )?uneventful ([^`\n]+)`")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def commands_of(text: str) -> list[str]:
    """What is said behind ``uneventful`` in blocks of code and in spans of it."""
    blocks = [block.replace("\\\n", " ") for block in _BLOCK.findall(text)]
    lines = [line for block in blocks for line in _LINE.findall(block)]
    return lines + _SPAN.findall(_BLOCK.sub("", text))


def fault_of(said: str) -> str | None:
    """What of a command is not there; None where all of it is."""
    words = re.split(r"\s#|[|;<>]", _QUOTED.sub("TEXT", said))[0].split()
    command: click.Command = cli
    context = click.Context(cli)
    takes_value = False
    for word in words:
        if takes_value:
            takes_value = False
        elif word.startswith("-") and word != "-":
            name, equals, _ = word.strip("[]().,").partition("=")
            options = [o for o in command.get_params(context) if name in (*o.opts, *o.secondary_opts)]
            if not options:
                return f"{context.command_path} has no option {name}"
            option = options[0]
            takes_value = isinstance(option, click.Option) and not (equals or option.is_flag or option.is_eager)
        elif isinstance(command, click.Group) and word != "...":
            found = command.get_command(context, word)
            if found is None:
                return f"{context.command_path} has no command {word}"
            command, context = found, click.Context(found, parent=context, info_name=word)
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(page):
    """Every `uneventful ...` of a page names a command that there is, and options that it has."""
    faults = {said: fault for said in commands_of(page.read_text()) if (fault := fault_of(said)) is not None}
    assert not faults


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("node list --stuck --sort last_contact", None),
        ("--data DIR backup create --to PLACE", None),
        ("node lost MACHINE", "has no command lost"),
        ("node list --no-such", "has no option --no-such"),
    ],
)
def test_what_is_not_there_is_found(said, fault):
    """A misspelt command or option is named."""
    found = fault_of(said)
    assert (found is None) if fault is None else (fault in (found or ""))


def test_commands_are_found_in_blocks_and_spans():
    """Prompts, loops, pipes and continued lines are read; prose is not."""
    block = "```\n$ uneventful status \\\n  --watch\nx | uneventful node list\n```\n"
    text = f"Use `uneventful up`, uneventful indeed.\n{block}"
    assert [" ".join(said.split()) for said in commands_of(text)] == ["status --watch", "node list", "up"]
