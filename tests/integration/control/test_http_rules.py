"""What holds for every operation: conditions, idempotency keys, dry runs, and four eyes."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from services.control.store.idempotency import GIVEN_UP_AFTER, KEPT_FOR

UNKNOWN = str(uuid.UUID(int=7))
BECAUSE = {"reason": "as planned"}


@pytest.fixture
async def people(operator, operator_at):
    """An operator and two approvers."""
    found = {}
    for name, role in (("olaf", "operator"), ("ana", "approver"), ("bob", "approver")):
        made = await operator.post("/tokens", {"name": name, "role": role})
        found[name] = operator_at(operator.url, made["token"])
    return found


# Conditions


async def test_what_the_caller_has_already_is_not_sent_again(operator, app):
    """One ETag for the same answer; 304 where If-None-Match holds it, strongly or weakly."""
    await operator.channel()
    group_id = await operator.group()
    for path in (f"/groups/{group_id}", "/groups", "/halt", "/server"):
        answer = await operator.ask("GET", path)
        etag = answer.headers["ETag"]
        for given in (etag, f'"other", {etag}', f"W/{etag}", "*"):
            again = await operator.ask("GET", path, headers={"If-None-Match": given})
            assert (again.status, again.body, again.headers["ETag"]) == (304, None, etag)
        assert (await operator.ask("GET", path, headers={"If-None-Match": '"other"'})).body == answer.body
    (await operator.ask("GET", "/groups", headers={"If-None-Match": "bare"})).refused(400, "invalid_input")


async def test_a_change_is_refused_where_it_changed_since(operator, app):
    """If-Match with an old ETag: 412, and nothing is changed; the answer to a change has the new ETag."""
    await operator.channel()
    group_id = await operator.group()
    path = f"/groups/{group_id}"
    etag = (await operator.ask("GET", path)).headers["ETag"]
    off = await operator.ask("PATCH", path, {"updates_enabled": False}, headers={"If-Match": etag})
    assert off.status == 200
    refused = await operator.ask("PATCH", path, {"updates_enabled": True}, headers={"If-Match": etag})
    assert "changed since" in refused.refused(412, "precondition_failed")
    assert refused.body["etag"] == off.headers["ETag"] == (await operator.ask("GET", path)).headers["ETag"]
    weak = await operator.ask(
        "PATCH", path, {"updates_enabled": True}, headers={"If-Match": f"W/{off.headers['ETag']}"}
    )
    weak.refused(412, "precondition_failed")
    both = {"If-Match": f'"x", {off.headers["ETag"]}'}
    assert (await operator.ask("PATCH", path, {"updates_enabled": True}, headers=both)).ok()["updates_enabled"] is True


async def test_conditions_go_with_operations_on_what_is_there(operator, app):
    """On a halt, a promotion, a move; on nothing that makes something, and not on what is not there."""
    channel_id, changeset_id = await operator.channel(), await operator.changeset("2.0.0")
    path, body = f"/channels/{channel_id}/promote", {"changeset": changeset_id}
    (await operator.ask("POST", path, body, headers={"If-Match": '"old"'})).refused(412, "precondition_failed")
    assert (await operator.get(f"/channels/{channel_id}"))["changeset_id"] is None
    (await operator.ask("POST", path, body, headers={"If-Match": "*"})).ok()
    etag = (await operator.ask("GET", "/halt")).headers["ETag"]
    (await operator.ask("POST", "/halt", BECAUSE, headers={"If-Match": etag})).ok()
    (await operator.ask("POST", "/halt", BECAUSE, headers={"If-Match": etag})).refused(412, "precondition_failed")
    missing = await operator.ask("POST", f"/channels/{UNKNOWN}/promote", body, headers={"If-Match": "*"})
    missing.refused(412, "precondition_failed")
    new = {"application": "os", "name": "beta", "arch": "x86_64"}
    (await operator.ask("POST", "/channels", new, headers={"If-Match": "*"})).refused(400, "invalid_input")
    (await operator.ask("POST", "/channels", new, headers={"If-None-Match": "*"})).refused(400, "invalid_input")


async def test_of_two_changes_on_the_same_sight_one_is_made(operator, app):
    """At once, and on whatever replica: the second one sees what the first one did."""
    await operator.channel()
    path = f"/groups/{await operator.group()}"
    headers = {"If-Match": (await operator.ask("GET", path)).headers["ETag"]}
    answers = await asyncio.gather(
        *(operator.ask("PATCH", path, {"policy": {"max_attempts": n}}, headers=headers) for n in range(2, 8))
    )
    assert sorted(answer.status for answer in answers) == [200, 412, 412, 412, 412, 412]


# Idempotency keys


async def test_a_request_that_is_sent_again_is_answered_again(operator, app, events):
    """The same answer and no second change; another request with the key is refused; keys are each person's own."""
    channel_id, changeset_id = await operator.channel(), await operator.changeset("2.0.0")
    await operator.group()
    path, body, key = f"/channels/{channel_id}/promote", {"changeset": changeset_id}, {"Idempotency-Key": "once"}
    first = await operator.ask("POST", path, body, headers=key)
    assert "Idempotency-Replayed" not in first.headers
    told = await events("")
    again = await operator.ask("POST", path, body, headers=key)
    assert (again.status, again.body, again.headers["Idempotency-Replayed"]) == (200, first.body, "true")
    assert len(again.body["rollouts"]) == 1
    assert await events("") == told
    other = await operator.ask("POST", path, {"changeset": UNKNOWN}, headers=key)
    assert "another request" in other.refused(422, "unprocessable")
    (await operator.ask("POST", path, body, headers={"Idempotency-Key": "x" * 129})).refused(400, "invalid_input")
    made = await operator.ask("POST", "/applications", {"name": "new"}, headers={"Idempotency-Key": "made"})
    again = await operator.ask("POST", "/applications", {"name": "new"}, headers={"Idempotency-Key": "made"})
    assert (made.status, again.status, again.body) == (201, 201, made.body)


