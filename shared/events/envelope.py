"""The envelope of an event: CloudEvents 1.0, and what a service says before the ledger completes it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

import msgspec

from shared.events.registry import EVENT_TYPES, Registry
from shared.events.types import EventData, Id, Name, Text

Time = Annotated[datetime, msgspec.Meta(tz=True)]
TypeName = Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[a-z_]+\.[a-z_]+\.v[1-9][0-9]{0,3}$")]
Traceparent = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]


def _attribute(field: str) -> str:
    return field.replace("_", "")


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=_attribute):
    """A CloudEvent in JSON (CloudEvents 1.0.2, JSON event format), with the extensions that we use.

    Unknown extension attributes are tolerated, so that a newer log may add some; they do not survive a re-encoding.

    Attributes:
        time: When it happened, by the clock of whoever saw it.
        recorded_time: Ledger time: when the mover recorded it. Absent outside the ledger.
        sequence: The ledger seq as 20 digits, so that it sorts as text. Absent outside the ledger.
        data: The JSON of the data, not decoded yet; ``decode_data`` makes the Struct.
    """

    spec_version: Literal["1.0"]
    id: Id
    source: Text
    type: TypeName
    subject: Text
    time: Time
    data_content_type: Literal["application/json"]
    data: msgspec.Raw
    partition_key: Name
    correlation_id: Name | None = None
    causation_id: Name | None = None
    recorded_time: Time | None = None
    traceparent: Traceparent | None = None
    sequence: Annotated[str, msgspec.Meta(pattern="^[0-9]{20}$")] | None = None


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    """An event to be appended; the log adds seq and ledger time."""

    type: str
    subject: str
    partition_key: str
    data: EventData | Mapping[str, Any]
    event_id: uuid.UUID
    time: datetime
    source: str
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None

    def caused_by(self, event_id: str) -> NewEvent:
        """The same event with its cause."""
        return replace(self, causation_id=event_id)


class _Ids(Protocol):
    def uuid7(self) -> uuid.UUID: ...


class _Clock(Protocol):
    def now(self) -> datetime: ...


def new_event(
    data: EventData,
    *,
    ids: _Ids,
    clock: _Clock,
    source: str,
    subject: str,
    type: str | None = None,  # noqa: A002 - CloudEvents calls it so
    partition_key: str | None = None,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    traceparent: str | None = None,
    registry: Registry = EVENT_TYPES,
) -> NewEvent:
    """Make an event with a fresh id and the present time.

    Args:
        data: The event's data.
        ids: Gives the event id.
        clock: Gives the event's time.
        source: Who says it, as ``/uneventful/<service>``.
        subject: What it is about, as ``nodes/<id>`` or ``rollouts/<id>``.
        type: The event type; needed only where several types share the Struct.
        partition_key: Events of one key keep their order; the subject's id unless given.
        correlation_id: The attempt or rollout that the event belongs to.
        causation_id: The id of the event that caused this one.
        traceparent: The W3C trace context in which it happened.
        registry: Where the types are.

    Raises:
        EventInvalid: The type is unknown, or its data is another Struct.
    """
    name = type if type is not None else registry.name_of(data.__class__)
    registry.check(name, data)
    return NewEvent(
        type=name,
        subject=subject,
        partition_key=partition_key if partition_key is not None else subject.rpartition("/")[2],
        data=data,
        event_id=ids.uuid7(),
        time=clock.now(),
        source=source,
        correlation_id=correlation_id,
        causation_id=causation_id,
        traceparent=traceparent,
    )
