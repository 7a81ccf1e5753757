"""Bodies and queries about changesets."""

from __future__ import annotations

from services.control.requests.fields import (
    Arch,
    ChangesetState,
    FileName,
    Kind,
    Page,
    PayloadRole,
    Position,
    Reference,
    Request,
    Sha1Base64,
    Sha256,
    Size,
    Text,
    Version,
)


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


class ChangesetsQuery(Page, frozen=True, kw_only=True):
    """``application`` is a name or an id."""

    application: Reference | None = None
    version: Version | None = None
    arch: Arch | None = None
    state: ChangesetState | None = None
