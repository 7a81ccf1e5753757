"""Releases over HTTP: drafts, manifests and keys, attestations, promotions and what channels do with them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import uuid
from typing import Any

import msgspec
import orjson
import pytest
from aiohttp.test_utils import TestServer

from services.control.__main__ import keep_token
from services.control.app import make_app
from services.control.settings import Settings
from services.control.signing import make_key, public_pem
from services.control.tokens import Role
from shared.domain.manifest import (
    Signature,
    attestation_statement,
    follow_key_list,
    read_key_list,
    verify_manifest,
)
from shared.settings import Secret

UNKNOWN = "00000000-0000-4000-8000-000000000000"
OK_TAP = b"1..1\nok 1 - all\n"
TESTER = make_key(lambda count: b"\x05" * count)


@pytest.fixture
async def signing(database_url, operator_at, tmp_path):
    """An admin of a control that has a key directory."""
    settings = Settings(
        database_url=Secret(database_url),
        conduct_every_s=3600,
        token_cache_s=0,
        key_dir=tmp_path / "keys",
        distribution_public_url="http://distribution.example/",
    )
    server = TestServer(make_app(settings))
    await server.start_server(access_log=None)
    token = await keep_token(database_url, name="keeper", role=Role.ADMIN)
    yield operator_at(str(server.make_url("")).rstrip("/"), token)
    await server.close()


@pytest.fixture
async def someone(control, operator_at, database_url):
    """Makes somebody with a role."""

    async def make(role: Role) -> Any:
        return operator_at(control.url, await keep_token(database_url, name=f"some {role}", role=role))

    return make


async def attest(operator, changeset_id: str, report: bytes, media_type: str, **more: Any):
    """POST a report as its bytes are."""
    headers = {"Authorization": f"Bearer {operator.token}", "Content-Type": media_type}
    if (signature := more.pop("signature", None)) is not None:
        headers["Uneventful-Signature"] = signature
    url = f"{operator.url}/api/v1/changesets/{changeset_id}/attestations"
    async with operator.session.post(url, data=io.BytesIO(report), headers=headers, params=more) as answer:
        return answer.status, await answer.json(content_type=None)


def signed(document: dict[str, Any]) -> tuple[bytes, list[Signature]]:
    return base64.b64decode(document["document"]), msgspec.convert(document["signatures"], list[Signature])


# Applications


async def test_an_application_is_changed_once_with_its_event(operator, app, events):
    """Product, scheme, observing; a scheme that its versions do not fit is refused; the same again tells nothing."""
    assert (app["version_scheme"], app["observe_only"], app["product"]) == ("flatcar", False, None)
    changed = await operator.ask("PATCH", "/applications/os", {"observe_only": True, "product": "Flatcar"})
    assert (changed.ok()["observe_only"], changed.body["product"]) == (True, "Flatcar")
    assert (await events("policy.")) == ["policy.changed.v1"]
    (await operator.ask("PATCH", "/applications/os", {"observe_only": True})).ok()
    assert (await events("policy.")) == ["policy.changed.v1"]
    await operator.changeset("3975.2.1")
    refused = await operator.ask("PATCH", "/applications/os", {"version_scheme": "calendar"})
    assert "begin with the year" in refused.refused(409, "conflict")
    other = await operator.post("/applications", {"name": "apt", "version_scheme": "calendar"})
    (await operator.ask("PATCH", "/applications/apt", {"version_scheme": "semver"})).ok()
    assert other["version_scheme"] == "calendar"
    (await operator.ask("POST", "/applications", {"name": "apt", "version_scheme": "flatcar"})).refused(409, "conflict")
    (await operator.ask("PATCH", "/applications/nobody", {"product": "x"})).refused(404, "not_found")


# Changesets


async def test_a_draft_changes_and_a_published_changeset_never(operator, app):
    """What is given changes; contradictions are refused; after publishing everything is refused but the same again."""
    changeset_id = await operator.changeset("3975.2.1", publish=False)
    path = f"/changesets/{changeset_id}"
    given = {"components": {"kernel": "6.6.54"}, "packages": {"sys-apps/systemd": "255.8"}, "source": "https://x"}
    changed = (await operator.ask("PATCH", path, given)).ok()
    assert {name: changed[name] for name in given} == given
    minimum = {"minimum_version": "3975.2.2"}
    (await operator.ask("PATCH", path, minimum)).refused(400, "invalid_input")
    (await operator.ask("PATCH", path, {"floor": True})).refused(400, "invalid_input")
    (await operator.ask("PATCH", path, {"floor": True, "floor_reason": "boot loader", "kind": "packages"})).ok()
    await operator.post(f"{path}/publish", {})
    (await operator.ask("PATCH", path, {"notes": "late"})).refused(409, "conflict")
    assert (await operator.ask("PATCH", path, {"kind": "packages"})).ok()["notes"] == ""
    (await operator.ask("PATCH", f"/changesets/{UNKNOWN}", {"notes": "x"})).refused(404, "not_found")
    bad = {"application": "os", "version": "latest", "arch": "x86_64"}
    assert "3975.2.1" in (await operator.ask("POST", "/changesets", bad)).refused(400, "invalid_input")
    again = {"application": "os", "version": "3975.2.1", "arch": "x86_64", "notes": "other"}
    assert "another kind" in (await operator.ask("POST", "/changesets", again)).refused(409, "conflict")


async def test_marks_are_set_after_publishing_with_a_reason_and_an_event(operator, app, pool, events):
    """A floor and a dead end come after the fact; once each; the manifest stays."""
    draft = await operator.changeset("3033.2.3", publish=False)
    changeset_id = await operator.changeset("3033.2.4")
    before = await operator.get(f"/changesets/{changeset_id}/manifest")
    path = f"/changesets/{changeset_id}/mark"
    marked = await operator.post(path, {"floor": True, "reason": "boot loader"})
    assert (marked["floor"], marked["floor_reason"], marked["dead_end"]) == (True, "boot loader", False)
    version = await pool.fetchval("SELECT policy_version FROM control.global_gate")
    await operator.post(path, {"floor": True, "reason": "again"})
    assert await pool.fetchval("SELECT policy_version FROM control.global_gate") == version
    both = await operator.post(path, {"floor": False, "dead_end": True, "reason": "no way on"})
    assert (both["floor"], both["floor_reason"], both["dead_end_reason"]) == (False, None, "no way on")
    assert (await events("changeset.marked")) == ["changeset.marked.v1"] * 2
    assert await operator.get(f"/changesets/{changeset_id}/manifest") == before
    (await operator.ask("POST", path, {"reason": "nothing"})).refused(400, "invalid_input")
    refused = await operator.ask("POST", f"/changesets/{draft}/mark", {"floor": True, "reason": "x"})
    refused.refused(409, "conflict")
    refused = await operator.ask("POST", f"/changesets/{UNKNOWN}/mark", {"floor": True, "reason": "x"})
    refused.refused(404, "not_found")


async def test_differences(operator, app):
    """Components, packages, payload sizes; only within an application."""
    await operator.post("/applications", {"name": "other"})
    one, two = await operator.changeset("3033.2.3", publish=False), await operator.changeset("3033.2.4", publish=False)
    (await operator.ask("PATCH", f"/changesets/{one}", {"components": {"kernel": "5.10"}, "packages": {"a": "1"}})).ok()
    (await operator.ask("PATCH", f"/changesets/{two}", {"components": {"kernel": "5.15"}, "packages": {"b": "1"}})).ok()
    found = await operator.get(f"/changesets/{one}/diff", to=two)
    assert found["components"]["changed"] == {"kernel": {"from": "5.10", "to": "5.15"}}
    assert (found["packages"]["added"], found["packages"]["removed"]) == ({"b": "1"}, {"a": "1"})
    assert found["payloads"] == [
        {"name": "update.gz", "role": "main", "size_before": 1234, "size_after": 1234, "same": False}
    ]
    other = await operator.changeset("3033.2.4", app="other")
    (await operator.ask("GET", f"/changesets/{one}/diff", to=other)).refused(400, "invalid_input")
    (await operator.ask("GET", f"/changesets/{one}/diff", to=UNKNOWN)).refused(404, "not_found")


async def test_withdrawing(operator, app, fleet, events):
    """A dry run shows who has it and changes nothing; then it is taken back for good, its channel named."""
    changeset_id, channel_id = await operator.changeset("2.0.0"), await operator.channel()
    group_id = await operator.group(policy={"downgrade": True})
    (rollout_id,) = await operator.promote(channel_id, changeset_id)
    await fleet.node("on-it", group_id, "2.0.0")
    await fleet.attempt(await fleet.node("staged", group_id, "1.0.0"), rollout_id, "staged")
    await fleet.attempt(await fleet.node("offered", group_id, "1.0.0"), rollout_id)
    path = f"/changesets/{changeset_id}/withdraw"

    would = (await operator.ask("POST", path, {"reason": "it eats disks"}, dry_run="true")).ok()
    assert would["dry_run"]
    assert "changeset.withdrawn.v1" in [event["type"] for event in would["would"]]
    assert (await operator.get(f"/changesets/{changeset_id}"))["state"] == "published"
    assert await events("changeset.withdrawn") == []

    done = await operator.post(path, {"reason": "it eats disks"})
    held = done["holders"]
    assert {name: held[name] for name in ("runs", "staged", "on_its_way")} == {"runs": 1, "staged": 1, "on_its_way": 1}
    assert [(group["group_name"], group["runs"], group["brought_back"]) for group in held["groups"]] == [
        ("all", 1, True)
    ]
    assert held["nodes"][0] == {**held["nodes"][0], "machine_id": "on-it", "runs": True, "attempt_state": None}
    assert [channel["name"] for channel in done["channels"]] == ["stable"]
    shown = done["changeset"]
    assert (shown["state"], shown["withdrawn_reason"], shown["gate"]["state"]) == (
        "withdrawn",
        "it eats disks",
        "withdrawn",
    )
    assert (await operator.get(f"/rollouts/{rollout_id}"))["state"] == "aborted"
    await operator.post(path, {"reason": "again"})
    assert await events("changeset.withdrawn") == ["changeset.withdrawn.v1"]
    assert len((await operator.get(f"/changesets/{changeset_id}/holders", limit=1))["nodes"]) == 1
    other = await operator.channel("beta")
    promoted = await operator.ask("POST", f"/channels/{other}/promote", {"changeset": changeset_id})
    promoted.refused(409, "conflict")
    (await operator.ask("POST", f"/changesets/{UNKNOWN}/withdraw", {"reason": "x"})).refused(404, "not_found")


# Manifests and keys


async def test_what_is_published_is_signed_and_keys_are_rotated(signing, app, events, tmp_path):
    """The first key makes itself; a rotation signs all that is published anew, and a list leads to the new key."""
    old = await signing.changeset("3975.2.1")
    first = await signing.get(f"/changesets/{old}/manifest")
    lists = (await signing.get("/keys/lists"))["items"]
    known = read_key_list(base64.b64decode(lists[0]["document"]))
    read = verify_manifest(*signed(first), known.keys)
    assert (read.application, read.version, read.payloads[0].name) == ("os", "3975.2.1", "update.gz")

    rotated = await signing.post("/keys/rotate", {"reason": "yearly"})
    known = follow_key_list(known, *signed(rotated))
    assert known.version == 2
    second = await signing.get(f"/changesets/{old}/manifest")
    assert second["document"] == first["document"]
    verify_manifest(*signed(second), known.keys)
    new = await signing.changeset("3975.2.2")
    assert (await signing.get(f"/changesets/{new}"))["signed_by"] == [known.keys[0].key_id]
    assert len((await signing.get(f"/changesets/{old}"))["signed_by"]) == 2

    made = await signing.ask("POST", "/keys", {"reason": "a second one"})
    assert made.status == 201
    known = follow_key_list(known, *signed(made.body))
    keys = (await signing.get("/keys"))["items"]
    assert [(key["in_force"], key["here"]) for key in keys] == [(False, True), (True, True), (True, True)]
    retired = await signing.post(f"/keys/{keys[1]['key_id']}/retire", {"reason": "lost"})
    known = follow_key_list(known, *signed(retired))
    assert [key.key_id for key in known.keys] == [keys[2]["key_id"]]
    assert await events("keys.") == ["keys.changed.v1"] * 4
    assert [item["version"] for item in (await signing.get("/keys/lists", after=2))["items"]] == [3, 4]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}

    retire = f"/keys/{keys[2]['key_id']}/retire"
    assert "rotate" in (await signing.ask("POST", retire, {"reason": "x"})).refused(409, "conflict")
    again = await signing.ask("POST", f"/keys/{keys[1]['key_id']}/retire", {"reason": "x"})
    assert "already" in again.refused(409, "conflict")
    (await signing.ask("POST", f"/keys/{'0' * 16}/retire", {"reason": "x"})).refused(404, "not_found")
    (await signing.ask("POST", "/keys/nonsense/retire", {"reason": "x"})).refused(400, "invalid_input")


async def test_a_dry_run_makes_no_key(signing, tmp_path):
    """Neither a file nor a row is left."""
    files = sorted((tmp_path / "keys").iterdir())
    would = (await signing.ask("POST", "/keys", {"reason": "try"}, dry_run="true")).ok()
    assert would["would"][0]["type"] == "keys.changed.v1"
    assert sorted((tmp_path / "keys").iterdir()) == files
    assert len((await signing.get("/keys"))["items"]) == 1


async def test_without_a_key_of_those_in_force_nothing_is_signed_or_rotated(signing, app, tmp_path):
    """A control that has lost its keys says so: neither an unsigned changeset nor a list that nobody believes."""
    changeset_id = await signing.changeset("3975.2.1", publish=False)
    for path in (tmp_path / "keys").iterdir():
        path.unlink()
    refused = await signing.ask("POST", f"/changesets/{changeset_id}/publish", {})
    assert "UNEVENTFUL_KEY_DIR" in refused.refused(409, "conflict")
    assert (await signing.get(f"/changesets/{changeset_id}"))["state"] == "draft"
    assert "Put one there" in (await signing.ask("POST", "/keys/rotate", {"reason": "x"})).refused(409, "conflict")
    assert (await signing.get("/keys"))["items"][0]["here"] is False


async def test_publications_and_rotations_at_once_leave_all_signed_by_the_last_key(signing, app):
    """Whoever publishes while keys change is signed by the old keys and then anew, or by the new ones."""
    drafts = [await signing.changeset(f"3975.2.{number}", publish=False) for number in range(8)]
    await asyncio.gather(
        *(signing.post(f"/changesets/{draft}/publish", {}) for draft in drafts[:4]),
        signing.post("/keys/rotate", {"reason": "x"}),
        *(signing.post(f"/changesets/{draft}/publish", {}) for draft in drafts[4:]),
        signing.post("/keys/rotate", {"reason": "y"}),
    )
    (last,) = [key["key_id"] for key in (await signing.get("/keys"))["items"] if key["in_force"]]
    for draft in drafts:
        assert last in (await signing.get(f"/changesets/{draft}"))["signed_by"]


async def test_control_without_keys(operator, app, someone):
    """Manifests are made and not signed; keys cannot be made; only admins may try."""
    draft = await operator.changeset("3975.2.0", publish=False)
    assert "publish it first" in (await operator.ask("GET", f"/changesets/{draft}/manifest")).refused(404, "not_found")
    (await operator.ask("GET", f"/changesets/{UNKNOWN}/manifest")).refused(404, "not_found")
    changeset_id = await operator.changeset("3975.2.1")
    assert (await operator.get(f"/changesets/{changeset_id}/manifest"))["signatures"] == []
    assert (await operator.get("/keys"))["items"] == []
    refused = await operator.ask("POST", "/keys", {"reason": "x"})
    assert "UNEVENTFUL_KEY_DIR" in refused.refused(409, "conflict")
    approver = await someone(Role.APPROVER)
    for path in ("/keys", "/keys/rotate", f"/keys/{'0' * 16}/retire"):
        (await approver.ask("POST", path, {"reason": "x"})).refused(403, "not_permitted")


async def test_a_key_that_lies_there_becomes_the_first_one(database_url, operator_at, signing, tmp_path, pool):
    """A control that is restored to an empty database goes on with the key it has."""
    (key,) = (await signing.get("/keys"))["items"]
    await pool.execute("TRUNCATE control.signing_keys, control.key_lists")
    server = TestServer(make_app(Settings(database_url=Secret(database_url), key_dir=tmp_path / "keys")))
    await server.start_server(access_log=None)
    try:
        again = operator_at(str(server.make_url("")).rstrip("/"), signing.token)
        (found,) = (await again.get("/keys"))["items"]
    finally:
        await server.close()
    assert (found["key_id"], found["in_force"], found["created_by"]) == (key["key_id"], True, "control")


# Attestations


async def test_reports_are_attached_and_the_last_one_counts(operator, app, events):
    """JUnit, TAP and JSON; results decide the verdict; a list, an event each."""
    changeset_id = await operator.changeset("3975.2.1")
    junit = (
        b"<testsuites><testsuite><testcase name='a'/><testcase name='b'><failure/></testcase></testsuite></testsuites>"
    )
    status, failed = await attest(operator, changeset_id, junit, "application/xml", name="kubernetes")
    assert (status, failed["verdict"], failed["summary"]) == (201, "failed", "1 passed, 1 failed: b")
    assert failed["artefact_sha256"] == hashlib.sha256(junit).hexdigest()
    _, passed = await attest(operator, changeset_id, OK_TAP, "text/tap", name="kubernetes", link="https://ci/1")
    assert (passed["verdict"], passed["link"], passed["signature"]) == ("passed", "https://ci/1", None)
    body = {"name": "net", "results": [{"name": "bond", "verdict": "skipped", "message": "no nic"}], "summary": "s"}
    _, skipped = await attest(operator, changeset_id, orjson.dumps(body), "application/json")
    assert (skipped["verdict"], skipped["summary"], skipped["results"][0]["message"]) == ("skipped", "s", "no nic")
    body = {"name": "boot", "verdict": "passed", "artefact_sha256": "0" * 64}
    _, plain = await attest(operator, changeset_id, orjson.dumps(body), "application/json", name="boot")
    assert (plain["artefact_sha256"], plain["summary"]) == ("0" * 64, "")
    items = (await operator.get(f"/changesets/{changeset_id}/attestations"))["items"]
    assert [(item["name"], item["verdict"], item["counts"]) for item in items] == [
        ("boot", "passed", True),
        ("net", "skipped", True),
        ("kubernetes", "passed", True),
        ("kubernetes", "failed", False),
    ]
    assert await events("changeset.attested") == ["changeset.attested.v1"] * 4


@pytest.mark.parametrize(
    "case",
    [
        (b"<!DOCTYPE a><testsuites/>", "application/xml", {"name": "a"}, 400),
        (b"hello", "text/tap", {"name": "a"}, 400),
        (OK_TAP, "text/tap", {}, 400),
        (OK_TAP, "text/tap", {"name": "Not A Name"}, 400),
        (OK_TAP, "text/plain", {"name": "a"}, 415),
        (b"{}", "application/json", {}, 400),
        (b'{"name": "a"}', "application/json", {}, 400),
        (b'{"name": "a", "verdict": "passed"}', "application/json", {"name": "b"}, 400),
        (b'{"name":"a","verdict":"passed","results":[{"name":"t","verdict":"failed"}]}', "application/json", {}, 400),
        (b"#" * (2 * 1024 * 1024 + 1), "text/tap", {"name": "a"}, 413),
    ],
    ids=range(10),
)
async def test_reports_that_are_not_usable_are_refused(operator, app, case):
    """In words, and nothing is attached."""
    report, media_type, query, status = case
    changeset_id = await operator.changeset("3975.2.1")
    answered, problem = await attest(operator, changeset_id, report, media_type, **query)
    assert answered == status, problem
    assert (await operator.get(f"/changesets/{changeset_id}/attestations"))["items"] == []


async def test_only_what_cannot_change_any_more_is_attested(operator, app):
    """No draft, nothing withdrawn, nothing unknown."""
    draft = await operator.changeset("3975.2.0", publish=False)
    status, problem = await attest(operator, draft, OK_TAP, "text/tap", name="a")
    assert status == 409
    assert "publish it first" in problem["detail"]
    await operator.post(f"/changesets/{draft}/withdraw", {"reason": "x"})
    assert (await attest(operator, draft, OK_TAP, "text/tap", name="a"))[0] == 409
    assert (await attest(operator, UNKNOWN, OK_TAP, "text/tap", name="a"))[0] == 404
    (await operator.ask("GET", f"/changesets/{UNKNOWN}/attestations")).refused(404, "not_found")


def statement_signature(report: bytes, **of: str) -> str:
    statement = attestation_statement(
        **{"application": "os", "version": "3975.2.1", "arch": "x86_64", "name": "net", **of},
        artefact_sha256=hashlib.sha256(report).hexdigest(),
    )
    return f"{TESTER.key_id}:{TESTER.sign(statement).signature}"


async def test_signed_reports(operator, app, events, someone):
    """A trusted tester's signature over this report, test and release; any other is refused."""
    changeset_id = await operator.changeset("3975.2.1")
    good = statement_signature(OK_TAP)
    status, problem = await attest(operator, changeset_id, OK_TAP, "text/tap", name="net", signature=good)
    assert status == 400
    assert "keys trust" in problem["detail"]
    trusted = {"name": "ci", "public_key": public_pem(TESTER.public), "reason": "our pipeline"}
    (await (await someone(Role.OPERATOR)).ask("POST", "/attesters", trusted)).refused(403, "not_permitted")
    assert (await operator.ask("POST", "/attesters", trusted)).status == 201
    assert (await operator.ask("POST", "/attesters", trusted)).status == 200
    (await operator.ask("POST", "/attesters", trusted | {"name": "other"})).refused(409, "conflict")
    (await operator.ask("POST", "/attesters", trusted | {"public_key": "none"})).refused(400, "invalid_input")

    status, added = await attest(operator, changeset_id, OK_TAP, "text/tap", name="net", signature=good)
    assert (status, added["signature"]["attester"]) == (201, "ci")
    for report, name, signature in [
        (OK_TAP + b"\n", "net", good),
        (OK_TAP, "other", good),
        (OK_TAP, "net", statement_signature(OK_TAP, version="3975.2.2")),
        (OK_TAP, "net", "nonsense"),
        (OK_TAP, "net", f"{TESTER.key_id}:AAAA"),
    ]:
        assert (await attest(operator, changeset_id, report, "text/tap", name=name, signature=signature))[0] == 400
    path = f"/attesters/{TESTER.key_id}/distrust"
    assert (await operator.post(path, {"reason": "stolen"}))["distrusted_at"] is not None
    await operator.post(path, {"reason": "stolen"})
    assert (await attest(operator, changeset_id, OK_TAP, "text/tap", name="net", signature=good))[0] == 400
    (await operator.ask("POST", f"/attesters/{'0' * 16}/distrust", {"reason": "x"})).refused(404, "not_found")
    assert (await operator.ask("POST", "/attesters", trusted)).status == 201
    assert [item["name"] for item in (await operator.get("/attesters"))["items"]] == ["ci"]
    assert await events("attester.") == ["attester.changed.v1"] * 3