async def test_what_was_refused_may_be_tried_again_with_its_key(operator, app):
    """A key whose request changed nothing stands for nothing."""
    key = {"Idempotency-Key": "try"}
    body = {"application": "late", "name": "beta", "arch": "x86_64"}
    (await operator.ask("POST", "/channels", body, headers=key)).refused(404, "not_found")
    await operator.post("/applications", {"name": "late"})
    assert (await operator.ask("POST", "/channels", body, headers=key)).status == 201


async def test_a_key_under_way_is_told(operator, app, pool, store):
    """409 until it is answered; given up after minutes where nothing was changed, never where something was."""
    new = {"name": "slow"}
    await operator.ask("POST", "/applications", new, headers={"Idempotency-Key": "k"})
    await pool.execute("UPDATE control.idempotency_keys SET status = NULL, body = NULL")
    waiting = await operator.ask("POST", "/applications", new, headers={"Idempotency-Key": "k"})
    assert "under way" in waiting.refused(409, "conflict")
    assert waiting.headers["Retry-After"] == "1"
    await pool.execute("UPDATE control.idempotency_keys SET status = 0")
    lost = await operator.ask("POST", "/applications", new, headers={"Idempotency-Key": "k"})
    assert "answer was lost" in lost.refused(409, "conflict")
    await pool.execute(
        "UPDATE control.idempotency_keys SET status = NULL, used_at = used_at - $1::interval", GIVEN_UP_AFTER
    )
    assert (await operator.ask("POST", "/applications", new, headers={"Idempotency-Key": "k"})).status == 200
    assert await store.idempotency.sweep() == 0
    await pool.execute("UPDATE control.idempotency_keys SET used_at = used_at - $1::interval", KEPT_FOR)
    assert await store.idempotency.sweep() == 1


