"""The pure rules of every request: roles, scopes, conditions, keys, approvals, pages, and from where it came."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.approving import ApprovalState, Ask, check_decidable, check_usable, needs_approval, state_of
from services.control.listing import SORT_KEY, SortOrder, cursor_of, place_of
from services.control.request_rules import (
    answers_with,
    approval_of,
    check_query_names,
    check_role,
    dry_run_of,
    etag_of,
    fingerprint,
    key_of,
    tagged_path,
    tags_of,
    target_of,
    told_of,
)
from services.control.requests import GroupsQuery
from services.control.requests.groups import GroupSort
from services.control.scoping import ByReference, ByThing, Everything, Unnamed, check_scope, concern_of
from services.control.tokens import KnownToken, principal_of
from shared.domain.policy import Action
from shared.errors import Conflict, InvalidInput, NotAuthenticated, NotPermitted
from shared.web import Principal, Role, client_address

NOW = datetime(2026, 3, 1, tzinfo=UTC)
API = "/api/v1"


@given(st.sampled_from(Role), st.sampled_from(Role))
def test_a_role_covers_those_below_it(has, needs):
    """And no other."""
    order = ["viewer", "operator", "approver", "admin"]
    if order.index(has) >= order.index(needs):
        check_role(Principal("ana", has), needs)
    else:
        with pytest.raises(NotPermitted, match=needs):
            check_role(Principal("ana", has), needs)


@pytest.mark.parametrize(
    ("token", "word"),
    [
        ({"revoked_at": NOW}, "revoked"),
        ({"expires_at": NOW}, "expired"),
        ({"expires_at": NOW + timedelta(seconds=1)}, None),
        ({}, None),
    ],
)
def test_a_token_is_good_until_it_is_revoked_or_expires(token, word):
    """To the second, and the message says which."""
    known = KnownToken(name="ci", role=Role.VIEWER, applications=frozenset({"a"}), **token)
    if word is None:
        assert principal_of(known, NOW) == Principal("ci", Role.VIEWER, frozenset({"a"}))
    else:
        with pytest.raises(NotAuthenticated, match=word):
            principal_of(known, NOW)


# From where


@pytest.mark.parametrize(
    ("headers", "proxies", "address"),
    [
        ((), 0, "192.0.2.1"),
        (("198.51.100.7",), 0, "192.0.2.1"),
        (("198.51.100.7",), 1, "198.51.100.7"),
        (("10.9.9.9, 198.51.100.7", "10.0.0.2"), 2, "198.51.100.7"),
        (("[2001:db8::1]",), 1, "2001:db8::1"),
        ((), 1, "192.0.2.1"),
        (("198.51.100.7",), 2, "192.0.2.1"),
        (("anything",), 1, "192.0.2.1"),
        (("1.1.1.1," * 40,), 1, "192.0.2.1"),
    ],
)
def test_an_address_is_believed_as_far_as_proxies_are_ours(headers, proxies, address):
    """What a client writes into the header itself stands further left, and counts for nothing."""
    assert client_address("192.0.2.1", headers, proxies=proxies) == address


# About what


@pytest.mark.parametrize(
    ("template", "path", "target"),
    [
        ("/groups/{id}", "/groups/0193-x", "groups/0193-x"),
        ("/channels/{id}/promote", f"/channels/{uuid.UUID(int=10)!s}".upper().replace("CHANNELS", "channels"), None),
        ("/groups", "/groups", None),
        ("/groups/order", "/groups/order", None),
        ("/halt", "/halt", None),
    ],
)
def test_what_a_path_names(template, path, target):
    """As events name it, ids in lower case; a collection names nothing."""
    found = target_of(API + template, API + path, API)
    assert found == (target if template != "/channels/{id}/promote" else f"channels/{uuid.UUID(int=10)}")


LOOKS = {"/groups": "[Group]", "/groups/{id}": "Group", "/halt": "GlobalGate"}


@pytest.mark.parametrize(
    ("template", "place"),
    [
        ("/groups/{id}", "/groups/{id}"),
        ("/groups/{id}/drill/now", "/groups/{id}"),
        ("/halt", "/halt"),
        ("/groups", None),
        ("/unhalt", None),
    ],
)
def test_a_condition_is_about_the_nearest_thing_that_can_be_read(template, place):
    """Never about a list."""
    assert tagged_path(template, LOOKS) == place


def test_an_answer_of_the_target_has_its_tag():
    """Or, where a dry run answers otherwise, the target's name is its first part."""
    assert answers_with("Group", "Group")
    assert answers_with("GroupOrPreview", "Group")
    assert not answers_with("GroupPreview", "Group")