# Channels


async def test_channels_are_ordered_by_stability_page_by_page(operator, app):
    """By position, whatever they were added in; positions follow from names."""
    for name in ("lts", "stable", "alpha", "beta", "mine"):
        await operator.post("/channels", {"application": "os", "name": name, "arch": "x86_64"})
    page = await operator.get("/channels", limit=2)
    names = [item["name"] for item in page["items"]]
    while page["next"]:
        page = await operator.get("/channels", limit=2, cursor=page["next"])
        names += [item["name"] for item in page["items"]]
    assert names == ["alpha", "beta", "stable", "mine", "lts"]
    assert [item["position"] for item in (await operator.get("/channels"))["items"]] == [0, 1, 2, 2, 3]


async def test_a_channels_settings(operator, app, events):
    """Position and demands change, with an event, once; adding it again with others is a conflict."""
    asked = {"application": "os", "name": "beta", "arch": "x86_64", "required_attestations": ["net", "net"]}
    channel = await operator.post("/channels", asked)
    assert (channel["position"], channel["required_attestations"]) == (1, ["net"])
    assert (await operator.ask("POST", "/channels", asked)).status == 200
    (await operator.ask("POST", "/channels", asked | {"position": 5})).refused(409, "conflict")
    path = f"/channels/{channel['channel_id']}"
    changed = (await operator.ask("PATCH", path, {"position": 4, "required_attestations": []})).ok()
    assert (changed["position"], changed["required_attestations"]) == (4, [])
    (await operator.ask("PATCH", path, {"position": 4})).ok()
    assert await events("policy.") == ["policy.changed.v1"]
    (await operator.ask("PATCH", f"/channels/{UNKNOWN}", {"position": 1})).refused(404, "not_found")


