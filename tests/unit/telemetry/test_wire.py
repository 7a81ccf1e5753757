"""The native dialect: what is taken, what is an error of its own, what is refused as a whole."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.telemetry.wire import MAX_REPORTS, ReportError, decode, observe, render
from shared.domain.identity import node_id_for
from shared.errors import InvalidInput, TooLarge
from shared.fleet import ObservationKind, ObservationSource

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
APPLICATION = uuid.UUID(int=7)


def report(**changes) -> dict:
    """A valid report, with changes; None takes a field out."""
    whole = {
        "event_id": str(uuid.UUID(int=1)),
        "machine_id": "m1",
        "application": "flatcar",
        "kind": "staged",
        "version": "1.0",
        "boot_id": "b1",
        "at": "2026-03-01T11:59:59.5+00:00",
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


def seen(body, address="10.0.0.9", traceparent=None, only=None):
    """Observations and errors of a body, as the handler would get them."""
    return observe(
        decode(json.dumps(body).encode()),
        application_id_of={"flatcar": APPLICATION}.get,
        now=NOW,
        address=address,
        traceparent=traceparent,
        only=only,
    )


@pytest.mark.parametrize(
    "wrap", [lambda r: r, lambda r: [r], lambda r: {"reports": [r]}], ids=["alone", "array", "object"]
)
def test_one_report_comes_in_three_shapes(wrap):
    """Alone, in an array, or in an object; each means the same observation."""
    (observation,), errors = seen(wrap(report()), traceparent="00-ab-cd-01")
    assert errors == []
    assert observation.event_id == uuid.UUID(int=1)
    assert observation.kind is ObservationKind.STAGED
    assert observation.source is ObservationSource.NATIVE
    assert observation.application_id == APPLICATION
    assert observation.node_id == node_id_for(APPLICATION, "m1")
    assert observation.at == NOW - timedelta(seconds=0.5)
    assert observation.address == "10.0.0.9"
    assert observation.traceparent == "00-ab-cd-01"
    assert observation.group_id is None


def test_arch_and_group_find_their_places():
    """Arch is the field or the fact; group becomes a fact, which a fact of that name overrides."""
    facts = {"arch": "arm64", "site": "fra1"}
    (one, two, three), _ = seen(
        [report(facts=facts), report(facts=facts, arch="amd64", group="edge"), report(group="x", facts={"group": "y"})]
    )
    assert (one.arch, one.facts) == ("arm64", facts)
    assert (two.arch, two.facts) == ("amd64", facts | {"group": "edge"})
    assert (three.arch, three.facts) == (None, {"group": "y"})


@pytest.mark.parametrize(
    "fault",
    [
        {"event_id": "nonsense"},
        {"event_id": None},
        {"machine_id": ""},
        {"machine_id": "m" * 129},
        {"machine_id": "m\0"},
        {"kind": "polled"},
        {"version": None},
        {"version": 3},
        {"boot_id": "b" * 129},
        {"at": "2026-03-01T12:00:00"},
        {"at": "yesterday"},
        {"at": 1740830400},
        {"at": "0001-01-01T00:00:00+14:00"},
        {"at": "1969-12-31T23:59:59Z"},
        {"facts": {"a": 1}},
        {"facts": {"": "x"}},
        {"facts": {"a": "x" * 257}},
        {"facts": {"a": "\0"}},
        {"facts": {str(i): "x" for i in range(65)}},
        {"error_code": 2**53},
        {"error_code": "44"},
        {"reason": "x" * 1001},
        {"reason": "a\0b"},
    ],
)
def test_an_invalid_report_is_an_error_of_its_own(fault):
    """Its neighbours are taken; the error tells its place."""
    observations, errors = seen([report(), report(**fault), report()])
    assert len(observations) == 2
    assert [(error.index, error.code) for error in errors] == [(1, "invalid_input")]
    assert errors[0].message


def test_the_text_backslash_u0000_is_no_nul():
    """Only the character itself is refused, not what looks like its escape."""
    (observation,), errors = seen(report(reason="\\u0000"))
    assert errors == []
    assert observation.reason == "\\u0000"


def test_the_future_and_unknown_applications_are_refused_one_by_one():
    """Ten minutes ahead is taken, more is not; the order of the errors is that of the body."""
    observations, errors = seen(
        [
            report(at="2026-03-01T12:10:00Z"),
            report(application="nobody"),
            report(at="2026-03-01T12:10:01Z"),
            {"kind": 1},
        ]
    )
    assert len(observations) == 1
    assert [(error.index, error.code) for error in errors] == [
        (1, "application_unknown"),
        (2, "at_in_future"),
        (3, "invalid_input"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"[",
        b"nonsense",
        b"3",
        b'"text"',
        b"null",
        b"[]",
        b'{"reports": []}',
        b'{"reports": 3}',
        b'{"reports": null}',
        b"[1] trailing",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_body_without_any_report_is_refused(body):
    """Nothing in it could be acknowledged."""
    with pytest.raises(InvalidInput):
        decode(body)


def test_more_reports_than_allowed_are_refused_as_a_whole():
    """1,000 are taken, 1,001 are not."""
    assert len(decode(json.dumps([report()] * MAX_REPORTS).encode()).reports) == MAX_REPORTS
    with pytest.raises(TooLarge):
        decode(json.dumps([report()] * (MAX_REPORTS + 1)).encode())


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_answered(value):
    """Whatever JSON comes, it is refused as a whole or report by report."""
    try:
        body = decode(json.dumps(value).encode())
    except (InvalidInput, TooLarge):
        return
    assert body.reports == []
    assert body.errors


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(raw):
    """Bytes that are no JSON, or no UTF-8, never make it fail; what is taken can be written as UTF-8."""
    whole = json.dumps(report(reason="@")).encode().replace(b"@", raw)
    for body in (raw, whole):
        try:
            found = decode(body)
        except (InvalidInput, TooLarge):
            continue
        for _, taken in found.reports:
            msgspec.json.encode(taken)
            (taken.reason or "").encode()
            assert "\0" not in (taken.reason or "")


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00\\ud800"])
def test_half_a_surrogate_pair_is_no_json(escape):
    """It could not be written as UTF-8: none of the body can be trusted."""
    with pytest.raises(InvalidInput):
        decode(json.dumps([report(), report(reason="@")]).replace("@", escape).encode())


def test_the_answer_is_json():
    """Counts and errors, as openapi.yaml has them."""
    assert json.loads(render(3, 1, [])) == {"accepted": 3, "duplicates": 1, "errors": []}
    assert json.loads(render(0, 0, [ReportError(2, "invalid_input", 'a "b"')])) == {
        "accepted": 0,
        "duplicates": 0,
        "errors": [{"index": 2, "code": "invalid_input", "message": 'a "b"'}],
    }


def test_a_token_speaks_for_its_own_node_alone():
    """What is said about another node, or for another application, is an error of its own."""
    body = [report(), report(machine_id="another")]
    observations, errors = seen(body, only=(APPLICATION, "m1"))
    assert [one.machine_id for one in observations] == ["m1"]
    assert [(error.index, error.code) for error in errors] == [(1, "not_permitted")]
    foreign, errors = seen(body, only=(uuid.UUID(int=8), "m1"))
    assert foreign == []
    assert {error.code for error in errors} == {"not_permitted"}