@pytest.mark.parametrize(
    ("template", "match", "application", "concern"),
    [
        ("/groups/{id}", {"id": "x"}, None, ByThing("groups", "x")),
        ("/groups/{id}/drill", {"id": "x"}, "os", ByThing("groups", "x")),
        ("/applications/{reference}", {"reference": "os"}, None, ByReference("os")),
        ("/events/{seq}", {"seq": "7"}, None, Everything()),
        ("/groups", {}, "os", ByReference("os")),
        ("/groups", {}, None, Unnamed()),
    ],
)
def test_which_application_a_request_is_about(template, match, application, concern):
    """By its path before anything else; what the path does not tell, the query or the body does."""
    assert concern_of(API + template, match, API, names_application=True, application=application) == concern
    if not template.count("{"):
        found = concern_of(API + template, match, API, names_application=False, application=application)
        assert found == Everything()


def test_a_token_for_all_applications_is_not_asked():
    """And one for some is refused what is another's, what is all of them, and what it does not say."""
    free, bound = Principal("ana", Role.ADMIN), Principal("ci", Role.ADMIN, frozenset({"a"}))
    for concern, whose in [(ByThing("groups", "x"), "b"), (Everything(), None), (Unnamed(), None)]:
        check_scope(free, concern, whose)
        with pytest.raises(NotPermitted):
            check_scope(bound, concern, whose)
    check_scope(bound, ByReference("os"), "a")
    check_scope(bound, ByReference("nowhere"), None)


# What is sent beside the body


def test_names_that_are_not_known_are_refused():
    """With those that are."""
    check_query_names(["limit"], frozenset({"limit", "cursor"}))
    with pytest.raises(InvalidInput, match="cursor, limit"):
        check_query_names(["limit", "limt"], frozenset({"limit", "cursor"}))
    with pytest.raises(InvalidInput, match="takes none"):
        check_query_names(["x"], frozenset())


@pytest.mark.parametrize(
    ("values", "dry"),
    [([], False), (["true"], True), (["1"], True), (["TRUE"], True), (["false"], False), (["0"], False)],
)
def test_a_dry_run_is_asked_for_in_so_many_words(values, dry):
    """Anything else is refused: it must not be taken for the real thing."""
    assert dry_run_of(values) is dry
    for wrong in (["yes"], [""], ["true", "true"]):
        with pytest.raises(InvalidInput):
            dry_run_of(wrong)


@given(st.text(max_size=140))
def test_a_key_is_printable_and_bounded(text):
    """1 to 128 ASCII characters, no blank at either end."""
    good = 1 <= len(text) <= 128 and text == text.strip(" ") and all(" " <= letter <= "~" for letter in text)
    if good:
        assert key_of(text) == text
    else:
        with pytest.raises(InvalidInput):
            key_of(text)


def test_an_approval_is_named_by_its_id():
    """Or not at all."""
    assert approval_of(None) is None
    assert approval_of(str(uuid.UUID(int=7))) == uuid.UUID(int=7)
    with pytest.raises(InvalidInput):
        approval_of("the one from yesterday")


@given(
    st.lists(
        st.tuples(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4), st.binary(max_size=4)), max_size=9
    )
)
def test_different_requests_have_different_fingerprints(requests):
    """Also where the same letters are cut elsewhere."""
    assert len({fingerprint(*request) for request in requests}) == len(set(requests))


@given(st.binary(max_size=64))
def test_a_tag_is_found_among_others(body):
    """Weakly for reading, strongly for changing; ``*`` is any."""
    etag = etag_of(body)
    for values, strong, weak in [
        ([etag], True, True),
        (['"x"', f'{etag} , "y"'], True, True),
        ([f"W/{etag}"], False, True),
        (['"x"'], False, False),
        (["*"], True, True),
    ]:
        tags = tags_of("If-Match", values)
        assert tags is not None
        assert (tags.match(etag, weakly=False), tags.match(etag, weakly=True)) == (strong, weak)
    assert tags_of("If-Match", []) is None


