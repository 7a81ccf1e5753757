"""One thing that one node said at one moment, whatever dialect it spoke."""

from __future__ import annotations

import enum
import uuid
from datetime import datetime

import msgspec


class ObservationKind(enum.StrEnum):
    """What was said. ``POLL`` and ``PING`` say nothing but "I am here, in this boot, on this version"."""

    POLL = "poll"
    PING = "ping"
    UPDATED = "updated"
    DOWNLOAD_STARTED = "download_started"
    DOWNLOADED = "downloaded"
    STAGED = "staged"
    REBOOT_AWAITED = "reboot_awaited"
    BOOTED = "booted"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    DEFERRED = "deferred"


class ObservationSource(enum.StrEnum):
    """Which dialect it came in; only native nodes have a probation: the others' target version is their commit."""

    OMAHA = "omaha"
    NATIVE = "native"
    CINCINNATI = "cincinnati"


class Observation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A report as ``fleet.report_v1`` takes it.

    ``event_id`` makes it count once. ``error_base`` is ``error_code`` without Omaha's flag bits.
    """

    event_id: uuid.UUID
    kind: ObservationKind
    source: ObservationSource
    node_id: uuid.UUID
    application_id: uuid.UUID
    machine_id: str
    version: str
    boot_id: str
    at: datetime
    group_id: uuid.UUID | None = None
    arch: str | None = None
    facts: dict[str, str] | None = None
    address: str | None = None
    error_code: int | None = None
    error_base: int | None = None
    error_class: str | None = None
    previous_version: str | None = None
    reason: str | None = None
    traceparent: str | None = None


class OutcomeStatus(enum.StrEnum):
    """What became of an observation."""

    RECORDED = "recorded"
    IGNORED = "ignored"
    DUPLICATE = "duplicate"
    CLONED = "cloned"
    REFUSED = "refused"
    """Postgres takes it neither now nor later (a value that no column holds); nothing was recorded."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The node's attempt after an observation; the attempt may be one that has closed."""

    status: OutcomeStatus
    attempt_id: uuid.UUID | None
    changeset_id: uuid.UUID | None
    state: str | None
    quarantined: bool
    cloned: bool
