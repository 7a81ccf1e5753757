"""An attempt: one node taking one changeset once; and what a report makes of it.

``observe`` is the rule by which reports move attempts. ``fleet.report_v1`` is the same rule next to the rows, so that
replicas need not share memory; a test drives both with the same histories.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from shared.domain.observation import ObservationKind as Kind
from shared.domain.observation import ObservationSource as Source


class AttemptState(enum.StrEnum):
    """Where an attempt stands; the last five are closed."""

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

    @property
    def closed(self) -> bool:
        """Whether nothing more is expected of it."""
        return self in CLOSED


CLOSED = frozenset(
    {
        AttemptState.COMMITTED,
        AttemptState.ROLLED_BACK,
        AttemptState.FAILED,
        AttemptState.PRESUMED_LOST,
        AttemptState.RECALLED,
    }
)
UNSTAGED = frozenset({AttemptState.OFFERED, AttemptState.DOWNLOADING})
WAITING = frozenset({AttemptState.STAGED, AttemptState.AWAITING_REBOOT})
FORMER_BOOTS = 4
"""How many former boot ids of a node are remembered to tell a cloned machine id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """What is known of a node before a report."""

    version: str
    boot_id: str
    boot_seen_at: datetime
    former_boot_ids: tuple[str, ...] = ()
    cloned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """The node's open attempt, else its last one. ``boot_id`` is the boot in which the offer was made."""

    state: AttemptState
    from_version: str
    to_version: str
    boot_id: str
    awaited_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a node says: a wire event or a poll, in which boot, on which version."""

    kind: Kind
    source: Source
    version: str
    boot_id: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a report does.

    Attributes:
        moves: The verbs of the ``update.*`` events, in order.
        attempt: The attempt afterwards; unchanged where ``applied`` is false.
        applied: Whether the events moved the attempt.
        quarantined: Whether the changeset is not offered to this node again.
        cloned_now: Whether the report shows that several machines share the id.
    """

    node: NodeRow
    attempt: AttemptRow | None
    moves: tuple[str, ...] = ()
    applied: bool = True
    reason: str | None = None
    quarantined: bool = False
    cloned_now: bool = False


@dataclass(frozen=True, slots=True)
class _Move:
    moves: tuple[str, ...] = ()
    states: tuple[AttemptState, ...] = ()
    applied: bool = True
    reason: str | None = None
    quarantine: bool = False


_NOTHING = _Move()
_NO_NEWS = frozenset({Kind.POLL, Kind.PING, Kind.UPDATED, Kind.DEFERRED})
_ROLLED_BACK = (AttemptState.ROLLED_BACK,)
_FAILED = (AttemptState.FAILED,)


def observe(node: NodeRow, attempt: AttemptRow | None, report: Report, awaited_every: timedelta) -> Effect:
    """What a report does to a node and its attempt.

    Args:
        node: The node as it was known.
        attempt: Its open attempt, else its last, else None.
        report: What it says now; not a duplicate.
        awaited_every: A waiting node's polls become an event at most this often.
    """
    boot_is_new = report.boot_id != node.boot_id
    # A boot that was never seen is news, whatever a native node's own clock says; only a former one may be an old
    # report. Omaha reports have our clock, and those that were spooled are old even where their boot is unknown.
    in_order = report.at >= node.boot_seen_at or (
        report.source is Source.NATIVE and report.boot_id not in node.former_boot_ids
    )
    if (
        boot_is_new
        and in_order
        and not node.cloned
        and report.boot_id in node.former_boot_ids
        and not report.boot_id.startswith("unknown-")
    ):
        return Effect(node=replace(node, cloned=True), attempt=attempt, cloned_now=True)
    if node.cloned:
        return Effect(node=node, attempt=attempt)
    move = _move(node, attempt, report, awaited_every, boot_is_new=boot_is_new, in_order=in_order)
    after = attempt
    if attempt is not None and move.states:
        after = replace(
            attempt,
            state=move.states[-1],
            awaited_at=report.at if move.moves[0] == "reboot_awaited" else attempt.awaited_at,
        )
    if in_order and (boot_is_new or report.version != node.version):
        node = NodeRow(
            version=report.version,
            boot_id=report.boot_id,
            boot_seen_at=report.at if boot_is_new else node.boot_seen_at,
            former_boot_ids=(node.boot_id, *node.former_boot_ids)[:FORMER_BOOTS]
            if boot_is_new
            else node.former_boot_ids,
            cloned=node.cloned,
        )
    return Effect(
        node=node,
        attempt=after,
        moves=move.moves,
        applied=move.applied,
        reason=move.reason,
        quarantined=move.quarantine,
    )


