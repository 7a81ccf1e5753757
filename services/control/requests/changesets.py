"""Bodies and queries about changesets."""

from __future__ import annotations

import enum
import uuid
from typing import Final

import msgspec

from services.control.requests.fields import (
    Arch,
    ChangesetState,
    Components,
    FileName,
    Kind,
    Limit,
    Packages,
    PayloadRole,
    Position,
    Reason,
    Reference,
    Request,
    Sha1Base64,
    Sha256,
    Size,
    SortedPage,
    Text,
    Version,
)

MAX_CHANGESET_BYTES: Final = 1024 * 1024


class NewChangeset(Request, frozen=True, kw_only=True):
    """``application`` is a name or an id; a floor and a dead end need their reasons.

    ``components`` are the parts that people ask for (kernel, systemd, ...), ``packages`` all of them; both map names to
    versions. Nodes below ``minimum_version`` cannot take the changeset.
    """

    application: Reference
    version: Version
    arch: Arch
    kind: Kind = Kind.IMAGE
    notes: Text = ""
    source: Text = ""
    components: Components = msgspec.field(default_factory=dict)
    packages: Packages = msgspec.field(default_factory=dict)
    floor: bool = False
    floor_reason: Reason | None = None
    dead_end: bool = False
    dead_end_reason: Reason | None = None
    minimum_version: Version | None = None


class ChangesetPatch(Request, frozen=True, kw_only=True):
    """What is given changes; only a draft can be changed."""

    kind: Kind | msgspec.UnsetType = msgspec.UNSET
    notes: Text | msgspec.UnsetType = msgspec.UNSET
    source: Text | msgspec.UnsetType = msgspec.UNSET
    components: Components | msgspec.UnsetType = msgspec.UNSET
    packages: Packages | msgspec.UnsetType = msgspec.UNSET
    floor: bool | msgspec.UnsetType = msgspec.UNSET
    floor_reason: Reason | msgspec.UnsetType | None = msgspec.UNSET
    dead_end: bool | msgspec.UnsetType = msgspec.UNSET
    dead_end_reason: Reason | msgspec.UnsetType | None = msgspec.UNSET
    minimum_version: Version | msgspec.UnsetType | None = msgspec.UNSET


class Mark(Request, frozen=True, kw_only=True):
    """Declares a published changeset a floor or a dead end, or no longer."""

    reason: Reason
    floor: bool | None = None
    dead_end: bool | None = None


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


class ChangesetSort(enum.StrEnum):
    """What changesets are sorted by; versions as text."""

    CREATED = "created"
    PUBLISHED = "published"
    VERSION = "version"


class ChangesetsQuery(SortedPage, frozen=True, kw_only=True):
    """``application`` is a name or an id."""

    sort: ChangesetSort = ChangesetSort.CREATED
    application: Reference | None = None
    version: Version | None = None
    arch: Arch | None = None
    state: ChangesetState | None = None


class DiffQuery(Request, frozen=True, kw_only=True):
    """``to`` is the id of the other changeset."""

    to: uuid.UUID


class HoldersQuery(Request, frozen=True, kw_only=True):
    """``limit``: how many nodes are named; all are counted."""

    limit: Limit = 100
