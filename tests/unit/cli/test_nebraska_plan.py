"""Nebraska's groups, policies, channels and packages as ours; what does not map is said."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.cli.fleet_file import Noun, parse
from services.cli.nebraska import file_of, next_steps, nodes_files, summary
from services.cli.nebraska_plan import Source, hex_digest, plan_import, policy_of
from shared.domain.policy import Policy

APP = "e96281a6-d1af-4bde-9a0a-97b76e56dc57"
DIGEST = bytes(range(32))
SHA1 = "2jmj7l5rSw0yVb/vlWAYkK/YBwk="


def group(name: str, channel: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"id-{name}", "application_id": APP, "name": name, "description": "", "channel_id": channel,
        "track": "stable", "updates_enabled": True, "safe_mode": False, "office_hours": False, "time_zone": "UTC",
        "period_s": 900.0, "max_updates": 5, "timeout_s": 3_600.0, **more,
    }  # fmt: skip


def package(ident: str, version: str, arch: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": ident, "application_id": APP, "type": 1, "version": version, "arch": arch, "url": "https://u/x",
        "filename": "flatcar_production_update.gz", "description": "", "size": "1234", "hash": SHA1,
        "sha256": base64.b64encode(DIGEST).decode(), **more,
    }  # fmt: skip


def channel(ident: str, name: str, arch: int = 1, package_id: str | None = None) -> dict[str, Any]:
    return {"id": ident, "application_id": APP, "name": name, "arch": arch, "package_id": package_id}


def source(**more: Any) -> Source:
    application = {
        "id": APP,
        "name": "Flatcar Container Linux",
        "description": "For servers",
        "product_id": "io.flatcar",
    }
    return Source(**{"applications": [application], **more})


def test_a_usual_server_maps_onto_ours():
    """Two archs under one name are one channel; groups of one track and two archs are told apart by arch."""
    plan = plan_import(
        source(
            channels=[channel("c1", "stable", 1, "p1"), channel("c2", "stable", 2, "p2"), channel("c3", "beta")],
            packages=[package("p1", "3975.2.1", 1), package("p2", "3975.2.1", 2)],
            files=[{"package_id": "p1", "name": "oem-azure.gz", "hash": SHA1, "hash256": DIGEST.hex(), "size": "7"}],
            floors=[{"package_id": "p1", "reason": ""}],
            groups=[
                group("Stable (AMD64)", "c1"),
                group("Stable (ARM64)", "c2"),
                group("Beta", "c3", track="", safe_mode=True, description="first\nones"),
            ],
            instances=[
                {"id": "m1", "application_id": APP, "alias": "web-1", "oem": "ami", "aleph_version": ""},
                {"id": "m2", "application_id": APP, "alias": "", "oem": "", "aleph_version": "3510.2.0"},
            ],
        )
    )
    groups = {thing.name: thing.fields for thing in plan.fleet.things if thing.noun is Noun.GROUP}
    assert list(groups) == ["Stable AMD64", "Stable ARM64", "Beta", "unassigned"]
    assert groups["Stable AMD64"]["selector"] == {"track": ["stable", "id-Stable (AMD64)"], "arch": ["amd64"]}
    assert groups["Beta"]["selector"] == {"track": ["id-Beta"]}
    assert groups["unassigned"]["updates_enabled"] is False
    assert plan.pointers == (
        ("Flatcar Container Linux", "stable", "amd64", "3975.2.1"),
        ("Flatcar Container Linux", "stable", "arm64", "3975.2.1"),
    )
    amd64 = plan.changesets[0]
    assert [(one.name, one.role, one.sha256) for one in amd64.payloads] == [
        ("flatcar_production_update.gz", "main", DIGEST.hex()),
        ("oem-azure.gz", "extra", DIGEST.hex()),
    ]
    assert amd64.payloads[0].url == "https://u/x/flatcar_production_update.gz"
    assert (amd64.floor_reason, plan.changesets[1].floor_reason) == ("a floor in Nebraska", None)
    assert [(node.machine_id, node.alias, dict(node.facts)) for node in plan.nodes] == [
        ("m1", "web-1", {"oem": "ami"}),
        ("m2", None, {"alephversion": "3510.2.0"}),
    ]
    assert plan.unmapped == ()
    fleet = parse(text := file_of(plan), "fleet.yaml")
    assert fleet.orders == plan.fleet.orders
    assert "observe_only: true" in text
    assert "      # In Nebraska it is called 'Stable (AMD64)'.\n" in text
    assert "# first ones" in text
    assert summary(plan)["nodes"] == 2
    ((where, nodes),) = nodes_files(plan, Path("/there/fleet.yaml")).items()
    assert where == Path("/there/fleet.flatcar-container-linux.nodes.csv")
    assert nodes.splitlines() == ["machine,alias,oem,alephversion", "m1,web-1,ami,", "m2,,,3510.2.0"]
    assert "channel promote 'stable' 3975.2.1" in "\n".join(next_steps(plan, Path(__file__)))


@pytest.mark.parametrize(
    ("row", "policy", "said"),
    [
        ({}, {"group_concurrency": 5, "offer_deadline_s": 5_400.0}, "at most 5 updates per 15 minutes"),
        ({"max_updates": 999_999}, {"offer_deadline_s": 5_400.0}, "did not limit"),
        (
            {"safe_mode": True, "max_updates": 1, "timeout_s": 86_400.0},
            {
                "group_concurrency": 1,
                "offer_deadline_s": 86_400.0,
                "waves": [{"fraction": 0.05, "soak_s": 3_600.0}, {"fraction": 1.0, "soak_s": 0.0}],
            },
            "5% of the group go first",
        ),
    ],
)
def test_policies_map_onto_ours(row, policy, said):
    """Limits, safe mode and time-outs; each with what differs."""
    found, notes = policy_of(group("g", "c", **row))
    assert found == policy
    msgspec.convert(found, Policy)
    assert any(said in note for note in notes)


@pytest.mark.parametrize(("zone", "used"), [("Europe/Berlin", "Europe/Berlin"), ("Mars/Olympus", "UTC")])
def test_office_hours_are_a_window(zone, used):
    """Monday to Friday, nine to five, by the group's clock."""
    found, notes = policy_of(group("g", "c", office_hours=True, time_zone=zone))
    policy = msgspec.convert(found, Policy)
    (window,) = policy.windows.weekly
    assert (window.start, window.length_s, len(window.days)) == ("09:00", 28_800.0, 5)
    assert policy.windows.time_zone == used
    assert any("not known" in note for note in notes) == (zone != used)


