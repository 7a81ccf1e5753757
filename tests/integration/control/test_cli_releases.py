"""Releases at a terminal, as docs/how-to/publish-a-release.md has it: from a Flatcar directory to a withdrawal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from services.control.app import make_app
from services.control.settings import Settings
from services.control.signing import make_key, private_pem, public_pem
from shared.domain.manifest import Signature, read_key_list, verify_manifest
from shared.settings import Secret

TESTER = make_key(lambda count: b"\x06" * count)
WHERE = ("--app", "flatcar", "--arch", "amd64")
pytestmark = pytest.mark.usefixtures("quiet_services")


@pytest.fixture
async def signing_terminal(database_url, control, distribution, terminal_with, tmp_path):
    """A terminal of an admin at a control that has a key directory."""
    settings = Settings(
        database_url=Secret(database_url), conduct_every_s=3600, token_cache_s=0, key_dir=tmp_path / "keys"
    )
    server = TestServer(make_app(settings))
    await server.start_server(access_log=None)
    (tmp_path / "token").write_text(control.token)
    url = str(server.make_url("")).rstrip("/")
    yield terminal_with("--url", url, "--token-file", str(tmp_path / "token"), "--distribution-url", distribution)
    await server.close()


def flatcar(tmp_path: Path, version: str, kernel: str) -> Path:
    directory = tmp_path / "amd64-usr" / version
    directory.mkdir(parents=True)
    (directory / "flatcar_production_update.gz").write_bytes(f"update {version}".encode() * 1_000)
    (directory / "version.txt").write_text(f"FLATCAR_VERSION={version}\n")
    (directory / "flatcar_production_image_packages.txt").write_text(
        f"sys-kernel/coreos-kernel-{kernel}::coreos-overlay\nsys-apps/systemd-255.8::portage-stable\n"
    )
    (directory / "oem-azure.gz").write_bytes(b"azure" * 100)
    return directory


async def begun(terminal: Any) -> None:
    await terminal.json("app", "add", "flatcar", "--product", "Flatcar", "--scheme", "flatcar")
    await terminal.json("channel", "add", "flatcar", "stable", "--arch", "amd64")


async def test_a_flatcar_release_is_published_signed_and_compared(signing_terminal, tmp_path):
    """One command per release; what was signed verifies; the difference is shown; again changes nothing."""
    terminal = signing_terminal
    await begun(terminal)
    old = await terminal.json(
        "changeset", "add", "flatcar", "--flatcar", str(flatcar(tmp_path, "3975.2.0", "6.6.50")), "--publish"
    )
    new = flatcar(tmp_path, "3975.2.1", "6.6.54")
    added = await terminal.json("changeset", "add", "flatcar", "--flatcar", str(new), "--source", "https://x.example")
    assert (added["version"], added["arch"], added["state"]) == ("3975.2.1", "amd64", "draft")
    assert [(item["role"], item["name"], item["required"]) for item in added["payloads"]] == [
        ("main", "flatcar_production_update.gz", True),
        ("extra", "oem-azure.gz", False),
    ]
    assert added["components"] == {"kernel": "6.6.54", "systemd": "255.8"}
    again = await terminal.json("changeset", "add", "flatcar", "--flatcar", str(new), "--source", "https://x.example")
    assert again == added
    await terminal.json("changeset", "set", "3975.2.1", "--notes", "fixes", "--minimum-version", "3033.2.4", *WHERE)
    assert "--notes" in await terminal.fails(1, "changeset", "set", "3975.2.1", *WHERE)
    await terminal.json("changeset", "publish", "3975.2.1", "--unchecked", *WHERE)

    shown = await terminal.text("changeset", "diff", "3975.2.0", "3975.2.1")
    assert "6.6.50" in shown
    assert "6.6.54" in shown
    assert "oem-azure" not in shown
    assert (await terminal.json("changeset", "diff", "3975.2.0", "3975.2.1"))["packages"]["changed"]
    assert "do not differ" in await terminal.text("changeset", "diff", "3975.2.1", "3975.2.1")

    out = tmp_path / "signed"
    assert "uneventful.manifest.v1" in await terminal.text("changeset", "manifest", "3975.2.1", "--out", str(out))
    exported = await terminal.json("keys", "export", "--out", str(tmp_path / "trusted"))
    assert [item["version"] for item in exported["items"]] == [1]
    known = read_key_list((tmp_path / "trusted" / "keys.json").read_bytes())
    (key,) = known.keys
    signature = Signature(key_id=key.key_id, signature=(out / f"manifest.json.{key.key_id}.sig").read_text().strip())
    read = verify_manifest((out / "manifest.json").read_bytes(), [signature], known.keys)
    assert (read.version, read.minimum_version) == ("3975.2.1", "3033.2.4")
    assert (tmp_path / "trusted" / f"{key.key_id}.pub.pem").read_text().startswith("-----BEGIN PUBLIC KEY")

    assert "floor" in await terminal.text("changeset", "mark", "3975.2.0", "--floor", "--reason", "boot loader")
    assert "floor" in await terminal.text("changeset", "list")
    assert old["state"] == "published"


async def test_what_cannot_be_added_is_said(terminal, tmp_path):
    """No update, contradictions, missing words; each says what to do."""
    await begun(terminal)
    release = flatcar(tmp_path, "3975.2.1", "6.6.54")
    add = ("changeset", "add", "flatcar")
    assert "is of version 3975.2.1" in await terminal.fails(1, *add, "3975.2.2", "--flatcar", str(release))
    assert "is of arch amd64" in await terminal.fails(1, *add, "--flatcar", str(release), "--arch", "arm64")
    payload = ("--payload", str(release / "oem-azure.gz"))
    assert "names the payloads already" in await terminal.fails(2, *add, "--flatcar", str(release), *payload)
    assert "which is the update itself" in await terminal.fails(1, *add, "--flatcar", str(tmp_path))
    assert "say which VERSION" in await terminal.fails(2, *add)
    assert "--arch" in await terminal.fails(2, *add, "3975.2.1")
    wrong = ("--arch", "amd64", "--component", "kernel")
    assert "NAME=VERSION" in await terminal.fails(1, *add, "3975.2.1", *wrong)
    floor = await terminal.json(
        *add, "3033.2.4", "--arch", "amd64", "--floor", "boot loader", "--dead-end", "old", "--package", "a=1"
    )
    assert (floor["floor_reason"], floor["dead_end_reason"], floor["packages"]) == ("boot loader", "old", {"a": "1"})
    changed = await terminal.json("changeset", "set", "3033.2.4", "--floor", "a new boot loader", "--dead-end", "")
    assert (changed["floor_reason"], changed["dead_end"], changed["dead_end_reason"]) == (
        "a new boot loader",
        False,
        None,
    )
    mark = ("changeset", "mark", "3033.2.4", "--no-floor", "--reason", "x")
    assert "changeset set" in await terminal.fails(1, *mark)


async def test_tests_are_attached_demanded_and_overridden(terminal, tmp_path, operator):
    """A channel demands a test; a report by its content; a signature by a trusted key; an override in the history."""
    await begun(terminal)
    release = flatcar(tmp_path, "3975.2.1", "6.6.54")
    await terminal.json("changeset", "add", "flatcar", "--flatcar", str(release), "--publish")
    channel = await terminal.json("channel", "set", "stable", "--demand", "kubernetes", "--demand", "net")
    assert channel["required_attestations"] == ["kubernetes", "net"]
    assert "--demand" in await terminal.fails(1, "channel", "set", "stable")
    refused = await terminal.fails(1, "channel", "promote", "stable", "3975.2.1")
    assert "kubernetes (none), net (none)" in refused

    junit, tap, plain = tmp_path / "junit.xml", tmp_path / "net.tap", tmp_path / "boot.json"
    junit.write_text("<testsuites><testsuite><testcase name='a'/></testsuite></testsuites>")
    tap.write_text("1..1\nok 1 - bond\n")
    plain.write_text('{"name": "boot", "verdict": "passed"}')
    private, public = tmp_path / "ci.pem", tmp_path / "ci.pub.pem"
    private.write_bytes(private_pem(TESTER))
    public.write_text(public_pem(TESTER.public))
    attest = ("changeset", "attest", "3975.2.1")
    assert (await terminal.json(*attest, str(junit), "--name", "kubernetes"))["summary"] == "1 passed"
    signed = (*attest, str(tap), "--name", "net", "--sign", str(private), "--link", "https://ci.example/1")
    assert "keys trust" in await terminal.fails(1, *signed)
    await terminal.json("keys", "trust", "--attester", "ci", str(public), "--reason", "our pipeline")
    assert (await terminal.json(*signed))["signature"]["attester"] == "ci"
    assert (await terminal.json(*attest, str(plain), "--sign", str(private)))["name"] == "boot"
    shown = await terminal.text("changeset", "attestations", "3975.2.1")
    assert "https://ci.example/1" in shown
    assert "1 rollout" not in await terminal.text("channel", "promote", "stable", "3975.2.1", "--reason", "tested")
    assert "ci" in await terminal.text("keys", "attesters")
    distrusted = await terminal.json("keys", "distrust", TESTER.key_id, "--reason", "stolen")
    assert distrusted["distrusted_at"] is not None

    later = flatcar(tmp_path, "3975.1.2", "6.6.55")
    await terminal.json("changeset", "add", "flatcar", "--flatcar", str(later), "--publish")
    override = ("channel", "promote", "stable", "3975.1.2", "--override-reason", "the lab is down")
    assert "--force-scheme" in await terminal.fails(1, *override)
    await terminal.json(*override, "--force-scheme")
    assert "the lab is down" in await terminal.text("channel", "history", "stable")
    assert (await terminal.json("channel", "set", "stable", "--demand-none"))["required_attestations"] == []
    back = await terminal.json("channel", "rollback", "stable", "--reason", "it was a beta")
    assert back["channel"]["version"] == "3975.2.1"
    assert "0 rollouts started" in await terminal.text("channel", "promote", "stable", "3975.2.1")


async def test_images_drift_and_withdrawal(terminal, tmp_path, fleet_of, pool):
    """What new nodes boot; who is elsewhere; a withdrawal that is first tried, then done."""
    await begun(terminal)
    assert "nothing was promoted" in await terminal.fails(1, "channel", "current", "stable", "--image")
    release = flatcar(tmp_path, "3975.2.1", "6.6.54")
    await terminal.json("changeset", "add", "flatcar", "--flatcar", str(release), "--publish")
    await terminal.json("channel", "promote", "stable", "3975.2.1")
    image = await terminal.json("channel", "current", "stable", "--image")
    assert [payload["name"] for payload in image["payloads"]] == ["flatcar_production_update.gz", "oem-azure.gz"]
    shown = await terminal.text("channel", "current", "stable", "--image")
    assert all(payload["sha256"] in shown for payload in image["payloads"])
    shown = await terminal.text("changeset", "show", "3975.2.1")
    assert all(payload["sha256"] in shown for payload in image["payloads"])
    assert (await terminal.json("channel", "current", "stable"))["version"] == "3975.2.1"
    assert "No group follows" in await terminal.text("channel", "drift", "stable")
    group = await terminal.json("group", "add", "flatcar", "all", "--channel", "stable")
    await fleet_of(group, "m1", "3975.2.1")
    await fleet_of(group, "m2", "3975.2.0")
    await pool.execute("UPDATE fleet.nodes SET arch = 'amd64'")
    drift = await terminal.json("channel", "drift", "stable")
    assert (drift["total"], drift["on_target"], drift["behind"]) == (2, 1, 1)
    assert "1 of 2 nodes are not on 3975.2.1" in await terminal.text("channel", "drift", "stable")

    withdraw = ("changeset", "withdraw", "3975.2.1", "--reason", "it eats disks")
    assert "would be withdrawn" in await terminal.text(*withdraw, "--dry-run")
    assert (await terminal.json("changeset", "show", "3975.2.1"))["state"] == "published"
    done = await terminal.text(*withdraw)
    assert "is withdrawn. 1 nodes run it" in done
    assert "--policy downgrade=true" in done
    assert "uneventful channel rollback stable" in done
    assert "it eats disks" in await terminal.text("changeset", "show", "3975.2.1")
    assert json.loads((await terminal.run(*withdraw, "--json")).stdout)["changeset"]["state"] == "withdrawn"


async def test_keys_at_a_terminal(signing_terminal):
    """Listed, made, rotated, retired; each with its reason."""
    terminal = signing_terminal
    made = await terminal.json("keys", "make", "--reason", "a second one")
    assert made["version"] == 2
    first = (await terminal.json("keys", "list"))["items"][0]["key_id"]
    assert (await terminal.json("keys", "retire", first, "--reason", "lost"))["version"] == 3
    assert (await terminal.json("keys", "rotate", "--reason", "yearly"))["version"] == 4
    assert first in await terminal.text("keys", "list")
    assert len((await terminal.json("keys", "export", "--since", "2"))["items"]) == 2


async def test_an_application_is_changed(terminal):
    """Product, scheme, observing; nothing said is said."""
    await begun(terminal)
    changed = await terminal.json("app", "set", "flatcar", "--observe-only", "--product", "Flatcar Container Linux")
    assert (changed["observe_only"], changed["product"]) == (True, "Flatcar Container Linux")
    assert (await terminal.json("app", "set", "flatcar", "--offer"))["observe_only"] is False
    assert "--product" in await terminal.fails(1, "app", "set", "flatcar")
