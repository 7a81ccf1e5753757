"""What bodies and queries are made of: bounded types, enums, and the bases of all of them."""

from __future__ import annotations

import enum
import uuid
from typing import Annotated, Any, TypeAlias

import msgspec

from services.control.listing import SortOrder

# Postgres text cannot hold NUL, and names stand in URLs, tables and logs.
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ +~:@-]{0,63}\Z")]
Reference: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
Version: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+~_-]{0,127}\Z")]
Arch: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}\Z")]
MachineId: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
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
PartName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+/~:@-]{0,127}\Z")]
PartVersion: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
Components: TypeAlias = Annotated[dict[PartName, PartVersion], msgspec.Meta(max_length=64)]
Packages: TypeAlias = Annotated[dict[PartName, PartVersion], msgspec.Meta(max_length=5_000)]
Stability: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=63)]
TestName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
Link: TypeAlias = Annotated[str, msgspec.Meta(max_length=1_000, pattern=r"^https?://[^\x00-\x20\x7f]+\Z")]
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


class Page(Request, frozen=True, kw_only=True):
    """``cursor`` is the ``next`` of the page before."""

    limit: Limit = 100
    cursor: uuid.UUID | None = None


Cursor: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Fa-f-]{36}(~[A-Za-z0-9_-]{0,1000}){0,2}\Z")]
"""Opaque: the ``next`` of the page before."""


class SortedPage(Request, frozen=True, kw_only=True):
    """``cursor`` is the ``next`` of the page before, with the same ``sort`` and ``order``."""

    limit: Limit = 100
    cursor: Cursor | None = None
    order: SortOrder | None = None


class Because(Request, frozen=True, kw_only=True):
    """Why an operator does it; goes into the event."""

    reason: Reason
