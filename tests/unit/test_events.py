"""The registry, the envelope and the canonical bytes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import EventInvalid
from shared.events import (
    EVENT_TYPES,
    MAX_EVENT_BYTES,
    EventType,
    NewEvent,
    Registry,
    asyncapi,
    decode,
    decode_data,
    encode,
    encode_data,
    encode_new,
    new_event,
    types,
)
from shared.testing.clock import ManualClock
from shared.testing.ids import SequentialIds

EXAMPLES = sorted(asyncapi.EXAMPLES.glob("*.json"))
SORTED = orjson.OPT_SORT_KEYS


def example(name: str) -> dict[str, Any]:
    return orjson.loads((asyncapi.EXAMPLES / f"{name}.json").read_bytes())


def raw_example(name: str = "update.offered.v1", **changes: object) -> bytes:
    return orjson.dumps({**example(name), **changes}, option=SORTED)


def test_every_type_has_an_example_and_every_example_a_type():
    """Whoever registers a type shows what it looks like."""
    assert {path.stem for path in EXAMPLES} == set(EVENT_TYPES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_decode_and_come_back_as_the_same_bytes(path):
    """The canonical bytes of an event that was read are the bytes that were written."""
    canonical = orjson.dumps(orjson.loads(path.read_bytes()), option=SORTED)
    envelope = decode(canonical)
    assert envelope.type == path.stem
    data = decode_data(envelope)
    assert type(data) is EVENT_TYPES[path.stem].data
    assert encode(envelope) == canonical
    assert encode_data(data) == orjson.dumps(orjson.loads(bytes(envelope.data)), option=SORTED)


def test_a_halt_from_before_it_said_whom_to_tell_decodes():
    """What was added is optional, and absent again when it is written."""
    data = example("rollout.halted.v1")["data"]
    older = {name: data[name] for name in data if name not in ("severity", "group_name", "owner", "contact")}
    read = decode_data(decode(raw_example("rollout.halted.v1", data=older)))
    assert isinstance(read, types.RolloutMoved)
    assert (read.severity, read.group_name, read.owner, read.contact) == (None, None, None, None)
    assert orjson.loads(encode_data(read)) == older


def test_unknown_fields_are_tolerated():
    """A newer writer of the same major may say more."""
    data = example("log.ticked.v1")["data"] | {"colour": "blue"}
    read = decode_data(decode(raw_example("log.ticked.v1", data=data, newextension="x")))
    assert isinstance(read, types.LogTicked)
    assert read.inbox_depth == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"specversion": "0.3"}, "0.3"),
        ({"time": "2026-03-01T12:00:00"}, "time"),
        ({"type": "Update"}, "matching"),
        ({"id": ""}, "length"),
        ({"sequence": "7"}, "sequence"),
        ({"traceparent": "nonsense"}, "traceparent"),
        ({"datacontenttype": "text/plain"}, "text/plain"),
    ],
)
def test_malformed_envelopes_are_refused(change, says):
    """The envelope is strict: what is there has its form."""
    with pytest.raises(EventInvalid, match=says):
        decode(raw_example(**change))


def test_what_is_too_large_or_too_deep_or_no_json_is_refused():
    """Limits hold before anything is built from the bytes."""
    with pytest.raises(EventInvalid, match="bytes"):
        decode(b" " * (MAX_EVENT_BYTES + 1))
    with pytest.raises(EventInvalid, match="no event of ours"):
        decode(b"{")
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    with pytest.raises(EventInvalid, match="deeper"):
        decode(raw_example(data={"a": deep}))
    assert decode(raw_example(data={"a": "{" * 100})).id
    with pytest.raises(EventInvalid):
        decode(b'{"data":' + b"[" * 5000 + b"]" * 5000 + b"}")


def test_data_of_another_shape_is_refused_by_event_and_field():
    """Who reads the error finds the event."""
    with pytest.raises(EventInvalid, match=r"01938f00.*log.ticked.v1.*contacts"):
        decode_data(decode(raw_example("log.ticked.v1", data={"contacts": 3})))
    with pytest.raises(EventInvalid, match="no event type"):
        decode_data(decode(raw_example(type="log.sung.v1")))


def test_times_become_utc():
    """One moment has one canonical form."""
    event = NewEvent(
        type="log.ticked.v1",
        subject="log",
        partition_key="log",
        data={},
        event_id=uuid.UUID(int=7),
        time=datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2))),
        source="/uneventful/event_log",
    )
    assert b'"time":"2026-03-01T12:00:00Z"' in encode_new(event)
    assert encode(decode(encode_new(event))) == encode_new(event)


def test_new_event_knows_its_type_and_key():
    """A Struct that belongs to one type names it; one that several types share does not."""
    ids, clock = SequentialIds(), ManualClock()
    ticked = types.LogTicked(contacts={}, expected={}, ingest_lag_s=0.0, interval_s=5.0, inbox_depth=0)
    event = new_event(ticked, ids=ids, clock=clock, source="/uneventful/event_log", subject="logs/main")
    assert (event.type, event.partition_key, event.time) == ("log.ticked.v1", "main", clock.now())
    assert event.caused_by("x").causation_id == "x"
    moved = types.RolloutMoved(
        rollout_id="r", changeset_id="c", group_id="g", state_before="a", state_after="b", by="ana"
    )
    with pytest.raises(EventInvalid, match="pass type="):
        new_event(moved, ids=ids, clock=clock, source="/x", subject="rollouts/r")
    with pytest.raises(EventInvalid, match="not LogTicked"):
        new_event(ticked, ids=ids, clock=clock, source="/x", subject="s", type="rollout.paused.v1")


class ToyV1(types.EventData, frozen=True, kw_only=True):
    name: str


class ToyV2(types.EventData, frozen=True, kw_only=True):
    first: str
    last: str


def split(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data["name"].partition(" ")
    return {"first": first, "last": last}


TOYS = Registry(
    [
        EventType(name="toy.made.v1", data=ToyV1, summary="Old.", upcasts_to="toy.made.v2", upcast=split),
        EventType(name="toy.made.v2", data=ToyV2, summary="New."),
    ]
)


def test_old_events_are_read_as_the_newest_major():
    """Old ledger rows stay as they are and keep decoding."""
    old = decode(raw_example(type="toy.made.v1", data={"name": "Jumping Jack"}))
    assert decode_data(old, TOYS) == ToyV2(first="Jumping", last="Jack")
    assert decode_data(decode(raw_example(type="toy.made.v2", data={"first": "a", "last": "b"})), TOYS).last == "b"
    assert TOYS.name_of(ToyV2) == "toy.made.v2"
    with pytest.raises(EventInvalid, match="name"):
        decode_data(decode(raw_example(type="toy.made.v1", data={})), TOYS)
    with pytest.raises(EventInvalid, match="no object"):
        decode_data(decode(raw_example(type="toy.made.v1", data=[])), TOYS)


@pytest.mark.parametrize(
    "event_types",
    [
        [EventType(name="toy", data=ToyV1, summary="")],
        [EventType(name="toy.made.v1", data=ToyV1, summary="")] * 2,
        [EventType(name="toy.made.v1", data=ToyV1, summary="", upcast=split)],
        [EventType(name="toy.made.v1", data=ToyV1, summary="", upcast=split, upcasts_to="toy.made.v2")],
    ],
)
def test_a_registry_that_cannot_work_is_refused(event_types):
    """Faults in the registry show when it is built."""
    with pytest.raises(ValueError, match="toy"):
        Registry(event_types)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('abcé"\\', max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(
    data=st.dictionaries(st.text("abc_", min_size=1, max_size=5), JSON, max_size=4),
    time=st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds are naive by rule
    event_id=st.uuids(),
    correlation=st.none() | st.text("abc-é", min_size=1, max_size=30),
)
def test_canonical_bytes_round_trip(data, time, event_id, correlation):
    """Whatever an event says, encoding what was decoded gives the same bytes."""
    raw = encode_new(
        NewEvent(
            type="policy.changed.v1",
            subject="policy",
            partition_key="policy",
            data=data,
            event_id=event_id,
            time=time,
            source="/uneventful/control",
            correlation_id=correlation,
        )
    )
    envelope = decode(raw)
    assert encode(envelope) == raw
    assert envelope.time == time
    assert orjson.loads(bytes(envelope.data)) == data


def test_data_that_is_no_json_is_refused():
    """An event that cannot be written is refused where it is made."""
    with pytest.raises(EventInvalid, match="fit JSON"):
        encode_data({"x": object()})
    envelope = msgspec.structs.replace(decode(raw_example()), data=msgspec.Raw(b"{"))
    with pytest.raises(EventInvalid, match="no JSON"):
        encode(envelope)


def test_the_asyncapi_document_is_yaml_for_others_too(capsys):
    """What the registry makes can be read by any YAML reader, and printed."""
    assert yaml.safe_load(asyncapi.rendered()) == orjson.loads(orjson.dumps(asyncapi.document()))
    assert asyncapi.main([]) == 0
    assert capsys.readouterr().out == asyncapi.rendered()
    assert asyncapi.main(["--help"]) == 2