async def test_a_promotion_needs_what_the_channel_demands(operator, app, someone, pool):
    """Missing attestations are named; an approver overrides with a reason; an operator's override needs an approval."""
    changeset_id, channel_id = await operator.changeset("2.0.0"), await operator.channel()
    await operator.group()
    path = f"/channels/{channel_id}"
    (await operator.ask("PATCH", path, {"required_attestations": ["kubernetes", "net"]})).ok()
    await attest(operator, changeset_id, b"not ok 1\n", "text/tap", name="kubernetes")
    refused = await operator.ask("POST", f"{path}/promote", {"changeset": changeset_id})
    detail = refused.refused(409, "conflict")
    assert "kubernetes (failed), net (none)" in detail
    assert "--override-reason" in detail
    assert refused.body["missing"] == [{"name": "kubernetes", "verdict": "failed"}, {"name": "net", "verdict": None}]
    assert (await operator.get(path))["version"] is None

    asked = {"changeset": changeset_id, "override_reason": "the lab is down", "reason": "security fix"}
    alone = await (await someone(Role.OPERATOR)).ask("POST", f"{path}/promote", asked)
    assert (alone.status, alone.body["action"]) == (202, "override_attestations")
    assert (await operator.get(path))["version"] is None
    await (await someone(Role.APPROVER)).post(f"{path}/promote", asked)
    (entry,) = (await operator.get(f"{path}/history"))["items"]
    assert {name: entry[name] for name in ("kind", "promoted_by", "reason", "override_reason", "approved_by")} == {
        "kind": "promote",
        "promoted_by": "some approver",
        "reason": "security fix",
        "override_reason": "the lab is down",
        "approved_by": "some approver",
    }
    told = await pool.fetchval("SELECT data FROM event_log.inbox WHERE type = 'channel.promoted.v1'")
    assert (told["override_reason"], told["approved_by"]) == ("the lab is down", "some approver")


