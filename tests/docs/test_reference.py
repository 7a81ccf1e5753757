"""The reference pages say what the code says. ``python tests/docs/test_reference.py`` writes them anew."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import msgspec
import pytest

from services.update_check.watch import Rejection
from shared.domain.policy import Policy
from shared.domain.reasons import EXPLANATIONS
from shared.events import asyncapi
from shared.settings import ServiceSettings, describe

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "docs/reference/settings.md"
SERVICES = ("update_check", "distribution", "telemetry", "event_log", "rollback_analysis", "control")


def settings_page() -> str:
    """The page of settings, from the settings themselves."""
    common = [doc.name for doc in describe(ServiceSettings)]
    lines = [
        "# Settings",
        "",
        "Read once, at start, from the environment. An unknown `UNEVENTFUL_*` variable, a missing one or one that is",
        "out of range is refused by name. `NAME_FILE` reads the value from a file. Secrets are never shown.",
    ]

    def table(docs) -> None:
        lines.extend(["", "| variable | type | default | means |", "|---|---|---|---|"])
        for doc in docs:
            default = "required" if doc.required else (f"`{doc.default}`" if doc.default is not None else "")
            bounds = f", {doc.bounds}" if doc.bounds else ""
            cells = (f"`{doc.name}`", f"{doc.type}{bounds}", default, doc.doc)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")

    lines.extend(["", "## Every service"])
    table(describe(ServiceSettings))
    for service in SERVICES:
        settings = importlib.import_module(f"services.{service}.settings").Settings
        own = [doc for doc in describe(settings) if doc.name not in common]
        lines.extend(["", f"## {service}"])
        if own:
            table(own)
        else:
            lines.extend(["", "None of its own."])
    return "\n".join(lines) + "\n"


def test_the_settings_page_is_up_to_date():
    """Every setting of every service is on the page, with its bounds and default."""
    assert SETTINGS.read_text() == settings_page(), "run: .venv/bin/python tests/docs/test_reference.py"


def test_the_policy_page_names_every_field():
    """Nothing can be set that the page does not explain."""
    page = (ROOT / "docs/reference/policy.md").read_text()

    for field in msgspec.structs.fields(Policy):
        assert f"`{field.name}`" in page


def test_the_page_of_answers_has_every_reason():
    """Whatever a node was answered, an operator finds what it means."""
    page = (ROOT / "docs/reference/answers.md").read_text()
    listed = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    named = {name for cell in listed for name in re.findall(r"`([a-z_]+)`", cell)}

    assert {*EXPLANATIONS, *Rejection} <= named


def test_the_asyncapi_file_is_the_one_that_the_registry_makes():
    """The checked-in document of the events is current."""
    page = (ROOT / "docs/reference/asyncapi.yaml").read_text(encoding="utf-8")
    assert page == asyncapi.rendered(), "run: .venv/bin/python -m shared.events.asyncapi --write"


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    """No relative link of a page is dead."""
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


if __name__ == "__main__":
    SETTINGS.write_text(settings_page())
