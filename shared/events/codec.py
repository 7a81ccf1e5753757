"""Canonical bytes of an event and back.

The canonical form is the CloudEvents JSON with sorted keys, no spaces, UTC times with ``Z`` and six decimals where
they are not zero. The same bytes stand in the ledger, on the bus, in webhooks and in replays.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson

from shared.errors import EventInvalid
from shared.events.envelope import Envelope, NewEvent
from shared.events.registry import EVENT_TYPES, Registry
from shared.events.types import EventData

CONTENT_TYPE = "application/cloudevents+json"
MAX_EVENT_BYTES = 256 * 1024
MAX_DEPTH = 32

_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z
_ENVELOPE_DECODER = msgspec.json.Decoder(Envelope)


def encode_data(data: EventData | Mapping[str, Any]) -> bytes:
    """Canonical JSON of an event's data.

    Raises:
        EventInvalid: The data holds what JSON cannot say.
    """
    try:
        plain = msgspec.to_builtins(data) if isinstance(data, msgspec.Struct) else data
        return orjson.dumps(plain, option=_CANONICAL)
    except TypeError as fault:
        raise EventInvalid(f"the event's data does not fit JSON: {fault}") from fault


def canonical_event(
    *,
    event_id: str,
    event_type: str,
    source: str,
    subject: str,
    partition_key: str,
    time: datetime,
    data: object,
    correlation_id: str | None,
    causation_id: str | None,
    traceparent: str | None,
    recorded_time: datetime | None,
    seq: int | None,
) -> bytes:
    """Canonical bytes from an event's parts; ``data`` is what ``orjson.loads`` gives, times are UTC.

    Raises:
        EventInvalid: The event is larger than 256 KiB or JSON cannot say it.
    """
    event: dict[str, object] = {
        "data": data,
        "datacontenttype": "application/json",
        "id": event_id,
        "partitionkey": partition_key,
        "source": source,
        "specversion": "1.0",
        "subject": subject,
        "time": time,
        "type": event_type,
    }
    if correlation_id is not None:
        event["correlationid"] = correlation_id
    if causation_id is not None:
        event["causationid"] = causation_id
    if recorded_time is not None:
        event["recordedtime"] = recorded_time
    if seq is not None:
        event["sequence"] = f"{seq:020d}"
    if traceparent is not None:
        event["traceparent"] = traceparent
    try:
        raw = orjson.dumps(event, option=_CANONICAL)
    except TypeError as fault:
        raise EventInvalid(f"event {event_id} does not fit JSON: {fault}") from fault
    if len(raw) > MAX_EVENT_BYTES:
        raise EventInvalid(f"event {event_id} has {len(raw)} bytes, more than {MAX_EVENT_BYTES}: say less in it")
    return raw


def encode(envelope: Envelope) -> bytes:
    """Canonical bytes of an envelope.

    Raises:
        EventInvalid: The event is larger than 256 KiB or its data is no JSON.
    """
    return canonical_event(
        event_id=envelope.id,
        event_type=envelope.type,
        source=envelope.source,
        subject=envelope.subject,
        partition_key=envelope.partition_key,
        time=envelope.time.astimezone(UTC),
        data=_loads(bytes(envelope.data)),
        correlation_id=envelope.correlation_id,
        causation_id=envelope.causation_id,
        traceparent=envelope.traceparent,
        recorded_time=None if envelope.recorded_time is None else envelope.recorded_time.astimezone(UTC),
        seq=None if envelope.sequence is None else int(envelope.sequence),
    )


def encode_new(event: NewEvent) -> bytes:
    """Canonical bytes of an event that is not in the ledger."""
    return canonical_event(
        event_id=str(event.event_id),
        event_type=event.type,
        source=event.source,
        subject=event.subject,
        partition_key=event.partition_key,
        time=event.time.astimezone(UTC),
        data=orjson.Fragment(encode_data(event.data)),
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        traceparent=event.traceparent,
        recorded_time=None,
        seq=None,
    )


def decode(raw: bytes) -> Envelope:
    """Read an envelope; its data stays undecoded.

    Raises:
        EventInvalid: More than 256 KiB, nested deeper than 32, no JSON, or no CloudEvent as we write them.
    """
    if len(raw) > MAX_EVENT_BYTES:
        raise EventInvalid(f"the event has {len(raw)} bytes, more than {MAX_EVENT_BYTES}")
    try:
        envelope = _ENVELOPE_DECODER.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as fault:
        raise EventInvalid(f"this is no event of ours: {fault}") from fault
    # Brackets inside strings count too, so that only a suspicious event pays for the exact count.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        _check_depth(bytes(envelope.data))
    return envelope


def decode_data(envelope: Envelope, registry: Registry = EVENT_TYPES) -> EventData:
    """The typed data of an event, in the newest major of its type; unknown fields are ignored.

    Raises:
        EventInvalid: The type is unknown, or the data does not fit it.
    """
    newest, upcasts = registry.chain(envelope.type)
    try:
        if not upcasts:
            return _data_decoder(newest.data).decode(envelope.data)
        plain = _loads(bytes(envelope.data))
        if not isinstance(plain, dict):
            raise EventInvalid(f"the data of event {envelope.id} is no object")
        for upcast in upcasts:
            plain = upcast(plain)
        return msgspec.convert(plain, newest.data)
    except (msgspec.MsgspecError, KeyError, RecursionError) as fault:
        raise EventInvalid(f"event {envelope.id} of type {envelope.type}: {fault}") from fault


def check_data(event_type: str, data: str | bytes, registry: Registry = EVENT_TYPES) -> None:
    """Refuse data that no follower could read; a type that is not known here is not judged.

    Args:
        event_type: The type's name.
        data: The data as JSON.
        registry: Where the types are.

    Raises:
        EventInvalid: The type is known, and the data does not fit it.
    """
    if event_type not in registry:
        return
    _, upcasts = registry.chain(event_type)
    if upcasts:
        return
    try:
        _data_decoder(registry[event_type].data).decode(data)
    except (msgspec.MsgspecError, RecursionError) as fault:
        raise EventInvalid(f"its data does not fit {event_type}: {fault}") from fault


@functools.cache
def _data_decoder(data: type[EventData]) -> msgspec.json.Decoder[EventData]:
    return msgspec.json.Decoder(data)


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as fault:
        raise EventInvalid(f"the event's data is no JSON: {fault}") from fault


def _check_depth(raw: bytes) -> None:
    level: list[Any] = [_loads(raw)]
    for _ in range(MAX_DEPTH):
        containers = [outer for outer in level if isinstance(outer, dict | list)]
        level = [inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return
    if any(isinstance(inner, dict | list) for inner in level):
        raise EventInvalid(f"the event's data is nested deeper than {MAX_DEPTH}")