async def test_an_operators_override_is_allowed_by_somebody_else(operator, app, someone):
    """Asked for, approved, repeated with the approval: the history names both; one approval is for all of it."""
    changeset_id, channel_id = await operator.changeset("2.0.0"), await operator.channel()
    await operator.group(policy={"four_eyes": ["promote"]})
    (await operator.ask("PATCH", f"/channels/{channel_id}", {"required_attestations": ["net"]})).ok()
    asking, path = await someone(Role.OPERATOR), f"/channels/{channel_id}/promote"
    asked = {"changeset": changeset_id, "override_reason": "the lab is down"}
    approval = (await asking.ask("POST", path, asked)).body["approval_id"]
    await (await someone(Role.APPROVER)).post(f"/approvals/{approval}/approve", {"reason": "seen"})
    done = await asking.ask("POST", path, asked, headers={"Uneventful-Approval": approval})
    assert len(done.ok()["rollouts"]) == 1
    (entry,) = (await operator.get(f"/channels/{channel_id}/history"))["items"]
    assert (entry["promoted_by"], entry["approved_by"]) == ("some operator", "some approver")


async def test_with_its_attestations_a_changeset_is_promoted(operator, app):
    """No override is recorded where none was needed."""
    changeset_id, channel_id = await operator.changeset("2.0.0"), await operator.channel()
    (await operator.ask("PATCH", f"/channels/{channel_id}", {"required_attestations": ["net"]})).ok()
    await attest(operator, changeset_id, OK_TAP, "text/tap", name="net")
    await operator.post(f"/channels/{channel_id}/promote", {"changeset": changeset_id, "override_reason": "in vain"})
    (entry,) = (await operator.get(f"/channels/{channel_id}/history"))["items"]
    assert (entry["override_reason"], entry["approved_by"]) == (None, None)


