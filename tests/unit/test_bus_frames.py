"""The hand-made frames of the relay's publisher are those that AMQP's own library reads."""

from __future__ import annotations

import uuid

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from shared.bus.publisher import frames
from shared.events import NewEvent
from shared.events.codec import encode_new
from shared.ledger import LedgerEntry
from shared.testing.clock import EPOCH


@given(
    raw=st.binary(min_size=1, max_size=3000),
    subject=st.text(max_size=200),
    key=st.text(max_size=100),
    correlation=st.none() | st.text(max_size=50),
    seq=st.integers(1, 2**63 - 1),
    frame_max=st.integers(100, 5000),
)
def test_frames_read_back(raw, subject, key, correlation, seq, frame_max):  # noqa: PLR0917 - filled by Hypothesis
    """Method, header and body come back as they were meant, in frames no larger than agreed."""
    entry = LedgerEntry(
        seq=seq,
        event_id=uuid.UUID(int=seq),
        type="update.offered.v1",
        subject=subject,
        partition_key=key,
        correlation_id=correlation,
        recorded_at=EPOCH,
        occurred_at=EPOCH,
        hash=b"",
        raw=raw,
    )
    left = frames(entry, channel=7, exchange="uneventful.events", frame_max=frame_max)
    read = []
    while left:
        size, channel, frame = pamqp.frame.unmarshal(left)
        assert channel == 7
        read.append(frame)
        left = left[size:]
    publish, header, *bodies = read
    assert isinstance(publish, commands.Basic.Publish)
    assert (publish.exchange, publish.routing_key) == ("uneventful.events", "update.offered.v1")
    assert not publish.mandatory
    assert isinstance(header, ContentHeader)
    assert header.body_size == len(raw)
    properties = header.properties
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/cloudevents+json"
    assert (properties.message_id, properties.message_type) == (str(entry.event_id), entry.type)
    expected = {
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": str(entry.event_id),
        "cloudEvents_type": entry.type,
        "cloudEvents_subject": subject,
        "cloudEvents_partitionkey": key,
        "cloudEvents_sequence": f"{seq:020d}",
    }
    if correlation is not None:
        expected["cloudEvents_correlationid"] = correlation
    assert properties.headers == expected
    assert all(isinstance(body, ContentBody) and len(body.value) <= frame_max - 8 for body in bodies)
    assert b"".join(body.value for body in bodies) == raw


@pytest.mark.parametrize(
    ("traceparent", "subject"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "nodes/1"),
        (None, "nodes/1"),
        (None, '"traceparent":"00-forged'),
    ],
)
def test_the_trace_context_is_a_header(traceparent, subject):
    """An event's trace context is where instrumented consumers look; text that looks like one is not taken for it."""
    data = {"reason": '"traceparent":"', "traceparent": "in the data"}
    event = NewEvent(
        type="update.offered.v1",
        subject=subject,
        partition_key="1",
        data=data,
        event_id=uuid.UUID(int=1),
        time=EPOCH,
        source="/x",
        traceparent=traceparent,
    )
    entry = LedgerEntry(
        seq=1,
        event_id=event.event_id,
        type=event.type,
        subject=subject,
        partition_key="1",
        correlation_id=None,
        recorded_at=EPOCH,
        occurred_at=EPOCH,
        hash=b"",
        raw=encode_new(event),
    )
    left = frames(entry, channel=1, exchange="e", frame_max=5000)
    size, _, _ = pamqp.frame.unmarshal(left)
    _, _, header = pamqp.frame.unmarshal(left[size:])

    assert header.properties.headers.get("traceparent") == traceparent
