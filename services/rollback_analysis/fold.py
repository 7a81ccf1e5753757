"""The deterministic fold over the ledger: every event in order of ``seq`` goes in, verdicts come out.

No I/O and no clock. Time is *observed time*: the sum of ``min(gap between ticks, 10 s)``, standing still while we are
blind, so that an outage of ours makes nobody's deadline pass. Deadlines are judged when a tick arrives, everything else
after every event. The same events give the same verdict bytes, whether the fold ran through or was restored on the way.

What counts: only the first *started* attempt of a node. It counts from its start, as good until it is known to be bad;
bad is absorbing. A staged node whose contact is overdue is taken to have started. If it then turns out to wait in its
old boot after all, it stays in n (n never falls) and can still boot, commit, roll back or fall silent.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, assert_never

from services.rollback_analysis.evidence import EvidenceProcess, lower, upper
from services.rollback_analysis.fold_input import (
    VERSION_REGRESSED,
    ChangesetHalted,
    ChangesetResumed,
    FoldInput,
    LimitsChanged,
    NodeGone,
    Parameters,
    RolloutCreated,
    RolloutEnded,
    RolloutResumed,
    Ticked,
    UpdateKind,
    UpdateObserved,
)
from services.rollback_analysis.fold_rows import AttemptRow, Changes, ChangesetRow, FoldRow
from services.rollback_analysis.pace import OutcomeWindow, group_hold_budget, pace, small_group_waits
from services.rollback_analysis.verdicts import (
    Blind,
    BlindReason,
    Counts,
    Expire,
    ExpireReason,
    Halt,
    Pace,
    Park,
    Sighted,
    Verdict,
)

RULE_VERSION: Final = "grid12-restarts/2"
"""Changes with every rule that could change a verdict."""
TICK_CAP_S: Final = 10.0
"""The most that one gap between ticks adds to observed time."""
OUTAGE_S: Final = 60.0
"""From so much ledger time in one stretch that observed time did not follow, it was an outage and calls for grace."""
GRACE_PER_SILENCE: Final = 2.4
"""The default grace after an outage, in silence deadlines: 6 h at 2.5 h (update_engine backs off to 4 h)."""
BLIND_EXPECTED: Final = 40.0
"""A site is judged each time so many contacts were to be expected of it."""
BLIND_WINDOW_S: Final = 10.0
"""And over no less time than this: contacts are written in batches, so that a second or two may look empty."""
BLIND_SHARE: Final = 1.0 / 3.0
"""Fewer contacts than this share of the expected: blind."""
FORSAKEN_S: Final = 86_400.0
"""A blind site without any nodes to expect for so long is given up: nobody is left to hear from."""
LAG_SHARE: Final = 1.0 / 3.0
"""An ingest lag above this share of the shortest silence deadline: blind."""
PARK_RETRY_S: Final = 900.0
"""An attempt that could not be parked, since too many are, is looked at again after this."""
PARKED_PER_GROUP: Final = 10
"""At most one node in so many of a group may be parked."""


class Phase(enum.Enum):
    """Where an attempt stands, as far as it matters here."""

    OFFERED = "offered"
    """Granted, perhaps downloading."""
    STAGED = "staged"
    """Waits for its reboot."""
    OVERDUE = "overdue"
    """Started: it was staged, and its contact is overdue."""
    RETURNED = "returned"
    """Was overdue, but waits in its old boot after all."""
    BOOTED = "booted"
    """Started: seen in its new boot."""
    CLOSED = "closed"


class Outcome(enum.Enum):
    """What became of an attempt."""

    PENDING = "pending"
    GOOD = "good"
    BAD = "bad"
    LATE_GOOD = "late_good"
    """Bad, and committed later: bad in the evidence, shown apart."""
    LAPSED = "lapsed"
    """Given up without progress; taken up again if it moves after all."""
    EXCLUDED = "excluded"
    """Neither good nor bad."""


_STARTED_PHASES: Final = frozenset({Phase.OVERDUE, Phase.RETURNED, Phase.BOOTED})
_AWAITING_PHASES: Final = frozenset({Phase.STAGED, Phase.RETURNED})
_PROGRESS: Final = frozenset(
    {
        UpdateKind.DOWNLOAD_STARTED,
        UpdateKind.DOWNLOADED,
        UpdateKind.STAGED,
        UpdateKind.REBOOT_AWAITED,
        UpdateKind.BOOTED,
        UpdateKind.COMMITTED,
        UpdateKind.ROLLED_BACK,
    },
)
# What no node says: words about an attempt that are no contact with its node.
_NOT_CONTACT: Final = frozenset({UpdateKind.PARKED, UpdateKind.PRESUMED_LOST, UpdateKind.RECALLED})
_NEVER: Final = math.inf


class _Attempt:
    __slots__ = (
        "attempt_id",
        "awaiting_since",
        "block",
        "changeset",
        "epoch",
        "group_id",
        "last_contact",
        "node_id",
        "outcome",
        "park_due",
        "parked",
        "phase",
        "queued",
        "rollout_id",
    )

    def __init__(
        self,
        attempt_id: str,
        changeset: _Changeset,
        node_id: str,
        rollout_id: str,
        group_id: str,
        *,
        last_contact: float,
    ) -> None:
        self.attempt_id = attempt_id
        self.changeset = changeset
        self.node_id = node_id
        self.rollout_id = rollout_id
        self.group_id = group_id
        self.phase = Phase.OFFERED
        self.outcome = Outcome.PENDING
        self.block: int | None = None
        self.epoch = 0
        self.parked = False
        self.last_contact = last_contact
        self.awaiting_since: float | None = None
        self.park_due = _NEVER
        self.queued = _NEVER

    def row(self) -> AttemptRow:
        return AttemptRow(
            attempt_id=self.attempt_id,
            changeset_id=self.changeset.changeset_id,
            node_id=self.node_id,
            rollout_id=self.rollout_id,
            group_id=self.group_id,
            phase=self.phase.value,
            outcome=self.outcome.value,
            block=self.block,
            epoch=self.epoch,
            parked=self.parked,
            last_contact_observed_s=self.last_contact.hex(),
            awaiting_since_observed_s=None if self.awaiting_since is None else self.awaiting_since.hex(),
            park_due_observed_s=None if self.park_due == _NEVER else self.park_due.hex(),
        )


@dataclass(slots=True)
class _Tally:
    started: int = 0
    good: int = 0
    bad: int = 0
    dropped: int = 0
    silent: int = 0
    late_good: int = 0

    @property
    def pending(self) -> int:
        return self.started - self.good - self.bad - self.dropped

    def counts(self) -> Counts:
        return Counts(
            started=self.started,
            good=self.good,
            bad=self.bad,
            pending=self.pending,
            dropped=self.dropped,
            silent=self.silent,
            late_good=self.late_good,
        )

    def state(self) -> list[int]:
        return [self.started, self.good, self.bad, self.dropped, self.silent, self.late_good]


@dataclass(slots=True)
class _Group:
    group_id: str
    size: int
    limit: int
    hold_budget: int | None
    active: bool = True
    parked: int = 0
    closed: int = 0
    bad: int = 0
    forgiven: int = 0
    pace: int | None = None

    def state(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


class _Changeset:
    __slots__ = (
        "changeset_id",
        "epoch_tally",
        "first_seq",
        "first_started",
        "groups",
        "halted",
        "open_attempts",
        "pace",
        "pace_limit",
        "parameters",
        "process",
        "resumes",
        "tally",
        "window",
    )

    def __init__(self, changeset_id: str, first_seq: int, parameters: Parameters) -> None:
        self.changeset_id = changeset_id
        self.first_seq = first_seq
        self.parameters = parameters
        self.pace_limit = parameters.pace_limit
        self.resumes = 0
        self.halted = False
        self.process = EvidenceProcess(parameters.p0, parameters.planned_blocks, parameters.block_size)
        self.tally = _Tally()
        self.epoch_tally = _Tally()
        self.window = OutcomeWindow()
        self.groups: dict[str, _Group] = {}
        self.first_started: dict[str, str] = {}
        self.open_attempts = 0
        self.pace: int | None = None

    @property
    def alpha(self) -> float:
        return float(self.parameters.alpha / 2.0**self.resumes)

    @property
    def threshold(self) -> float:
        return math.log(1.0 / self.alpha)

    @property
    def active(self) -> bool:
        return self.open_attempts > 0 or any(group.active for group in self.groups.values())

    @property
    def grace_s(self) -> float:
        grace = self.parameters.outage_grace_s
        return GRACE_PER_SILENCE * self.parameters.silence_s if grace is None else grace

    def row(self) -> ChangesetRow:
        parameters = self.parameters
        return ChangesetRow(
            changeset_id=self.changeset_id,
            state={
                "first_seq": self.first_seq,
                "parameters": {
                    name: value.hex() if isinstance(value := getattr(parameters, name), float) else value
                    for name in parameters.__slots__
                },
                "pace_limit": self.pace_limit,
                "resumes": self.resumes,
                "halted": self.halted,
                "blocks": [list(block) for block in self.process.blocks],
                "tally": self.tally.state(),
                "epoch_tally": self.epoch_tally.state(),
                "closed": self.window.closed,
                "closed_bad": self.window.bad,
                "recent": "".join("1" if bad else "0" for bad in self.window.recent),
                "groups": {rollout_id: group.state() for rollout_id, group in self.groups.items()},
                "pace": self.pace,
            },
            view=self.view(),
        )

    def view(self) -> dict[str, object]:
        tally, epoch = self.tally, self.epoch_tally
        return {
            "rule_version": RULE_VERSION,
            "started": tally.started,
            "good": tally.good,
            "bad": tally.bad,
            "pending": tally.pending,
            "dropped": tally.dropped,
            "silent": tally.silent,
            "late_good": tally.late_good,
            "judged_started": epoch.started,
            "judged_bad": epoch.bad,
            "ln_e": self.process.maximum,
            "ln_e_last": self.process.last,
            "threshold": self.threshold,
            "p0": self.parameters.p0,
            "alpha": self.alpha,
            "resumes": self.resumes,
            "halted": self.halted,
            "rate_lower": lower(tally.bad, tally.started),
            "rate_upper": upper(tally.bad + tally.pending, tally.started),
            "p_upper": self.window.p_upper,
            "pace": self.pace,
            "group_paces": {rollout_id: group.pace for rollout_id, group in self.groups.items() if group.active},
        }

    @classmethod
    def restored(cls, row: ChangesetRow) -> _Changeset:
        state: Mapping[str, Any] = row.state
        values: dict[str, Any] = {
            name: float.fromhex(value) if isinstance(value, str) else value
            for name, value in state["parameters"].items()
        }
        parameters = Parameters(**values)
        changeset = cls(row.changeset_id, state["first_seq"], parameters)
        changeset.pace_limit = state["pace_limit"]
        changeset.resumes = state["resumes"]
        changeset.halted = state["halted"]
        changeset.process = EvidenceProcess(
            parameters.p0,
            parameters.planned_blocks,
            parameters.block_size,
            [(started, bad) for started, bad in state["blocks"]],
        )
        changeset.tally = _Tally(*state["tally"])
        changeset.epoch_tally = _Tally(*state["epoch_tally"])
        changeset.window = OutcomeWindow(
            state["closed"], state["closed_bad"], [outcome == "1" for outcome in state["recent"]]
        )
        changeset.groups = {rollout_id: _Group(**group) for rollout_id, group in state["groups"].items()}
        changeset.pace = state["pace"]
        return changeset


@dataclass(slots=True)
class _Site:
    """Contacts heard and expected since the last judgement, and how long ago it is; how long none were expected."""

    contacts: int = 0
    expected: float = 0.0
    forsaken_s: float = 0.0
    window_s: float = 0.0


class Fold:
    """See the module. Not thread-safe; state grows with the attempts that it has seen."""

    def __init__(self) -> None:
        self._last_seq = 0
        self._observed = 0.0
        self._last_tick: datetime | None = None
        self._dark_s = 0.0
        self._outage_end = -1.0
        self._sites: dict[str, _Site] = {}
        self._blind_sites: set[str] = set()
        self._lagging = False
        self._changesets: dict[str, _Changeset] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._open_by_node: dict[str, list[_Attempt]] = {}
        # Earliest time at which an attempt may be due; an entry holds while it equals the attempt's `queued`.
        self._queue: list[tuple[float, str]] = []
        self._fold_changed = False
        self._changed_changesets: dict[str, _Changeset] = {}
        self._changed_attempts: dict[str, _Attempt] = {}

    @property
    def last_seq(self) -> int:
        """The ``seq`` of the last event that was applied; 0 before the first."""
        return self._last_seq

    @property
    def observed_s(self) -> float:
        """Observed time since the fold's beginning, in seconds."""
        return self._observed

    @property
    def blind(self) -> bool:
        """Whether anything keeps us from seeing."""
        return self._lagging or bool(self._blind_sites)

    @property
    def changeset_ids(self) -> tuple[str, ...]:
        """Every changeset that had a rollout, in order of the first."""
        return tuple(self._changesets)

    def counts(self, changeset_id: str) -> Counts:
        """What is known of a changeset's nodes; raises KeyError for one without a rollout."""
        return self._changesets[changeset_id].tally.counts()

    def halted(self, changeset_id: str) -> bool:
        """Whether a changeset is halted; raises KeyError for one without a rollout."""
        return self._changesets[changeset_id].halted

    def view(self, changeset_id: str) -> dict[str, object]:
        """Counts, evidence, interval and paces of a changeset for readers; raises KeyError as above."""
        return self._changesets[changeset_id].view()

    def apply(self, seq: int, recorded_at: datetime, event_type: str, data: FoldInput) -> list[Verdict]:
        """Take in one event.

        An event at or before the last applied ``seq`` changes nothing. Events about changesets without a rollout
        change nothing.

        Args:
            seq: the event's position in the ledger.
            recorded_at: ledger time; only a tick's plays a part.
            event_type: the event's name, quoted in the evidence of a halt.
            data: what it says.

        Returns:
            What follows, in order.
        """
        if seq <= self._last_seq:
            return []
        self._last_seq = seq
        self._fold_changed = True
        verdicts: list[Verdict] = []
        match data:
            case UpdateObserved():
                self._observe(seq, event_type, data, verdicts)
            case Ticked():
                self._tick(seq, recorded_at, event_type, data, verdicts)
            case RolloutCreated():
                self._create_rollout(seq, data, verdicts)
            case RolloutEnded():
                self._end_rollout(data)
            case RolloutResumed():
                self._forgive(seq, data, verdicts)
            case LimitsChanged():
                self._change_limits(seq, data, verdicts)
            case ChangesetHalted():
                self._accept_halt(data)
            case ChangesetResumed():
                self._resume(seq, data, verdicts)
            case NodeGone():
                self._drop_node(data)
            case _:  # pragma: no cover
                assert_never(data)
        return verdicts

    # Rollouts and operators

    def _create_rollout(self, seq: int, data: RolloutCreated, verdicts: list[Verdict]) -> None:
        changeset = self._changesets.get(data.changeset_id)
        if changeset is None:
            changeset = _Changeset(data.changeset_id, seq, data.parameters)
            self._changesets[data.changeset_id] = changeset
        if data.rollout_id in changeset.groups:
            return
        changeset.groups[data.rollout_id] = _Group(
            group_id=data.group_id,
            size=data.group_size,
            limit=data.group_pace_limit,
            hold_budget=data.group_hold_budget,
        )
        self._touch(changeset)
        self._repace(seq, changeset, verdicts)

    def _group(self, changeset_id: str, rollout_id: str) -> tuple[_Changeset | None, _Group | None]:
        changeset = self._changesets.get(changeset_id)
        return changeset, None if changeset is None else changeset.groups.get(rollout_id)

    def _end_rollout(self, data: RolloutEnded) -> None:
        changeset, group = self._group(data.changeset_id, data.rollout_id)
        if changeset and group and group.active:
            group.active = False
            group.pace = None
            self._touch(changeset)

    def _forgive(self, seq: int, data: RolloutResumed, verdicts: list[Verdict]) -> None:
        changeset, group = self._group(data.changeset_id, data.rollout_id)
        if changeset and group:
            group.forgiven = group.bad
            self._touch(changeset)
            self._repace(seq, changeset, verdicts)

    def _change_limits(self, seq: int, data: LimitsChanged, verdicts: list[Verdict]) -> None:
        changeset, group = self._group(data.changeset_id, data.rollout_id)
        if changeset is None or group is None:
            return
        if data.pace_limit is not None:
            changeset.pace_limit = data.pace_limit
        if data.group_pace_limit is not None:
            group.limit = data.group_pace_limit
        if data.group_size is not None:
            group.size = data.group_size
            group.hold_budget = None
        self._touch(changeset)
        self._repace(seq, changeset, verdicts)

    def _accept_halt(self, data: ChangesetHalted) -> None:
        changeset = self._changesets.get(data.changeset_id)
        if changeset and not changeset.halted:
            self._latch(changeset)

    def _latch(self, changeset: _Changeset) -> None:
        changeset.halted = True
        changeset.pace = None
        for group in changeset.groups.values():
            group.pace = None
        self._touch(changeset)

    def _resume(self, seq: int, data: ChangesetResumed, verdicts: list[Verdict]) -> None:
        changeset = self._changesets.get(data.changeset_id)
        if changeset is None:
            return
        for group in changeset.groups.values():
            group.forgiven = group.bad
        if changeset.halted:
            # Each resume halves alpha, so that overriding again and again cannot launder evidence.
            parameters = changeset.parameters
            changeset.halted = False
            changeset.resumes += 1
            changeset.process = EvidenceProcess(parameters.p0, parameters.planned_blocks, parameters.block_size)
            changeset.epoch_tally = _Tally()
        self._touch(changeset)
        self._repace(seq, changeset, verdicts)

    def _drop_node(self, data: NodeGone) -> None:
        for attempt in sorted(self._open_by_node.get(data.node_id, ()), key=lambda gone: gone.attempt_id):
            self._drop(attempt)

    # Attempts

    def _observe(self, seq: int, event_type: str, data: UpdateObserved, verdicts: list[Verdict]) -> None:
        kind = data.kind
        if kind is UpdateKind.PRESUMED_LOST:
            # The echo of an Expire.
            return
        attempt = self._find(data)
        if attempt is None:
            return
        if kind is UpdateKind.PARKED:
            if data.applied and attempt.phase in _AWAITING_PHASES and not attempt.parked:
                self._park(attempt)
            return
        if attempt.phase is Phase.CLOSED:
            if attempt.outcome is Outcome.LAPSED and data.applied and kind in _PROGRESS:
                self._reopen(attempt)
            else:
                self._observe_closed(seq, event_type, attempt, data, verdicts)
                return
        if kind not in _NOT_CONTACT and attempt.last_contact != self._observed:
            had_grace = attempt.last_contact <= self._outage_end
            attempt.last_contact = self._observed
            self._changed_attempts[attempt.attempt_id] = attempt
            if had_grace:
                self._moved(attempt)
            # Else the deadline only moved later, and the queue finds out when the old one comes.
        if kind is UpdateKind.REBOOT_AWAITED and attempt.phase is Phase.OVERDUE:
            self._await_reboot(attempt, Phase.RETURNED)
            return
        if not data.applied:
            return
        match kind:
            case UpdateKind.OFFERED | UpdateKind.DOWNLOAD_STARTED | UpdateKind.DOWNLOADED:
                return
            case UpdateKind.STAGED | UpdateKind.REBOOT_AWAITED:
                if attempt.phase is Phase.OFFERED:
                    self._await_reboot(attempt, Phase.STAGED)
            case UpdateKind.BOOTED:
                self._start(attempt, Phase.BOOTED)
            case UpdateKind.COMMITTED:
                self._start(attempt, Phase.BOOTED)
                self._close_good(attempt)
                self._repace(seq, attempt.changeset, verdicts)
            case UpdateKind.ROLLED_BACK:
                self._start(attempt, Phase.BOOTED)
                self._close_bad(seq, event_type, attempt, verdicts)
                self._repace(seq, attempt.changeset, verdicts)
            case UpdateKind.FAILED:
                if attempt.phase is Phase.BOOTED:
                    self._close_bad(seq, event_type, attempt, verdicts)
                    self._repace(seq, attempt.changeset, verdicts)
                else:
                    # Overdue, but what failed had not booted: it stays in n.
                    self._drop(attempt)
            case UpdateKind.RECALLED:
                self._drop(attempt)
            case _:  # pragma: no cover
                raise AssertionError(kind)

    def _find(self, data: UpdateObserved) -> _Attempt | None:
        changeset = self._changesets.get(data.changeset_id)
        if data.attempt_id is None:
            if changeset is None or data.kind is not UpdateKind.ROLLED_BACK:
                return None
            return self._attempts.get(changeset.first_started.get(data.node_id, ""))
        attempt = self._attempts.get(data.attempt_id)
        if attempt is not None or changeset is None or not data.applied:
            return attempt
        # Not only by an offer: an earlier event may have been set aside, and a later one implies it.
        attempt = _Attempt(
            data.attempt_id, changeset, data.node_id, data.rollout_id, data.group_id, last_contact=self._observed
        )
        self._attempts[data.attempt_id] = attempt
        self._open(attempt)
        self._moved(attempt)
        return attempt

    def _observe_closed(
        self, seq: int, event_type: str, attempt: _Attempt, data: UpdateObserved, verdicts: list[Verdict]
    ) -> None:
        changeset = attempt.changeset
        if data.kind is UpdateKind.COMMITTED and attempt.outcome is Outcome.BAD:
            attempt.outcome = Outcome.LATE_GOOD
            self._changed_attempts[attempt.attempt_id] = attempt
            if attempt.block is not None:
                changeset.tally.late_good += 1
                if attempt.epoch == changeset.resumes:
                    changeset.epoch_tally.late_good += 1
                self._touch(changeset)
        elif (
            data.kind is UpdateKind.ROLLED_BACK
            and attempt.outcome is Outcome.GOOD
            and (data.applied or data.reason == VERSION_REGRESSED)
        ):
            self._worsen(seq, event_type, attempt, verdicts)
            self._repace(seq, changeset, verdicts)

    def _open(self, attempt: _Attempt) -> None:
        attempt.changeset.open_attempts += 1
        self._open_by_node.setdefault(attempt.node_id, []).append(attempt)

    def _reopen(self, attempt: _Attempt) -> None:
        # Our verdict came too late: the attempt had moved, and the database let it.
        attempt.phase = Phase.OFFERED
        attempt.outcome = Outcome.PENDING
        attempt.last_contact = self._observed
        self._open(attempt)
        self._moved(attempt)

    def _await_reboot(self, attempt: _Attempt, phase: Phase) -> None:
        attempt.phase = phase
        attempt.awaiting_since = self._observed
        if not attempt.parked:
            attempt.park_due = self._observed + attempt.changeset.parameters.park_after_s
        self._moved(attempt)

    def _start(self, attempt: _Attempt, phase: Phase) -> None:
        changeset = attempt.changeset
        if attempt.phase not in _STARTED_PHASES and attempt.node_id not in changeset.first_started:
            changeset.first_started[attempt.node_id] = attempt.attempt_id
            # A start only dilutes the evidence, so that there is nothing to judge.
            attempt.block = changeset.process.add_start()
            attempt.epoch = changeset.resumes
            changeset.tally.started += 1
            changeset.epoch_tally.started += 1
            self._touch(changeset)
        if attempt.phase is phase:
            return
        attempt.phase = phase
        attempt.park_due = _NEVER
        if phase is Phase.BOOTED:
            self._unpark(attempt)
        self._moved(attempt)

    def _close(self, attempt: _Attempt, outcome: Outcome) -> None:
        attempt.phase = Phase.CLOSED
        attempt.outcome = outcome
        attempt.park_due = _NEVER
        attempt.queued = _NEVER
        self._unpark(attempt)
        attempt.changeset.open_attempts -= 1
        open_here = self._open_by_node[attempt.node_id]
        open_here.remove(attempt)
        if not open_here:
            del self._open_by_node[attempt.node_id]
        self._changed_attempts[attempt.attempt_id] = attempt

    def _close_good(self, attempt: _Attempt) -> None:
        self._close(attempt, Outcome.GOOD)
        if attempt.block is None:
            return
        changeset = attempt.changeset
        changeset.tally.good += 1
        if attempt.epoch == changeset.resumes:
            changeset.epoch_tally.good += 1
        changeset.window.add(bad=False)
        group = changeset.groups.get(attempt.rollout_id)
        if group is not None:
            group.closed += 1
        self._touch(changeset)

    def _close_bad(
        self, seq: int, event_type: str, attempt: _Attempt, verdicts: list[Verdict], *, silent: bool = False
    ) -> None:
        self._close(attempt, Outcome.BAD)
        if attempt.block is None:
            return
        changeset = attempt.changeset
        changeset.window.add(bad=True)
        group = changeset.groups.get(attempt.rollout_id)
        if group is not None:
            group.closed += 1
            group.bad += 1
        changeset.tally.bad += 1
        changeset.tally.silent += silent
        if attempt.epoch == changeset.resumes:
            changeset.epoch_tally.bad += 1
            changeset.epoch_tally.silent += silent
        self._judge(seq, event_type, attempt, attempt.block, verdicts)

    def _worsen(self, seq: int, event_type: str, attempt: _Attempt, verdicts: list[Verdict]) -> None:
        attempt.outcome = Outcome.BAD
        self._changed_attempts[attempt.attempt_id] = attempt
        if attempt.block is None:
            return
        changeset = attempt.changeset
        changeset.window.worsen()
        group = changeset.groups.get(attempt.rollout_id)
        if group is not None:
            group.bad += 1
        tallies = [changeset.tally]
        if attempt.epoch == changeset.resumes:
            tallies.append(changeset.epoch_tally)
        for tally in tallies:
            tally.good -= 1
            tally.bad += 1
        self._judge(seq, event_type, attempt, attempt.block, verdicts)

    def _drop(self, attempt: _Attempt) -> None:
        """Close without an outcome; what has started stays in n."""
        started = attempt.block is not None
        self._close(attempt, Outcome.EXCLUDED)
        if started:
            changeset = attempt.changeset
            changeset.tally.dropped += 1
            if attempt.epoch == changeset.resumes:
                changeset.epoch_tally.dropped += 1
            self._touch(changeset)

    def _park(self, attempt: _Attempt) -> None:
        attempt.parked = True
        attempt.park_due = _NEVER
        group = attempt.changeset.groups.get(attempt.rollout_id)
        if group is not None:
            group.parked += 1
            self._touch(attempt.changeset)
        self._changed_attempts[attempt.attempt_id] = attempt

    def _unpark(self, attempt: _Attempt) -> None:
        if not attempt.parked:
            return
        attempt.parked = False
        group = attempt.changeset.groups.get(attempt.rollout_id)
        if group is not None:
            group.parked -= 1
            self._touch(attempt.changeset)

    # Judgement

    def _judge(self, seq: int, event_type: str, attempt: _Attempt, block: int, verdicts: list[Verdict]) -> None:
        changeset = attempt.changeset
        self._touch(changeset)
        if attempt.epoch != changeset.resumes:
            # It started before the last resume, under evidence that an operator has overruled.
            return
        process = changeset.process
        process.add_bad(block)
        if changeset.halted or process.maximum < changeset.threshold:
            return
        tally = changeset.epoch_tally
        parameters = changeset.parameters
        prefix = process.argmax_prefix
        evidence: dict[str, object] = {
            "rule_version": RULE_VERSION,
            "p0": parameters.p0,
            "alpha": changeset.alpha,
            "threshold": changeset.threshold,
            "resumes": changeset.resumes,
            "block_size": parameters.block_size,
            "planned_blocks": parameters.planned_blocks,
            "started": tally.started,
            "good": tally.good,
            "bad": tally.bad,
            "pending": tally.pending,
            "dropped": tally.dropped,
            "silent": tally.silent,
            "ln_e": process.maximum,
            "ln_e_hex": process.maximum.hex(),
            "ln_e_last": process.last,
            "argmax_prefix": prefix,
            "prefix": sum(started for started, _ in process.blocks[:prefix]),
            "interval": [lower(tally.bad, tally.started), upper(tally.bad + tally.pending, tally.started)],
            "pace_before": changeset.pace,
            "deciding_seq": seq,
            "deciding_type": event_type,
            "deciding_attempt_id": attempt.attempt_id,
        }
        self._latch(changeset)
        verdicts.append(Halt(seq=seq, changeset_id=changeset.changeset_id, evidence=evidence))

    def _repace(self, seq: int, changeset: _Changeset, verdicts: list[Verdict]) -> None:
        if changeset.halted:
            return
        p_upper = changeset.window.p_upper
        blind = self.blind
        hold_budget = changeset.parameters.hold_budget
        changed = False
        active = False
        for group in changeset.groups.values():
            if not group.active:
                continue
            active = True
            now = 0 if blind else self._group_pace(changeset, group, p_upper)
            changed = changed or now != group.pace
            group.pace = now
        if not active:
            return
        now = 0 if blind else pace(changeset.pace_limit, hold_budget, p_upper)
        if not changed and now == changeset.pace:
            return
        changeset.pace = now
        self._touch(changeset)
        verdicts.append(
            Pace(
                seq=seq,
                changeset_id=changeset.changeset_id,
                pace=now,
                groups={
                    rollout_id: group.pace for rollout_id, group in changeset.groups.items() if group.pace is not None
                },
                p_upper=p_upper,
                counts=changeset.tally.counts(),
            ),
        )

    @staticmethod
    def _group_pace(changeset: _Changeset, group: _Group, p_upper: float) -> int:
        window = changeset.window
        if small_group_waits(
            group_size=group.size,
            bad_here=group.bad - group.forgiven,
            closed_elsewhere=window.closed - group.closed,
            bad_elsewhere=window.bad - group.bad,
        ):
            return 0
        hold_budget = group.hold_budget
        if hold_budget is None:
            hold_budget = group_hold_budget(changeset.parameters.hold_budget, group.size)
        return pace(group.limit, hold_budget, p_upper)

    # Time

    def _tick(self, seq: int, at: datetime, event_type: str, data: Ticked, verdicts: list[Verdict]) -> None:
        gap = 0.0 if self._last_tick is None else max(0.0, (at - self._last_tick).total_seconds())
        self._last_tick = at if self._last_tick is None else max(at, self._last_tick)
        was_blind = self.blind
        self._look(seq, gap, data, verdicts)
        is_blind = self.blind
        # The stretch before a tick that says "blind" was blind, and so was the one that ends with "sighted again".
        counted = 0.0 if was_blind or is_blind else min(gap, TICK_CAP_S)
        self._observed += counted
        self._dark_s = self._dark_s + (gap - counted) if is_blind or gap > counted else 0.0
        if not is_blind and self._dark_s > 0.0:
            if self._dark_s >= OUTAGE_S:
                self._outage_end = self._observed
            self._dark_s = 0.0
        if was_blind != is_blind:
            for changeset in self._changesets.values():
                self._repace(seq, changeset, verdicts)
        if not is_blind:
            self._pass_deadlines(seq, event_type, verdicts)

    def _look(self, seq: int, gap: float, data: Ticked, verdicts: list[Verdict]) -> None:
        for name in sorted({*data.contacts, *data.expected, *self._sites}):
            site = self._sites.get(name)
            if site is None:
                site = self._sites[name] = _Site()
            site.contacts += data.contacts.get(name, 0)
            expected = data.expected.get(name, 0.0)
            site.expected += expected
            site.window_s += min(gap, TICK_CAP_S)
            site.forsaken_s = 0.0 if expected > 0.0 else site.forsaken_s + min(gap, TICK_CAP_S)
            if site.expected >= BLIND_EXPECTED and site.window_s >= BLIND_WINDOW_S:
                self._see(seq, name, site, verdicts, blind=site.contacts < site.expected * BLIND_SHARE)
                site.contacts = 0
                site.expected = 0.0
                site.window_s = 0.0
            elif site.forsaken_s >= FORSAKEN_S:
                self._see(seq, name, site, verdicts, blind=False)
                del self._sites[name]
        silence_s = min((c.parameters.silence_s for c in self._changesets.values() if c.active), default=_NEVER)
        limit = silence_s * LAG_SHARE
        lagging = data.ingest_lag_s > limit
        if lagging and not self._lagging:
            verdicts.append(
                Blind(seq=seq, site=None, reason=BlindReason.INGEST_LAG, seen=data.ingest_lag_s, expected=limit)
            )
        elif self._lagging and not lagging:
            verdicts.append(Sighted(seq=seq, site=None, reason=BlindReason.INGEST_LAG))
        self._lagging = lagging

    def _see(self, seq: int, name: str, site: _Site, verdicts: list[Verdict], *, blind: bool) -> None:
        if blind and name not in self._blind_sites:
            self._blind_sites.add(name)
            verdicts.append(
                Blind(
                    seq=seq,
                    site=name,
                    reason=BlindReason.CONTACTS_MISSING,
                    seen=float(site.contacts),
                    expected=site.expected,
                ),
            )
        elif not blind and name in self._blind_sites:
            self._blind_sites.remove(name)
            verdicts.append(Sighted(seq=seq, site=name, reason=BlindReason.CONTACTS_MISSING))

    def _moved(self, attempt: _Attempt) -> None:
        self._changed_attempts[attempt.attempt_id] = attempt
        due = self._due(attempt)
        if due < attempt.queued:
            attempt.queued = due
            heapq.heappush(self._queue, (due, attempt.attempt_id))

    def _due(self, attempt: _Attempt) -> float:
        parameters = attempt.changeset.parameters
        match attempt.phase:
            case Phase.OFFERED:
                return attempt.last_contact + parameters.offer_deadline_s
            case Phase.STAGED:
                return min(self._unheard_due(attempt, parameters.overdue_s), attempt.park_due)
            case Phase.OVERDUE | Phase.BOOTED:
                return self._unheard_due(attempt, parameters.silence_s)
            case Phase.RETURNED:
                return min(self._unheard_due(attempt, parameters.silence_s), attempt.park_due)
            case Phase.CLOSED:
                return _NEVER

    def _unheard_due(self, attempt: _Attempt, deadline_s: float) -> float:
        due = attempt.last_contact + deadline_s
        if attempt.last_contact <= self._outage_end:
            return max(due, self._outage_end + attempt.changeset.grace_s)
        return due

    def _pass_deadlines(self, seq: int, event_type: str, verdicts: list[Verdict]) -> None:
        queue, observed = self._queue, self._observed
        worse: dict[str, _Changeset] = {}
        while queue and queue[0][0] <= observed:
            passed: list[tuple[float, str, _Attempt]] = []
            while queue and queue[0][0] <= observed:
                queued, attempt_id = heapq.heappop(queue)
                attempt = self._attempts[attempt_id]
                if queued != attempt.queued:
                    continue
                attempt.queued = _NEVER
                due = self._due(attempt)
                if due <= observed:
                    passed.append((due, attempt_id, attempt))
                else:
                    attempt.queued = due
                    heapq.heappush(queue, (due, attempt_id))
            # Not in the queue's order: that depends on when it was built.
            passed.sort(key=lambda one: one[:2])
            for _, _, attempt in passed:
                self._pass_deadline(seq, event_type, attempt, verdicts)
                if attempt.outcome is Outcome.BAD:
                    worse[attempt.changeset.changeset_id] = attempt.changeset
        for changeset in self._changesets.values() if worse else ():
            if changeset.changeset_id in worse:
                self._repace(seq, changeset, verdicts)

    def _pass_deadline(self, seq: int, event_type: str, attempt: _Attempt, verdicts: list[Verdict]) -> None:
        parameters = attempt.changeset.parameters
        match attempt.phase:
            case Phase.OFFERED:
                self._close(attempt, Outcome.LAPSED)
                verdicts.append(self._expire(seq, attempt, ExpireReason.NO_PROGRESS))
            case Phase.STAGED if self._unheard_due(attempt, parameters.overdue_s) <= self._observed:
                self._start(attempt, Phase.OVERDUE)
            case Phase.OVERDUE | Phase.BOOTED:
                self._fall_silent(seq, event_type, attempt, verdicts)
            case Phase.RETURNED if self._unheard_due(attempt, parameters.silence_s) <= self._observed:
                self._fall_silent(seq, event_type, attempt, verdicts)
            case Phase.STAGED | Phase.RETURNED:
                self._park_if_room(seq, attempt, verdicts)
            case Phase.CLOSED:  # pragma: no cover
                raise AssertionError(attempt.attempt_id)

    def _fall_silent(self, seq: int, event_type: str, attempt: _Attempt, verdicts: list[Verdict]) -> None:
        verdicts.append(self._expire(seq, attempt, ExpireReason.SILENT))
        self._close_bad(seq, event_type, attempt, verdicts, silent=True)

    @staticmethod
    def _expire(seq: int, attempt: _Attempt, reason: ExpireReason) -> Expire:
        return Expire(
            seq=seq,
            attempt_id=attempt.attempt_id,
            node_id=attempt.node_id,
            changeset_id=attempt.changeset.changeset_id,
            rollout_id=attempt.rollout_id,
            reason=reason,
            counted=attempt.block is not None,
        )

    def _park_if_room(self, seq: int, attempt: _Attempt, verdicts: list[Verdict]) -> None:
        group = attempt.changeset.groups.get(attempt.rollout_id)
        if group is None or (group.parked + 1) * PARKED_PER_GROUP > group.size:
            attempt.park_due = self._observed + PARK_RETRY_S
            self._moved(attempt)
            return
        self._park(attempt)
        self._moved(attempt)
        verdicts.append(
            Park(
                seq=seq,
                attempt_id=attempt.attempt_id,
                node_id=attempt.node_id,
                changeset_id=attempt.changeset.changeset_id,
                rollout_id=attempt.rollout_id,
            ),
        )

    # Persistence

    def _touch(self, changeset: _Changeset) -> None:
        self._changed_changesets[changeset.changeset_id] = changeset

    def dirty(self) -> bool:
        """Whether anything changed since the last ``take_changes``."""
        return self._fold_changed

    def take_changes(self) -> Changes:
        """The rows that changed since the last call; to be written in the transaction that moves the checkpoint."""
        changes = Changes(
            fold=self._row() if self._fold_changed else None,
            changesets=tuple(changeset.row() for changeset in self._changed_changesets.values()),
            attempts=tuple(attempt.row() for attempt in self._changed_attempts.values()),
        )
        self._fold_changed = False
        self._changed_changesets = {}
        self._changed_attempts = {}
        return changes

    def snapshot(self) -> Changes:
        """All rows, whether they changed or not."""
        return Changes(
            fold=self._row(),
            changesets=tuple(changeset.row() for changeset in self._changesets.values()),
            attempts=tuple(self._attempts[attempt_id].row() for attempt_id in sorted(self._attempts)),
        )

    def _row(self) -> FoldRow:
        return FoldRow(
            last_seq=self._last_seq,
            state={
                "rule_version": RULE_VERSION,
                "observed_s": self._observed.hex(),
                "last_tick": None if self._last_tick is None else self._last_tick.isoformat(),
                "dark_s": self._dark_s.hex(),
                "outage_end_s": self._outage_end.hex(),
                "lagging": self._lagging,
                "blind_sites": sorted(self._blind_sites),
                "sites": {
                    name: [site.contacts, site.expected.hex(), site.forsaken_s.hex(), site.window_s.hex()]
                    for name, site in sorted(self._sites.items())
                },
            },
        )

    @classmethod
    def restore(
        cls, fold_row: FoldRow, changeset_rows: Iterable[ChangesetRow], attempt_rows: Iterable[AttemptRow]
    ) -> Fold:
        """The fold as it was when the rows were taken, in whatever order they come.

        Raises:
            ValueError: The rows are of another rule version, so that going on from them would mix two sets of rules:
                fold the ledger from its beginning instead.
        """
        state: Mapping[str, Any] = fold_row.state
        if state["rule_version"] != RULE_VERSION:
            message = (
                f"the stored analysis follows rules {state['rule_version']!r}, this program {RULE_VERSION!r}: "
                "delete the analysis tables' rows and fold the ledger from its beginning"
            )
            raise ValueError(message)
        fold = cls()
        fold._last_seq = fold_row.last_seq
        fold._observed = float.fromhex(state["observed_s"])
        fold._last_tick = None if state["last_tick"] is None else datetime.fromisoformat(state["last_tick"])
        fold._dark_s = float.fromhex(state["dark_s"])
        fold._outage_end = float.fromhex(state["outage_end_s"])
        fold._lagging = state["lagging"]
        fold._blind_sites = set(state["blind_sites"])
        fold._sites = {
            name: _Site(contacts, float.fromhex(expected), float.fromhex(forsaken_s), float.fromhex(window_s))
            for name, (contacts, expected, forsaken_s, window_s) in state["sites"].items()
        }
        for changeset in sorted(map(_Changeset.restored, changeset_rows), key=lambda one: one.first_seq):
            fold._changesets[changeset.changeset_id] = changeset
        for row in attempt_rows:
            fold._take_attempt(row)
        fold._changed_attempts = {}
        return fold

    def _take_attempt(self, row: AttemptRow) -> None:
        changeset = self._changesets[row.changeset_id]
        attempt = _Attempt(
            row.attempt_id,
            changeset,
            row.node_id,
            row.rollout_id,
            row.group_id,
            last_contact=float.fromhex(row.last_contact_observed_s),
        )
        attempt.phase = Phase(row.phase)
        attempt.outcome = Outcome(row.outcome)
        attempt.block = row.block
        attempt.epoch = row.epoch
        attempt.parked = row.parked
        if row.awaiting_since_observed_s is not None:
            attempt.awaiting_since = float.fromhex(row.awaiting_since_observed_s)
        if row.park_due_observed_s is not None:
            attempt.park_due = float.fromhex(row.park_due_observed_s)
        self._attempts[row.attempt_id] = attempt
        if attempt.block is not None:
            changeset.first_started[row.node_id] = row.attempt_id
        if attempt.phase is not Phase.CLOSED:
            self._open(attempt)
            self._moved(attempt)
