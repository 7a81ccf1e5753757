"""Who may have which payload now. Pure: a snapshot of what operators and the analysis said, and a request."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field


class RefusalCode(enum.StrEnum):
    """Why a payload is not given out; part of the answer, so that an operator at the node can read it."""

    HALTED = "halted"
    SUSPENDED = "suspended"
    WITHDRAWN = "withdrawn"
    RECALLED = "recalled"
    TOKEN_UNKNOWN = "token_unknown"  # noqa: S105  # a code, no secret


@dataclass(frozen=True, slots=True)
class Closure:
    """Why a changeset's gate is shut."""

    code: RefusalCode
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """A payload in a changeset that is or was published."""

    changeset_id: uuid.UUID
    name: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt that a token stands for."""

    changeset_id: uuid.UUID
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was true when it was read.

    Attributes:
        listings: Where each digest is listed.
        closed: Changesets whose gate is not open.
        suspended: Digests in doubt, with the reason.
        everything_halted: The reason for which all updates stand still, or None.
    """

    listings: Mapping[str, tuple[Listing, ...]] = field(default_factory=dict)
    closed: Mapping[uuid.UUID, Closure] = field(default_factory=dict)
    suspended: Mapping[str, str] = field(default_factory=dict)
    everything_halted: str | None = None


@dataclass(frozen=True, slots=True)
class Allowed:
    """The bytes of this digest may be sent."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The payload is there and is not given out."""

    code: RefusalCode
    reason: str


@dataclass(frozen=True, slots=True)
class Unlisted:
    """No published changeset has a payload of this digest and name."""


Decision = Allowed | Refused | Unlisted

UNLISTED = Unlisted()
TOKEN_UNKNOWN = Refused(
    RefusalCode.TOKEN_UNKNOWN, "no attempt has this token for this payload; ask for an update again"
)


def decide(snapshot: Snapshot, sha256: str, name: str) -> Decision:
    """Decide on a download without a token: it is refused if no changeset that lists the payload is open."""
    changesets = _listed_in(snapshot, sha256, name)
    if not changesets:
        return UNLISTED
    if (refusal := _refused_for_all(snapshot, sha256)) is not None:
        return refusal
    closures = [snapshot.closed.get(changeset_id) for changeset_id in changesets]
    first = closures[0]
    if first is not None and all(closure is not None for closure in closures):
        return Refused(first.code, first.reason)
    return Allowed(sha256)


def decide_for_attempt(snapshot: Snapshot, sha256: str, name: str, attempt: Attempt | None) -> Decision:
    """Decide on a download that belongs to an attempt; ``attempt`` is None where nobody knows the token.

    Omaha has one base URL for all packages of an update. So the digest in the path may be that of another payload of
    the attempt's changeset (it names the main one), and the name tells which file is meant.
    """
    changesets = _listed_in(snapshot, sha256, name)
    if attempt is not None and attempt.changeset_id not in changesets:
        beside = _payload_beside(snapshot, sha256, name, attempt.changeset_id)
        if beside is not None:
            sha256, changesets = beside, [attempt.changeset_id]
    if not changesets:
        return UNLISTED
    if attempt is None or attempt.changeset_id not in changesets:
        return TOKEN_UNKNOWN
    if (refusal := _refused_for_all(snapshot, sha256)) is not None:
        return refusal
    if (closure := snapshot.closed.get(attempt.changeset_id)) is not None:
        return Refused(closure.code, closure.reason)
    if attempt.state == "recalled":
        return Refused(RefusalCode.RECALLED, "the offer was taken back; ask for an update again")
    return Allowed(sha256)


def _payload_beside(snapshot: Snapshot, sha256: str, name: str, changeset_id: uuid.UUID) -> str | None:
    """The digest of the payload ``name`` in the changeset that lists ``sha256`` too; None where there is none."""
    if all(listing.changeset_id != changeset_id for listing in snapshot.listings.get(sha256, ())):
        return None
    wanted = Listing(changeset_id, name)
    return next((digest for digest, listings in snapshot.listings.items() if wanted in listings), None)


def _listed_in(snapshot: Snapshot, sha256: str, name: str) -> list[uuid.UUID]:
    return [listing.changeset_id for listing in snapshot.listings.get(sha256, ()) if listing.name == name]


def _refused_for_all(snapshot: Snapshot, sha256: str) -> Refused | None:
    if (reason := snapshot.suspended.get(sha256)) is not None:
        return Refused(RefusalCode.SUSPENDED, reason)
    if snapshot.everything_halted is not None:
        return Refused(RefusalCode.HALTED, snapshot.everything_halted)
    return None