def _move(
    node: NodeRow,
    attempt: AttemptRow | None,
    report: Report,
    awaited_every: timedelta,
    *,
    boot_is_new: bool,
    in_order: bool,
) -> _Move:
    kind = report.kind
    if attempt is None:
        return _NOTHING if kind in _NO_NEWS else _Move((kind.value,), applied=False, reason="no_attempt")
    rebooted = report.boot_id != attempt.boot_id and (in_order or not boot_is_new)
    if boot_is_new and in_order and report.boot_id.startswith("unknown-"):
        # Of a node that tells no boot id: back on its old version it seems to be in the boot of the offer.
        rebooted = True
    on_target = report.version == attempt.to_version
    if attempt.state.closed:
        return _late(node, attempt, report, rebooted=rebooted, came_back=boot_is_new and in_order)
    if on_target and rebooted and report.source is not Source.NATIVE:
        if attempt.state is AttemptState.PROBATION:
            return _Move(("committed",), (AttemptState.COMMITTED,))
        return _Move(("booted", "committed"), (AttemptState.PROBATION, AttemptState.COMMITTED))
    if kind is Kind.ROLLED_BACK:
        if rebooted:
            return _Move(("rolled_back",), _ROLLED_BACK, reason="reported", quarantine=True)
        return _Move(("failed",), _FAILED, reason="marker_reset")
    if rebooted and not on_target and kind is not Kind.COMMITTED:
        if attempt.state in UNSTAGED:
            return _Move(("failed",), _FAILED, reason="rebooted_before_staged")
        return _Move(("rolled_back",), _ROLLED_BACK, reason="came_back_on_old_version", quarantine=True)
    match kind:
        case Kind.FAILED:
            if rebooted or attempt.state in (AttemptState.REBOOTING, AttemptState.PROBATION):
                return _Move(("rolled_back",), _ROLLED_BACK, reason="unhealthy", quarantine=True)
            return _Move(("failed",), _FAILED)
        case Kind.COMMITTED:
            if not (rebooted and on_target):
                return _Move(("committed",), applied=False, reason="not_rebooted_into_target")
            if attempt.state is AttemptState.PROBATION:
                return _Move(("committed",), (AttemptState.COMMITTED,))
            return _Move(("booted", "committed"), (AttemptState.PROBATION, AttemptState.COMMITTED))
        case Kind.BOOTED:
            if rebooted and attempt.state is not AttemptState.PROBATION:
                return _Move(("booted",), (AttemptState.PROBATION,))
            return _Move(("booted",), applied=False, reason="not_rebooted")
        case Kind.STAGED:
            if attempt.state in UNSTAGED:
                return _Move(("staged",), (AttemptState.STAGED,))
            return _Move(("staged",), applied=False)
        case Kind.DOWNLOAD_STARTED:
            if attempt.state is AttemptState.OFFERED:
                return _Move(("download_started",), (AttemptState.DOWNLOADING,))
            return _Move(("download_started",), applied=False)
        case Kind.DOWNLOADED:
            if attempt.state in UNSTAGED:
                return _Move(("downloaded",), (AttemptState.DOWNLOADING,))
            return _Move(("downloaded",), applied=False)
        case Kind.POLL | Kind.PING | Kind.REBOOT_AWAITED:
            due = attempt.awaited_at is None or report.at >= attempt.awaited_at + awaited_every
            if attempt.state in WAITING and not rebooted and due:
                return _Move(("reboot_awaited",), (AttemptState.AWAITING_REBOOT,))
            return _NOTHING
        case Kind.UPDATED | Kind.DEFERRED:
            return _NOTHING


def _late(node: NodeRow, attempt: AttemptRow, report: Report, *, rebooted: bool, came_back: bool) -> _Move:
    """A report on an attempt that is closed: rollbacks still count against the changeset, the rest is recorded."""
    kind, state = report.kind, attempt.state
    on_target = report.version == attempt.to_version
    if state in (AttemptState.PRESUMED_LOST, AttemptState.COMMITTED) and rebooted and not on_target:
        back_on_old = (
            came_back
            and report.version == attempt.from_version
            and (state is AttemptState.PRESUMED_LOST or node.version == attempt.to_version)
        )
        if kind is Kind.ROLLED_BACK or back_on_old:
            reason = "version_regressed" if state is AttemptState.COMMITTED else "late"
            return _Move(("rolled_back",), _ROLLED_BACK, reason=reason, quarantine=True)
    proven = kind is Kind.COMMITTED or report.source is not Source.NATIVE
    if state is AttemptState.PRESUMED_LOST and rebooted and proven and on_target:
        return _Move(("committed",), (AttemptState.COMMITTED,), reason="late")
    if kind is Kind.ROLLED_BACK and rebooted and state in (AttemptState.RECALLED, AttemptState.FAILED):
        # A native node goes back since it was told to let go.
        obeyed = state is AttemptState.RECALLED and report.source is Source.NATIVE
        return _Move(("rolled_back",), applied=False, quarantine=not obeyed, reason=f"after_{state.value}")
    given_up = state in (AttemptState.RECALLED, AttemptState.FAILED, AttemptState.ROLLED_BACK)
    if kind is Kind.UPDATED and rebooted and on_target and given_up:
        # It took what it was to take no more: no evidence, but to be seen.
        return _Move(("committed",), applied=False, reason=f"after_{state.value}")
    if kind in _NO_NEWS:
        return _NOTHING
    return _Move((kind.value,), applied=False, reason=f"after_{state.value}")
