"""Events: the registry of their types, the envelope, and the canonical bytes."""

from shared.events.codec import (
    CONTENT_TYPE,
    MAX_EVENT_BYTES,
    canonical_event,
    decode,
    decode_data,
    encode,
    encode_data,
    encode_new,
)
from shared.events.envelope import Envelope, NewEvent, new_event
from shared.events.registry import EVENT_TYPES, EventType, Registry

__all__ = [
    "CONTENT_TYPE",
    "EVENT_TYPES",
    "MAX_EVENT_BYTES",
    "Envelope",
    "EventType",
    "NewEvent",
    "Registry",
    "canonical_event",
    "decode",
    "decode_data",
    "encode",
    "encode_data",
    "encode_new",
    "new_event",
]
