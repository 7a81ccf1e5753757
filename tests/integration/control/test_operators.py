"""Who may do what, about what, and how it is told: tokens, roles, scopes and the ledger's record of operators."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp.test_utils import TestServer

from services.control.__main__ import keep_token
from services.control.app import housekeep, make_app
from services.control.auth import TokenCheck
from services.control.settings import Settings
from services.control.tokens import Role
from services.distribution.app import make_app as make_distribution
from services.distribution.settings import Settings as DistributionSettings
from shared.clock import SystemClock
from shared.settings import Secret
from shared.testing.oidc import Issuer
from tests.integration.control.conftest import Operator

UNKNOWN = str(uuid.UUID(int=7))
BECAUSE = {"reason": "as planned"}


@pytest.fixture
def person(operator, operator_at):
    """Makes an operator with a token of some role."""

    async def make(name: str, role: str, **more):
        made = await operator.post("/tokens", {"name": name, "role": role, **more})
        return operator_at(operator.url, made["token"])

    return make


@pytest.fixture
def acted(pool):
    """The record of who did what, in its order."""

    async def read() -> list[dict]:
        rows = await pool.fetch("SELECT data FROM event_log.inbox WHERE type = 'operator.acted.v1' ORDER BY position")
        return [row["data"] for row in rows]

    return read


async def test_each_role_may_do_what_those_below_it_may(operator, app, person):
    """Viewers look, operators change, approvers decide, admins make tokens; who may not is told what it needs."""
    viewer, changer = await person("vera", "viewer"), await person("olaf", "operator")
    approver = await person("ana", "approver")
    for somebody in (viewer, changer, approver):
        assert len((await somebody.get("/applications"))["items"]) == 1
        assert "admin" in (await somebody.ask("GET", "/tokens")).refused(403, "not_permitted")
    new = {"application": "os", "name": "beta", "arch": "x86_64"}
    assert "operator" in (await viewer.ask("POST", "/channels", new)).refused(403, "not_permitted")
    assert (await changer.ask("POST", "/channels", new)).status == 201
    assert (await approver.ask("POST", "/channels", {**new, "name": "alpha"})).status == 201
    refused = await changer.ask("POST", f"/approvals/{UNKNOWN}/approve", BECAUSE)
    assert "approver" in refused.refused(403, "not_permitted")
    (await approver.ask("POST", f"/approvals/{UNKNOWN}/approve", BECAUSE)).refused(404, "not_found")


async def test_a_token_shows_its_secret_once(operator, person):
    """It is in the answer to its making and in no list; the same name is not given twice."""
    made = await operator.post("/tokens", {"name": "ci", "role": "operator"})
    assert made["token"].startswith("une_")
    listed = (await operator.get("/tokens"))["items"]
    assert [token["name"] for token in listed] == ["ci", "operator"]
    assert made["token"] not in str(listed)
    assert listed[0]["created_by"] == "operator"
    again = await operator.ask("POST", "/tokens", {"name": "ci", "role": "admin"})
    assert "rotate" in again.refused(409, "conflict")
    for header, query in [({"Idempotency-Key": "k"}, {}), ({}, {"dry_run": "true"})]:
        body = {"name": "other", "role": "viewer"}
        (await operator.ask("POST", "/tokens", body, headers=header, **query)).refused(400, "invalid_input")
    assert len((await operator.get("/tokens", limit=1))["items"]) == 1


async def test_a_revoked_token_is_refused_for_good(operator, person):
    """401 in clear words, a second time changes nothing, and it cannot be given a new secret."""
    guest = await person("guest", "viewer")
    await guest.get("/server")
    first = await operator.post("/tokens/guest/revoke", BECAUSE)
    assert "revoked" in (await guest.ask("GET", "/server")).refused(401, "not_authenticated")
    assert await operator.post("/tokens/guest/revoke", BECAUSE) == first
    assert "for good" in (await operator.ask("POST", "/tokens/guest/rotate", BECAUSE)).refused(409, "conflict")
    for verb in ("revoke", "rotate"):
        (await operator.ask("POST", f"/tokens/nobody/{verb}", BECAUSE)).refused(404, "not_found")


async def test_a_rotated_token_has_another_secret(operator, person, operator_at):
    """The old secret is worthless at once."""
    old = await person("ci", "viewer")
    rotated = await operator.post("/tokens/ci/rotate", BECAUSE)
    (await old.ask("GET", "/server")).refused(401, "not_authenticated")
    assert (await operator_at(operator.url, rotated["token"]).get("/server"))["principal"]["name"] == "ci"


async def test_an_expired_token_is_refused(operator, person, pool, operator_at):
    """It ends by itself, and lives on only with a new end; an end in the past is refused."""
    now = datetime.now(UTC)
    past = (now - timedelta(seconds=1)).isoformat()
    body = {"name": "late", "role": "viewer", "expires_at": past}
    (await operator.ask("POST", "/tokens", body)).refused(400, "invalid_input")
    short = await person("short", "viewer", expires_at=(now + timedelta(hours=1)).isoformat())
    await short.get("/server")
    await pool.execute("UPDATE control.tokens SET expires_at = now() - interval '1 s' WHERE name = 'short'")
    assert "expired" in (await short.ask("GET", "/server")).refused(401, "not_authenticated")
    (await operator.ask("POST", "/tokens/short/rotate", BECAUSE)).refused(400, "invalid_input")
    longer = {**BECAUSE, "expires_at": (now + timedelta(days=1)).isoformat()}
    rotated = await operator.post("/tokens/short/rotate", longer)
    await operator_at(operator.url, rotated["token"]).get("/server")


async def test_the_last_use_of_a_token_is_kept(operator, store, pool):
    """Once a minute, for all tokens that were used since; never set back."""
    clock = SystemClock()
    token = await keep_token_of(operator, "robot")
    check = TokenCheck(store.tokens.find, clock=clock, remember_s=0)
    await check.verify(token)
    await housekeep(store, check)
    used = await pool.fetchval("SELECT last_used_at FROM control.tokens WHERE name = 'robot'")
    assert abs((clock.now() - used).total_seconds()) < 60
    await store.tokens.note_used({"robot": used - timedelta(hours=1)})
    assert await pool.fetchval("SELECT last_used_at FROM control.tokens WHERE name = 'robot'") == used
    assert check.take_used() == {}


async def keep_token_of(operator, name: str) -> str:
    return (await operator.post("/tokens", {"name": name, "role": "viewer"}))["token"]


async def test_a_token_for_one_application_touches_no_other(operator, app, person, fleet):
    """By id, by reference, in lists and in bodies; and nothing that concerns all applications."""
    other = await operator.post("/applications", {"name": "other"})
    channel_id, group_id = await operator.channel(), await operator.group()
    theirs = await operator.channel(app="other")
    changeset_id = await operator.changeset("2.0.0")
    (rollout_id,) = await operator.promote(channel_id, changeset_id)
    node_id = await fleet.node("m1", group_id, "1.0.0")
    scoped = await person("scoped", "operator", applications=["os"])
    assert (await scoped.get("/server"))["principal"]["applications"] == [app["application_id"]]
    for path in (
        "/applications/os",
        f"/channels/{channel_id}",
        f"/groups/{group_id}",
        f"/changesets/{changeset_id}",
        f"/rollouts/{rollout_id}",
        f"/nodes/{node_id}",
    ):
        await scoped.get(path)
    assert len((await scoped.get("/channels", application="os"))["items"]) == 1
    await scoped.post("/channels", {"application": "os", "name": "beta", "arch": "x86_64"})
    for method, path, body, query in [
        ("GET", "/applications/other", None, {}),
        ("GET", f"/channels/{theirs}", None, {}),
        ("GET", "/channels", None, {"application": other["application_id"]}),
        ("POST", "/channels", {"application": "other", "name": "beta", "arch": "x86_64"}, {}),
        ("POST", f"/channels/{theirs}/promote", {"changeset": changeset_id}, {}),
    ]:
        refused = await scoped.ask(method, path, body, **query)
        assert "other applications" in refused.refused(403, "not_permitted")
    assert "say which one" in (await scoped.ask("GET", "/channels")).refused(403, "not_permitted")
    for method, path, body in [
        ("GET", "/applications", None),
        ("GET", "/events", None),
        ("POST", "/applications", {"name": "third"}),
        ("POST", "/halt", BECAUSE),
    ]:
        assert "all of them" in (await scoped.ask(method, path, body)).refused(403, "not_permitted")
    (await scoped.ask("GET", f"/channels/{UNKNOWN}")).refused(404, "not_found")
    (await scoped.ask("GET", "/channels/nonsense")).refused(400, "invalid_input")
    (await operator.ask("POST", "/tokens", {"name": "x", "applications": ["none"]})).refused(404, "not_found")


async def test_every_change_is_recorded_once(operator, app, acted, person):
    """Who, with which role, what, about what, why and from where; what changed nothing is not recorded."""
    assert [record["action"] for record in await acted()] == ["POST /api/v1/applications"]
    assert (await acted())[0]["subject"] == f"applications/{app['application_id']}"
    olaf = await person("olaf", "operator")
    channel_id, group_id = await olaf.channel(), await olaf.group()
    await olaf.ask("PATCH", f"/groups/{group_id}", {"updates_enabled": False})
    changeset_id = await olaf.changeset("2.0.0")
    await olaf.post(f"/channels/{channel_id}/promote", {"changeset": changeset_id, "reason": "it is time"})
    records = await acted()
    assert [(record["action"].removeprefix("POST /api/v1"), record["subject"]) for record in records[1:]] == [
        ("/tokens", "tokens/olaf"),
        ("/channels", f"channels/{channel_id}"),
        ("/groups", f"groups/{group_id}"),
        ("PATCH /api/v1/groups/{id}", f"groups/{group_id}"),
        ("/changesets", f"changesets/{changeset_id}"),
        ("/changesets/{id}/payloads", f"changesets/{changeset_id}"),
        ("/changesets/{id}/publish", f"changesets/{changeset_id}"),
        ("/channels/{id}/promote", f"channels/{channel_id}"),
    ]
    last = records[-1]
    assert (last["by"], last["role"], last["reason"], last["address"]) == (
        "olaf",
        "operator",
        "it is time",
        "127.0.0.1",
    )
    answer = await olaf.ask("POST", f"/channels/{channel_id}/promote", {"changeset": changeset_id})
    assert answer.headers["Uneventful-Request"] != last["request_id"]
    await olaf.channel()
    await olaf.ask("PATCH", f"/groups/{group_id}", {"updates_enabled": False})
    await olaf.ask("PATCH", f"/groups/{UNKNOWN}", {"updates_enabled": False})
    await olaf.ask("POST", "/channels", {"application": "os"})
    await olaf.ask("PATCH", f"/groups/{group_id}", {"updates_enabled": True}, dry_run="true")
    assert await acted() == records


async def test_an_unknown_name_in_a_query_is_refused(operator, app):
    """A filter that is misspelt must not look like one that matches everything; nor a dry run that is none."""
    (await operator.ask("GET", "/server", verbose="true")).refused(400, "invalid_input")
    halt = await operator.ask("POST", "/halt", BECAUSE, dryrun="true")
    assert "dry_run" in halt.refused(400, "invalid_input")
    assert "dry_run" in (await operator.ask("POST", "/halt", BECAUSE, dry_run="maybe")).refused(400, "invalid_input")
    assert (await operator.get("/halt"))["open"] is True


async def test_the_first_token_is_made_on_the_server(database_url, operator_at, control):
    """Without any token, and again where it was lost."""
    token = await keep_token(database_url, name="root", role=Role.ADMIN)
    assert (await operator_at(control.url, token).get("/server"))["principal"]["role"] == "admin"
    other = await keep_token(database_url, name="root", role=Role.APPROVER, replace=True)
    (await operator_at(control.url, token).ask("GET", "/server")).refused(401, "not_authenticated")
    assert (await operator_at(control.url, other).get("/server"))["principal"]["role"] == "approver"


async def test_an_issuers_operators_are_let_in(database_url, operator, app, acted, tmp_path):
    """By control and by distribution, beside our own tokens; the ledger has their name; a forged one is refused."""
    issuer = Issuer()
    issuing = await issuer.start()
    told = {"database_url": Secret(database_url), "oidc_issuer": issuer.url}
    control = TestServer(make_app(Settings(**told)))
    distribution = TestServer(make_distribution(DistributionSettings(**told, store_dir=str(tmp_path / "store"))))
    try:
        for server in (control, distribution):
            await server.start_server(access_log=None)
        url = str(control.make_url("")).rstrip("/")
        olaf = Operator(operator.session, url, issuer.token(roles=["uneventful-operator"]))
        assert (await olaf.get("/server"))["principal"]["name"] == "oidc:ana"
        channel_id = await olaf.channel()
        assert (await acted())[-1] | {"address": "", "request_id": ""} == {
            "by": "oidc:ana",
            "role": "operator",
            "action": "POST /api/v1/channels",
            "subject": f"channels/{channel_id}",
            "address": "",
            "request_id": "",
        }
        (await olaf.ask("GET", "/tokens")).refused(403, "not_permitted")
        await Operator(operator.session, url, operator.token).get("/tokens")
        digest = hashlib.sha256(b"payload").hexdigest()
        url = str(distribution.make_url(f"/payloads/{digest}"))
        for token, status in ((olaf.token, 201), (operator.token, 200), (issuer.token(aud="x"), 401)):
            headers = {"Authorization": f"Bearer {token}"}
            async with olaf.session.put(url, data=b"payload", headers=headers) as answer:
                assert answer.status == status
    finally:
        for server in (control, distribution, issuing):
            await server.close()