async def test_a_version_that_is_less_stable_than_the_channel(operator, app):
    """Refused by its scheme, unless it is forced with a reason."""
    beta = await operator.changeset("3975.1.0")
    channel = await operator.post("/channels", {"application": "os", "name": "stable", "arch": "x86_64"})
    path = f"/channels/{channel['channel_id']}/promote"
    assert "is beta by its scheme" in (await operator.ask("POST", path, {"changeset": beta})).refused(409, "conflict")
    half = await operator.ask("POST", path, {"changeset": beta, "override_reason": "we know"})
    assert "--force-scheme" in half.refused(409, "conflict")
    await operator.post(path, {"changeset": beta, "override_reason": "we know", "force_scheme": True})


async def test_a_channel_goes_back(operator, app, events):
    """To the changeset before, passing over what is halted or withdrawn; not forth again; then nothing is left."""
    channel_id = await operator.channel()
    await operator.group()
    path = f"/channels/{channel_id}"
    empty = await operator.ask("POST", f"{path}/rollback", {"reason": "x"})
    assert "nothing else was promoted" in empty.refused(409, "conflict")
    ids = [await operator.changeset(f"{number}.0.0") for number in range(1, 5)]
    for changeset_id in ids:
        await operator.promote(channel_id, changeset_id)
    await operator.post(f"/changesets/{ids[2]}/withdraw", {"reason": "bad"})
    back = await operator.post(f"{path}/rollback", {"reason": "4 is slow"})
    assert (back["channel"]["version"], len(back["rollouts"])) == ("2.0.0", 1)
    entry = (await operator.get(f"{path}/history"))["items"][0]
    assert (entry["kind"], entry["reason"], entry["version"]) == ("rollback", "4 is slow", "2.0.0")
    await operator.post(f"/changesets/{ids[0]}/halt", {"reason": "old"})
    refused = await operator.ask("POST", f"{path}/rollback", {"reason": "more"})
    assert "1.0.0 is halted" in refused.refused(409, "conflict")
    assert (await events("channel."))[-1] == "channel.promoted.v1"
    (await operator.ask("POST", f"/channels/{UNKNOWN}/rollback", {"reason": "x"})).refused(404, "not_found")