@pytest.mark.parametrize("wrong", ["", "bare", '"a" "b"', '"a",', "*, *", '"\x7f"'])
def test_what_is_no_tag_is_refused(wrong):
    """A condition that cannot be read must not count as fulfilled."""
    with pytest.raises(InvalidInput):
        tags_of("If-Match", [wrong])


@given(st.binary(max_size=40))
def test_any_body_can_be_looked_into(body):
    """What is no object says nothing; the operation will refuse it."""
    assert isinstance(told_of(body).value, dict)
    assert told_of(b"[" * 5_000).value == {}


def test_what_a_body_tells():
    """The reason and the application, where they are text."""
    told = told_of(b'{"reason": "as planned", "application": "os"}')
    assert (told.reason, told.application) == ("as planned", "os")
    told = told_of(b'{"reason": 7, "application": null}')
    assert (told.reason, told.application) == (None, None)


# Four eyes


@pytest.mark.parametrize(
    ("verdict", "later", "state"),
    [
        (None, -1, ApprovalState.OPEN),
        (None, 0, ApprovalState.EXPIRED),
        ("approved", -1, ApprovalState.APPROVED),
        ("approved", 0, ApprovalState.EXPIRED),
        ("refused", 1, ApprovalState.REFUSED),
        ("used", 1, ApprovalState.USED),
    ],
)
def test_where_an_approval_is(verdict, later, state):
    """What was neither refused nor used ends with its time."""
    assert state_of(verdict=verdict, expires_at=NOW, now=NOW + timedelta(seconds=later)) is state


def test_an_approval_allows_what_was_asked_for():
    """By who asked, once approved; nothing else."""
    ask = Ask(action="promote", subject="channels/1", request={"a": 1}, asked_by="olaf")
    check_usable(ask, ask, ApprovalState.APPROVED)
    for state in set(ApprovalState) - {ApprovalState.APPROVED}:
        with pytest.raises(Conflict):
            check_usable(ask, ask, state)
    for other in (
        Ask(action="resume", subject="channels/1", request={"a": 1}, asked_by="olaf"),
        Ask(action="promote", subject="channels/2", request={"a": 1}, asked_by="olaf"),
        Ask(action="promote", subject="channels/1", request={"a": 2}, asked_by="olaf"),
        Ask(action="promote", subject="channels/1", request={"a": 1}, asked_by="ana"),
    ):
        with pytest.raises(Conflict):
            check_usable(ask, other, ApprovalState.APPROVED)


def test_who_asks_does_not_decide():
    """And what is decided stays so."""
    check_decidable(asked_by="olaf", decided_by="ana", state=ApprovalState.OPEN)
    with pytest.raises(Conflict, match="yourself"):
        check_decidable(asked_by="olaf", decided_by="olaf", state=ApprovalState.OPEN)
    for state in set(ApprovalState) - {ApprovalState.OPEN}:
        with pytest.raises(Conflict, match="nothing left"):
            check_decidable(asked_by="olaf", decided_by="ana", state=state)


def test_one_policy_is_enough_to_want_four_eyes():
    """Of all groups that are touched."""
    assert needs_approval(Action.PROMOTE, [{}, {"four_eyes": ["promote"]}])
    assert not needs_approval(Action.RESUME, [{}, {"four_eyes": ["promote"]}])
    assert not needs_approval(Action.RESUME, [])


# Pages


@given(
    st.uuids(),
    st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=100),
    st.sampled_from(SortOrder),
)
def test_a_cursor_comes_back_as_it_went(item_id, key, order):
    """The id and the key, whatever is in it."""
    cursor = cursor_of({"group_id": item_id, SORT_KEY: key}, "group_id", GroupSort.NAME)
    place = place_of(GroupsQuery(cursor=cursor, sort=GroupSort.NAME, order=order))
    assert (place.after, place.key, place.descending) == (item_id, key, order is SortOrder.DESC)
    assert place_of(GroupsQuery(), usually=SortOrder.DESC).descending is True


@pytest.mark.parametrize(
    "cursor",
    ["x~~created", *(f"{uuid.UUID(int=1)}~{key}~created" for key in ("A", "_w", "AA")), f"{uuid.UUID(int=1)}~~name"],
)
def test_a_cursor_of_somebody_elses_making_is_refused(cursor):
    """It must not become a page that looks like the last one."""
    with pytest.raises(InvalidInput):
        place_of(GroupsQuery(cursor=cursor))
