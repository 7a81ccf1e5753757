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
    """The bytes may be sent."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The payload is there and is not given out."""

    code: RefusalCode
    reason: str


@dataclass(frozen=True, slots=True)
class Unlisted:
    """No published changeset has a payload of this digest and name."""


Decision = Allowed | Refused | Unlisted

ALLOWED = Allowed()
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
    return ALLOWED


def decide_for_attempt(snapshot: Snapshot, sha256: str, name: str, attempt: Attempt | None) -> Decision:
    """Decide on a download that belongs to an attempt; ``attempt`` is None where nobody knows the token."""
    changesets = _listed_in(snapshot, sha256, name)
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
    return ALLOWED


def _listed_in(snapshot: Snapshot, sha256: str, name: str) -> list[uuid.UUID]:
    return [listing.changeset_id for listing in snapshot.listings.get(sha256, ()) if listing.name == name]


def _refused_for_all(snapshot: Snapshot, sha256: str) -> Refused | None:
    if (reason := snapshot.suspended.get(sha256)) is not None:
        return Refused(RefusalCode.SUSPENDED, reason)
    if snapshot.everything_halted is not None:
        return Refused(RefusalCode.HALTED, snapshot.everything_halted)
    return None