async def test_promotions_halts_and_withdrawals_at_once_leave_nothing_running_that_is_stopped(operator, app, pool):
    """Whoever comes first: a halted or withdrawn changeset has no rollout that goes on, and the history is the way."""
    channel_id = await operator.channel()
    for number in range(3):
        await operator.group(f"g{number}")
    ids = [await operator.changeset(f"{number}.0.0") for number in range(1, 7)]
    promote = f"/channels/{channel_id}/promote"
    answers = await asyncio.gather(
        *(operator.ask("POST", promote, {"changeset": changeset_id}) for changeset_id in ids),
        operator.ask("POST", f"/changesets/{ids[1]}/halt", {"reason": "bad"}),
        operator.ask("POST", f"/changesets/{ids[3]}/withdraw", {"reason": "worse"}),
        operator.ask("POST", f"/changesets/{ids[5]}/withdraw", {"reason": "worst"}),
    )
    assert {answer.status for answer in answers} <= {200, 409}
    going = await pool.fetch(
        """SELECT o.group_id, o.changeset_id FROM control.rollouts o JOIN control.changeset_gates g USING (changeset_id)
            WHERE o.state NOT IN ('halted', 'aborted', 'superseded') AND g.state <> 'open'"""
    )
    assert going == []
    active = await pool.fetch(
        "SELECT group_id FROM control.rollouts WHERE state NOT IN ('completed', 'aborted', 'superseded')"
    )
    assert len(active) == len({row["group_id"] for row in active})
    pointed = (await operator.get(f"/channels/{channel_id}"))["version"]
    history = (await operator.get(f"/channels/{channel_id}/history"))["items"]
    assert history[0]["version"] == pointed
    assert len(history) == sum(answer.status == 200 for answer in answers[:6])


