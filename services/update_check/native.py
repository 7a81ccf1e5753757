"""The native dialect's check: JSON in and out, decoded and bounded. Pure."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

import msgspec

from services.update_check.configuration import ApplicationView, GroupView
from services.update_check.poll import MAX_ARCH, MAX_MACHINE_ID, MAX_VERSION, Poll, told_first
from shared.domain.attempt import UNSTAGED, WAITING
from shared.domain.observation import ObservationSource
from shared.errors import InvalidInput

MAX_FACTS: Final = 64
POLL_JITTER: Final = 0.1
"""Nodes wait this share longer at most, each as it likes, so that they do not come all at once."""

_BEFORE_REBOOT: Final = frozenset(state.value for state in UNSTAGED | WAITING)
_PRINTABLE: Final = r"^[^\x00-\x1f\x7f]*\Z"
_MachineId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MACHINE_ID, pattern=_PRINTABLE)]
_Version = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_VERSION, pattern=_PRINTABLE)]
_Arch = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ARCH, pattern=_PRINTABLE)]
_Application = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=_PRINTABLE)]
_FactName = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=_PRINTABLE)]
_FactValue = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00]*\Z")]
_Facts = Annotated[dict[_FactName, _FactValue], msgspec.Meta(max_length=MAX_FACTS)]
_AttemptToken = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]


class AttemptPhase(enum.Enum):
    """How far the node has come with its attempt, as it sees it."""

    OFFERED = "offered"
    DOWNLOADING = "downloading"
    STAGED = "staged"
    AWAITING_REBOOT = "awaiting_reboot"
    PROBATION = "probation"


class AttemptTold(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The attempt that the node has under way; asked about before it reboots, and before it commits."""

    token: _AttemptToken
    state: AttemptPhase


class Check(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a node says and asks; fields that are not named here are ignored.

    Attributes:
        application: Its id, Omaha id or name.
        boot_id: Changes with every boot (``/proc/sys/kernel/random/boot_id``).
        on_demand: Whether somebody at the node asked for this check.
    """

    application: _Application
    machine_id: _MachineId
    boot_id: _MachineId
    version: _Version
    arch: _Arch
    facts: _Facts = {}
    on_demand: bool = False
    attempt: AttemptTold | None = None


class Enrol(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A machine that wants a token of its own.

    Attributes:
        nonce: Random, made and kept by the machine: asking again with the same one gives the same token.
    """

    application: _Application
    machine_id: _MachineId
    nonce: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{22,128}\Z")]


class Enrolled(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The token that the machine's checks and reports are to carry."""

    token: str
    group: str | None


class CheckDecision(enum.Enum):
    """What the node is to do."""

    UPDATE = "update"
    NONE = "none"


class Signature(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Of the manifest, by one key."""

    key_id: str
    signature: str


class Payload(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A file of the changeset; ``size`` in bytes. In an answer with where it is."""

    name: str
    role: str
    required: bool
    sha256: str
    size: int
    urls: tuple[str, ...] = ()


class Update(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was granted.

    Attributes:
        attempt: The attempt's token.
        deadline_s: A node that has begun its reboot and is silent for so many seconds counts as lost.
        probation_s: How many seconds it proves itself before it commits.
        download_rate: Bytes per second; null: as fast as it can.
        manifest: Base64 of the bytes that are signed; null where the changeset has none.
    """

    attempt: str
    changeset_id: uuid.UUID
    version: str
    deadline_s: float
    probation_s: float
    download_rate: int | None
    manifest: str | None
    signatures: tuple[Signature, ...]
    payloads: tuple[Payload, ...]


class CheckAnswer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to a check.

    Attributes:
        reason: ``granted``, or why there is no update now.
        words: The same in a sentence.
        recall: The attempt that the node told of is off: it is not to reboot into it, nor to commit it.
        recall_reason: Why.
        poll_interval_s: When to ask again, plus a random share of ``poll_jitter`` of it.
        server_time: By our clock.
    """

    decision: CheckDecision
    reason: str
    words: str
    update: Update | None
    recall: bool
    recall_reason: str | None
    poll_interval_s: int
    poll_jitter: float
    server_time: datetime


@dataclass(frozen=True, slots=True)
class AttemptStanding:
    """Where an attempt stands, and the gates above it.

    Attributes:
        reason: Why it is in its state.
        open: Whether the global gate is open.
        aborted: Whether its rollout was aborted.
        excluded: Whether its node was excluded from the rollout.
        held: Whether a hold covers its node.
    """

    state: str
    reason: str | None
    gate_state: str | None
    gate_reason: str | None
    open: bool
    aborted: bool = False
    excluded: bool = False
    held: bool = False


def poll_of(  # what is known about who sent it
    check: Check,
    application: ApplicationView,
    *,
    group_id: uuid.UUID | None,
    at: datetime,
    address: str | None,
    traceparent: str | None,
    imported: Mapping[str, str] | None = None,
) -> Poll:
    """What a check says of its node.

    Args:
        check: What was sent.
        application: Whose node it is.
        group_id: The group that the node's token binds it to; without one its facts decide.
        at: When it came.
        address: From where.
        traceparent: The caller's trace.
        imported: Facts of the node that operators imported.
    """
    facts = {**check.facts, "arch": check.arch}
    fact = told_first({**facts, "version": check.version}.get, imported)
    return Poll(
        source=ObservationSource.NATIVE,
        application=application,
        key=(application.application_id, check.machine_id),
        version=check.version,
        boot_id=check.boot_id,
        arch=check.arch,
        group=_bound_to(application, group_id) or application.group_of(fact, check.machine_id),
        fact=fact,
        facts=lambda: facts,
        on_demand=check.on_demand,
        at=at,
        address=address,
        traceparent=traceparent,
    )


def _bound_to(application: ApplicationView, group_id: uuid.UUID | None) -> GroupView | None:
    if group_id is None:
        return None
    return next((group for group in application.groups if group.group_id == group_id), None)


def recall_of(attempt: AttemptStanding | None) -> str | None:
    """Why the attempt that a node told of is off; None where it may go on.

    Args:
        attempt: Where it stands; None where the node has no such attempt.
    """
    if attempt is None:
        return "there is no such attempt of this node"
    if attempt.state == "recalled":
        return attempt.reason or "the offer was taken back"
    if attempt.gate_state in {"halted", "withdrawn"}:
        return attempt.gate_reason or f"the changeset is {attempt.gate_state}"
    if not attempt.open:
        return "everything is halted"
    if attempt.state not in _BEFORE_REBOOT:
        # It runs the release: what keeps single nodes from taking it is no reason to go back from it.
        return None
    if attempt.aborted:
        return "the rollout was aborted"
    if attempt.excluded:
        return "the node was excluded from the rollout"
    return "the changeset is held for nodes like this one" if attempt.held else None


def with_urls(payloads: tuple[Payload, ...], distribution_url: str, token: str) -> tuple[Payload, ...]:
    """Files with where they are: all under the main payload's digest, by their names, as distribution finds them.

    Raises:
        InvalidInput: There are none.
    """
    if not payloads:
        raise InvalidInput("the changeset has no payload")
    base = f"{distribution_url.rstrip('/')}/payloads/{payloads[0].sha256}/{token}/"
    return tuple(msgspec.structs.replace(payload, urls=(base + payload.name,)) for payload in payloads)