def test_what_does_not_map_is_said():
    """Other types, odd versions, missing hashes, blacklists, groups that follow nothing, applications of no one."""
    plan = plan_import(
        source(
            channels=[channel("c1", "stable/x", 1, "p2"), channel("c2", "old", 9), channel("c3", "stable x", 1, "p1")],
            packages=[
                package("p1", "1.0.0"),
                package("p2", "2.0.0", type=2),
                package("p3", "no version!"),
                package("p4", "4.0.0", sha256=None),
                package("p5", "5.0.0", filename=None),
                package("p6", "6.0.0", size="many"),
            ],
            files=[{"package_id": "p1", "name": "oem.gz", "hash": SHA1, "hash256": "short", "size": "7"}],
            blacklists=[
                {"package_id": "p1", "channel_id": "c1"},
                {"package_id": "p1", "channel_id": "gone"},
                {"package_id": "gone", "channel_id": "c1"},
            ],
            groups=[group("lost", None), group("lost too", "gone")],
        ),
        only=(APP, "nothing"),
    )
    said = "\n".join(plan.unmapped)
    for words in (
        "type is not Flatcar's", "no version!", "4.0.0", "names no file", "6.0.0", "oem.gz", "follows no channel",
        "package that is not taken over", "no application 'nothing'",
    ):  # fmt: skip
        assert words in said, words
    assert [one.version for one in plan.changesets] == ["1.0.0"]
    assert "1.0.0 is blacklisted here" in file_of(plan)
    names = [thing.name for thing in plan.fleet.things if thing.noun is Noun.CHANNEL]
    assert names == ["stable x", "stable x 2"]
    assert plan_import(source(), only=("other",)).fleet.things == ()


def test_digests_in_both_of_nebraskas_forms():
    """Hexadecimal or base64; anything else is none."""
    assert hex_digest(DIGEST.hex().upper()) == DIGEST.hex()
    assert hex_digest(base64.b64encode(DIGEST).decode()) == DIGEST.hex()
    assert [hex_digest(text) for text in (None, "", "x", "AAAA")] == [None] * 4