async def test_what_new_nodes_boot(signing, app, pool):
    """What a rollout has proven, with the URLs of its payloads; nothing where nothing is fit to be booted."""
    channel_id = await signing.channel()
    path = f"/channels/{channel_id}/current"
    nothing = await signing.get(path)
    assert (nothing["image"], nothing["reason"]) == (None, "nothing was promoted to the channel yet")
    first, second = await signing.changeset("1.0.0"), await signing.changeset("2.0.0")
    await signing.group()
    (rollout_id,) = await signing.promote(channel_id, first)
    await pool.execute("UPDATE control.rollouts SET state = 'completed' WHERE rollout_id = $1", uuid.UUID(rollout_id))
    found = await signing.get(path)
    assert found["image"]["version"] == "1.0.0"
    (payload,) = found["image"]["payloads"]
    assert payload["url"] == f"http://distribution.example/payloads/{payload['sha256']}/update.gz"
    await signing.promote(channel_id, second)
    found = await signing.get(path)
    assert found["channel"]["version"] == "2.0.0"
    assert found["image"]["version"] == "1.0.0"
    assert "2.0.0, which is not rolled out yet" in found["reason"]
    for changeset_id in (first, second):
        await signing.post(f"/changesets/{changeset_id}/withdraw", {"reason": "x"})
    assert (await signing.get(path))["image"] is None
    (await signing.ask("GET", f"/channels/{UNKNOWN}/current")).refused(404, "not_found")