async def test_a_key_is_done_with_its_change(operator, app, pool, store, monkeypatch):
    """Where the process ends between the change and the answer, a retry does not do it twice."""

    async def ended(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(store.idempotency, "keep", ended)
    (await operator.ask("POST", "/applications", {"name": "new"}, headers={"Idempotency-Key": "k"})).refused(
        503, "unavailable"
    )
    monkeypatch.undo()
    again = await operator.ask("POST", "/applications", {"name": "new"}, headers={"Idempotency-Key": "k"})
    assert "answer was lost" in again.refused(409, "conflict")
    assert await pool.fetchval("SELECT count(*) FROM control.applications WHERE name = 'new'") == 1


async def test_the_same_at_once_is_done_once(operator, app, pool):
    """Six requests with one key: one is made, the others wait or get its answer."""
    channel_id, changeset_id = await operator.channel(), await operator.changeset("2.0.0")
    await operator.group()
    answers = await asyncio.gather(
        *(
            operator.ask(
                "POST",
                f"/channels/{channel_id}/promote",
                {"changeset": changeset_id},
                headers={"Idempotency-Key": "k"},
            )
            for _ in range(6)
        )
    )
    good = [answer.body for answer in answers if answer.status == 200]
    assert {answer.status for answer in answers} <= {200, 409}
    assert good
    assert all(body == good[0] for body in good)
    assert len(good[0]["rollouts"]) == 1


# Dry runs


async def test_a_dry_run_changes_nothing(operator, app, pool, events):
    """The answer is what it would be, with the events that would be told; the database is as it was."""
    channel_id, changeset_id = await operator.channel(), await operator.changeset("2.0.0")
    group_id = await operator.group()
    before = await events("")
    path, body = f"/channels/{channel_id}/promote", {"changeset": changeset_id}
    dry = (await operator.ask("POST", path, body, headers={"Idempotency-Key": "k"}, dry_run="true")).ok()
    assert dry["dry_run"] is True
    assert dry["channel"]["changeset_id"] == changeset_id
    assert [told["type"] for told in dry["would"]] == [
        "channel.promoted.v1",
        "rollout.created.v1",
        "rollout.started.v1",
    ]
    assert dry["would"][0]["subject"] == f"channels/{channel_id}"
    assert (await operator.get(f"/channels/{channel_id}"))["changeset_id"] is None
    assert (await operator.get("/rollouts"))["items"] == []
    made = await operator.ask("POST", "/applications", {"name": "new"}, dry_run="1")
    assert made.body["name"] == "new"
    assert (await operator.get("/applications"))["items"] == [app]
    changed = (await operator.ask("PATCH", f"/groups/{group_id}", {"updates_enabled": False}, dry_run="true")).ok()
    assert changed["dry_run"] is True
    assert (await operator.get(f"/groups/{group_id}"))["updates_enabled"] is True
    assert await events("") == before
    assert await pool.fetchval("SELECT count(*) FROM control.idempotency_keys") == 0
    assert "dry_run" not in (await operator.ask("POST", path, body, headers={"Idempotency-Key": "k"})).ok()


async def test_a_dry_run_is_refused_as_the_real_one(operator, app):
    """What could not be done cannot be tried either."""
    channel_id = await operator.channel()
    body = {"changeset": UNKNOWN}
    (await operator.ask("POST", f"/channels/{channel_id}/promote", body, dry_run="true")).refused(404, "not_found")


# Four eyes


async def test_what_needs_four_eyes_waits_for_another_one(operator, app, people, events, pool):
    """202 with the approval; another approver allows it; the same request with it is done, once."""
    channel_id, changeset_id = await operator.channel(), await operator.changeset("2.0.0")
    await operator.group(policy={"four_eyes": ["promote"]})
    olaf, ana = people["olaf"], people["ana"]
    path, body = f"/channels/{channel_id}/promote", {"changeset": changeset_id, "reason": "fixes"}
    told = await events()
    asked = await olaf.ask("POST", path, body, headers={"Idempotency-Key": "k"})
    assert asked.status == 202
    approval_id = asked.body["approval_id"]
    assert (asked.body["state"], asked.body["action"], asked.body["asked_by"]) == ("open", "promote", "olaf")
    assert asked.headers["Location"] == f"/api/v1/approvals/{approval_id}"
    assert await events() == [*told, "approval.asked.v1"]
    assert (await olaf.ask("POST", path, body)).body["approval_id"] == approval_id
    assert (await operator.get(f"/channels/{channel_id}"))["changeset_id"] is None
    assert [item["approval_id"] for item in (await ana.get("/approvals", state="open"))["items"]] == [approval_id]
    with_it = {"Uneventful-Approval": approval_id}
    assert "not decided" in (await olaf.ask("POST", path, body, headers=with_it)).refused(409, "conflict")
    approved = await ana.post(f"/approvals/{approval_id}/approve", {"reason": "seen"})
    assert (approved["state"], approved["decided_by"], approved["decision_reason"]) == ("approved", "ana", "seen")
    (await people["bob"].ask("POST", f"/approvals/{approval_id}/refuse", BECAUSE)).refused(409, "conflict")
    other = {**body, "reason": "other words"}
    assert "other content" in (await olaf.ask("POST", path, other, headers=with_it)).refused(409, "conflict")
    assert "asked for by olaf" in (await ana.ask("POST", path, body, headers=with_it)).refused(409, "conflict")
    done = await olaf.ask("POST", path, body, headers={**with_it, "Idempotency-Key": "k2"})
    assert len(done.ok()["rollouts"]) == 1
    assert (await ana.get(f"/approvals/{approval_id}"))["state"] == "used"
    assert "used already" in (await olaf.ask("POST", path, body, headers=with_it)).refused(409, "conflict")
    replayed = await olaf.ask("POST", path, body, headers={**with_it, "Idempotency-Key": "k2"})
    assert replayed.body == done.body
    acted = await pool.fetch("SELECT data FROM event_log.inbox WHERE type = 'operator.acted.v1' ORDER BY position")
    assert [row["data"]["by"] for row in acted[-3:]] == ["olaf", "ana", "olaf"]


async def test_nobody_decides_what_they_asked_for(operator, app, people, pool):
    """Not even an approver; a refusal ends it, and so does time."""
    channel_id, changeset_id = await operator.channel(), await operator.changeset("2.0.0")
    await operator.group(policy={"four_eyes": ["promote"]})
    path, body = f"/channels/{channel_id}/promote", {"changeset": changeset_id}
    ana, bob = people["ana"], people["bob"]
    approval_id = (await ana.ask("POST", path, body)).body["approval_id"]
    mine = await ana.ask("POST", f"/approvals/{approval_id}/approve", BECAUSE)
    assert "yourself" in mine.refused(409, "conflict")
    await bob.post(f"/approvals/{approval_id}/refuse", {"reason": "too early"})
    with_it = {"Uneventful-Approval": approval_id}
    assert "refused" in (await ana.ask("POST", path, body, headers=with_it)).refused(409, "conflict")
    second = (await ana.ask("POST", path, body)).body["approval_id"]
    assert second != approval_id
    await bob.post(f"/approvals/{second}/approve", BECAUSE)
    await pool.execute("UPDATE control.approvals SET expires_at = now() - interval '1 s'")
    assert (await ana.get("/approvals", state="expired"))["items"][0]["approval_id"] == second
    late = await ana.ask("POST", path, body, headers={"Uneventful-Approval": second})
    assert "expired" in late.refused(409, "conflict")
    (await ana.ask("POST", path, body, headers={"Uneventful-Approval": UNKNOWN})).refused(409, "conflict")
    (await ana.ask("POST", path, body, headers={"Uneventful-Approval": "x"})).refused(400, "invalid_input")
    dry = (await ana.ask("POST", path, body, dry_run="true")).ok()
    assert dry["would"][0]["type"] == "approval.asked.v1"


# Lists


@pytest.mark.parametrize("order", [None, "asc", "desc"])
@pytest.mark.parametrize(
    "sorted_list",
    [
        ("/applications", ("created", "name"), "application_id"),
        ("/changesets", ("created", "published", "version"), "changeset_id"),
        ("/channels", ("position", "name", "changed"), "channel_id"),
        ("/groups", ("created", "name", "position"), "group_id"),
        ("/rollouts", ("created", "changed", "group"), "rollout_id"),
    ],
)
async def test_pages_of_a_sorted_list_neither_overlap_nor_skip(operator, world, sorted_list, order):
    """Whatever it is sorted by, in either direction, with equal keys: page by page it is the same list."""
    path, sorts, key = sorted_list
    for sort in sorts:
        asked = {"sort": sort} | ({} if order is None else {"order": order})
        whole = (await operator.get(path, **asked))["items"]
        assert len(whole) > 2
        found, cursor = [], None
        while True:
            page = await operator.get(path, **asked, limit=2, **({} if cursor is None else {"cursor": cursor}))
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                break
        assert [item[key] for item in found] == [item[key] for item in whole]
        member = {"created": "created_at", "published": "published_at", "changed": "changed_at", "group": "group_name"}
        values = [item[member.get(sort, sort)] or "" for item in whole]
        if order is not None:
            assert values == sorted(values, reverse=order == "desc")


@pytest.fixture
async def world(operator):
    """Some of everything, with equal names, positions and times among them."""
    for app in ("os", "more", "Zulu", "abc"):
        await operator.post("/applications", {"name": app})
    for app in ("os", "more"):
        for name in ("stable", "beta"):
            channel_id = await operator.channel(name, app=app)
            await operator.group(f"{name}-nodes", app=app, channel=name)
            changeset_id = await operator.changeset("2.0.0" if name == "stable" else "10.0.0", app=app)
            await operator.promote(channel_id, changeset_id)
        await operator.changeset("3.0.0", app=app, publish=False)


async def test_a_cursor_that_was_not_given_out_is_refused(operator, app):
    """400, not an empty page, which would look like the end."""
    for cursor in ("nonsense", UNKNOWN[:-1], f"{'-' * 36}", f"{UNKNOWN}~A", f"{UNKNOWN}~_w", f"{UNKNOWN}~AA"):
        (await operator.ask("GET", "/groups", cursor=cursor)).refused(400, "invalid_input")
    (await operator.ask("GET", "/groups", sort="colour")).refused(400, "invalid_input")
    assert (await operator.get("/rollouts", application="os"))["items"] == []


async def test_a_dry_run_of_a_move_shows_what_it_would_be(operator, app, fleet):
    """Of a rollout, too: as it would be after the move, and as it is afterwards; a drill would be another one."""
    channel_id, changeset_id = await operator.channel(), await operator.changeset("2.0.0")
    group_id = await operator.group()
    node_id = await fleet.node("m1", group_id, "1.0.0")
    (rollout_id,) = await operator.promote(channel_id, changeset_id)
    path = f"/rollouts/{rollout_id}"
    for move, member, value in [
        ("pause", "state", "paused"),
        ("abort", "state", "aborted"),
        ("cap", "pace_cap", 3),
        ("exclude", "state", "running"),
    ]:
        body = BECAUSE | {"cap": {"pace": 3}, "exclude": {"node": str(node_id)}}.get(move, {})
        dry = (await operator.ask("POST", f"{path}/{move}", body, dry_run="true")).ok()
        assert dry[member] == value, move
        assert dry["would"], move
        assert (await operator.get(path))["state"] == "running"
    assert (await operator.get(path))["pace_cap"] is None
