"""What clients send: bodies and queries, decoded and bounded by msgspec."""

from __future__ import annotations

import enum
import uuid
from typing import Annotated, Any, TypeAlias

import msgspec

# Postgres text cannot hold NUL, and names stand in URLs, tables and logs.
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ +~:@-]{0,63}\Z")]
Reference: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
Version: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+~_-]{0,127}\Z")]
Arch: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}\Z")]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=10_000, pattern=r"^[^\x00]*\Z")]
Reason: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000, pattern=r"^[^\x00]*\Z")]
OmahaId: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^\{?[A-Za-z0-9._-]{1,64}\}?\Z")]
Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Sha1Base64: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]{27}=\Z")]
FileName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}\Z")]
Size: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1 << 42)]
Position: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=63)]
Rank: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Limit: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=500)]
Seq: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
FactName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}\Z")]
FactValue: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
Selector: TypeAlias = Annotated[
    dict[FactName, Annotated[tuple[FactValue, ...], msgspec.Meta(min_length=1, max_length=64)]],
    msgspec.Meta(max_length=16),
]
PolicyValues: TypeAlias = Annotated[dict[str, Any], msgspec.Meta(max_length=64)]


class Kind(enum.StrEnum):
    """What a changeset brings: a full OS image, or a pinned set of packages."""

    IMAGE = "image"
    PACKAGES = "packages"


class PayloadRole(enum.StrEnum):
    """The update itself, or a file beside it."""

    MAIN = "main"
    EXTRA = "extra"


class ChangesetState(enum.StrEnum):
    """As in control.changesets."""

    DRAFT = "draft"
    PUBLISHED = "published"
    WITHDRAWN = "withdrawn"


class RolloutState(enum.StrEnum):
    """As in control.rollouts."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    COMPLETED = "completed"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"


class NodeState(enum.StrEnum):
    """The state of a node's last attempt; ``none`` where it never had one."""

    NONE = "none"
    OFFERED = "offered"
    DOWNLOADING = "downloading"
    STAGED = "staged"
    AWAITING_REBOOT = "awaiting_reboot"
    REBOOTING = "rebooting"
    PROBATION = "probation"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    PRESUMED_LOST = "presumed_lost"
    RECALLED = "recalled"


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all bodies and queries: a name that is not known is refused, for it may be a misspelt one."""


class NewApplication(Request, frozen=True, kw_only=True):
    """``omaha_id``: the appid that Omaha clients send, with or without braces, in any case."""

    name: Name
    omaha_id: OmahaId | None = None


class NewChangeset(Request, frozen=True, kw_only=True):
    """``application`` is a name or an id."""

    application: Reference
    version: Version
    arch: Arch
    kind: Kind = Kind.IMAGE
    notes: Text = ""


class NewPayload(Request, frozen=True, kw_only=True):
    """A file of a changeset; ``size`` in bytes. Without a position it goes behind the others."""

    name: FileName
    sha256: Sha256
    sha1_base64: Sha1Base64
    size: Size
    role: PayloadRole = PayloadRole.MAIN
    required: bool = True
    position: Position | None = None


class Publication(Request, frozen=True, kw_only=True):
    """``unchecked``: do not ask the distribution whether it has the payloads."""

    unchecked: bool = False


class Because(Request, frozen=True, kw_only=True):
    """Why an operator does it; goes into the event."""

    reason: Reason


class NewChannel(Request, frozen=True, kw_only=True):
    """A channel has one arch; channels of one name and several archs are followed together."""

    application: Reference
    name: Name
    arch: Arch


class Promotion(Request, frozen=True, kw_only=True):
    """``changeset`` is an id."""

    changeset: uuid.UUID
    reason: Reason | None = None


class NewGroup(Request, frozen=True, kw_only=True):
    """Groups are tried in the order of ``position``; without one the group goes behind the others."""

    application: Reference
    name: Name
    channel: Name
    selector: Selector = {}
    policy: PolicyValues = {}
    position: Rank | None = None
    updates_enabled: bool = True


class GroupPatch(Request, frozen=True, kw_only=True):
    """What is given changes; within ``policy`` a null takes a value back to its default (RFC 7396)."""

    channel: Name | msgspec.UnsetType = msgspec.UNSET
    selector: Selector | msgspec.UnsetType = msgspec.UNSET
    policy: PolicyValues | msgspec.UnsetType = msgspec.UNSET
    position: Rank | msgspec.UnsetType = msgspec.UNSET
    updates_enabled: bool | msgspec.UnsetType = msgspec.UNSET


class Lift(Request, frozen=True, kw_only=True):
    """Which changeset may be offered to the node again, and why."""

    changeset: uuid.UUID
    reason: Reason


class Page(Request, frozen=True, kw_only=True):
    """``cursor`` is the ``next`` of the page before."""

    limit: Limit = 100
    cursor: uuid.UUID | None = None


class ApplicationsQuery(Page, frozen=True, kw_only=True):
    """All applications."""


class ChangesetsQuery(Page, frozen=True, kw_only=True):
    """``application`` is a name or an id."""

    application: Reference | None = None
    version: Version | None = None
    arch: Arch | None = None
    state: ChangesetState | None = None


class ChannelsQuery(Page, frozen=True, kw_only=True):
    """``application`` is a name or an id."""

    application: Reference | None = None
    name: Name | None = None
    arch: Arch | None = None


class HistoryQuery(Request, frozen=True, kw_only=True):
    """The newest promotions first."""

    limit: Limit = 100


class GroupsQuery(Page, frozen=True, kw_only=True):
    """``application`` is a name or an id."""

    application: Reference | None = None
    name: Name | None = None
    channel: Name | None = None


class RolloutsQuery(Page, frozen=True, kw_only=True):
    """``active``: only those that are not completed, aborted or superseded."""

    state: RolloutState | None = None
    group: uuid.UUID | None = None
    changeset: uuid.UUID | None = None
    active: bool | None = None


class NodesQuery(Page, frozen=True, kw_only=True):
    """``state`` is that of the node's last attempt."""

    application: Reference | None = None
    group: uuid.UUID | None = None
    version: Version | None = None
    machine: Reference | None = None
    state: NodeState | None = None
    cloned: bool | None = None


class EventsQuery(Request, frozen=True, kw_only=True):
    """Events with a seq greater than ``after``; the filters hold together."""

    after: Seq = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
    type: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=128)], ...], msgspec.Meta(max_length=32)] = ()
    subject: Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00]*\Z")] | None = None
    correlation: Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00]*\Z")] | None = None


class VerifyQuery(Request, frozen=True, kw_only=True):
    """Verifies the chain from the event after ``after`` on."""

    after: Seq = 0