async def test_drift_is_counted(operator, app, fleet):
    """Nodes of the groups that follow it, of its arch, by how they stand to it; pinned groups do not follow."""
    changeset_id, channel_id = await operator.changeset("2.0.0"), await operator.channel()
    group_id = await operator.group()
    await operator.group("none")
    path = f"/channels/{channel_id}/drift"
    for number, version in enumerate(("2.0.0", "1.0.0", "1.0.0", "3.0.0", "what")):
        await fleet.node(f"m{number}", group_id, version)
    await fleet.node("other-arch", group_id, "1.0.0", arch="aarch64")
    assert (await operator.get(path))["unknown"] == 5
    await operator.promote(channel_id, changeset_id)
    found = await operator.get(path)
    counts = {name: found[name] for name in ("total", "on_target", "behind", "ahead", "unknown")}
    assert counts == {"total": 5, "on_target": 1, "behind": 2, "ahead": 1, "unknown": 1}
    assert [(group["group_name"], group["total"]) for group in found["groups"]] == [("all", 5), ("none", 0)]
    assert found["groups"][0]["versions"] == {"1.0.0": 2, "2.0.0": 1, "3.0.0": 1, "what": 1}
    (await operator.ask("GET", f"/channels/{UNKNOWN}/drift")).refused(404, "not_found")
