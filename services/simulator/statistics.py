"""What the simulated fleet saw and did, counted as it happens: for a live view, a demo's summary, and tests."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from services.simulator.fates import Fate
from services.simulator.node import NodeState

KEPT_ANSWERS: Final = 50_000
"""So many of the latest answers are kept with their times, of each kind."""


@dataclass(slots=True)
class VersionStatistics:
    """What became of the nodes that were offered one version. Truth, not what was reported, unless it says so.

    Attributes:
        granted: Update checks that were answered with it.
        exposed: Nodes that were offered it at least once.
        fates: The fates of those nodes.
        downloaded: Downloads that came whole and right.
        staged: Updates that were installed and waited for a reboot.
        committed: Nodes that came up on it.
        rolled_back: Nodes that came back on their old version instead.
        vanished: Nodes that never came back.
        reset: Nodes whose update was thrown away by hand before the reboot.
        failed: Attempts that failed, by base error code.
        reported_committed: Reports of success that got an answer.
        reported_rolled_back: Reports of error 44 that got an answer.
        reports_lost: Reports of either kind that never left the node.
    """

    granted: int = 0
    exposed: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    downloaded: int = 0
    staged: int = 0
    committed: int = 0
    rolled_back: int = 0
    vanished: int = 0
    reset: int = 0
    failed: Counter[int] = field(default_factory=Counter)
    reported_committed: int = 0
    reported_rolled_back: int = 0
    reports_lost: int = 0

    def as_dict(self) -> dict[str, object]:
        """The numbers, ready for JSON."""
        return {
            "granted": self.granted,
            "exposed": self.exposed,
            "fates": {fate.value: count for fate, count in sorted(self.fates.items())},
            "downloaded": self.downloaded,
            "staged": self.staged,
            "committed": self.committed,
            "rolled_back": self.rolled_back,
            "vanished": self.vanished,
            "reset": self.reset,
            "failed": {str(code): count for code, count in sorted(self.failed.items())},
            "reported_committed": self.reported_committed,
            "reported_rolled_back": self.reported_rolled_back,
            "reports_lost": self.reports_lost,
        }


@dataclass(slots=True)
class TrackStatistics:
    """The nodes that name one track, which is their channel or group.

    Attributes:
        nodes: Nodes that were ever switched on.
        running: Those by the version that they run, without those that are off.
        exposed: Those that were offered a version at least once, by that version.
    """

    nodes: int = 0
    running: Counter[str] = field(default_factory=Counter)
    exposed: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, object]:
        """The numbers, ready for JSON."""
        return {"nodes": self.nodes, "running": _by_version(self.running), "exposed": _by_version(self.exposed)}


def _by_version(counts: Counter[str]) -> dict[str, int]:
    return {version: count for version, count in sorted(counts.items()) if count}


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """One answered update check.

    Attributes:
        track: What the node names as its channel or group.
        running: What the node ran when it asked.
        version: What was offered; empty when nothing was.
    """

    machine_id: str
    track: str
    running: str
    sent_at: datetime
    answered_at: datetime
    version: str


@dataclass(frozen=True, slots=True)
class AcknowledgedReport:
    """One event that the server answered with success, so that it must never be lost.

    Attributes:
        boot_id: Of the boot in which it was said.
        running: What the node ran when it said so.
        payload_url: Where the node got the payload of its last offer, which names the attempt; empty before the first.
        event: The ``<event>`` element as it was sent.
    """

    machine_id: str
    boot_id: str
    running: str
    payload_url: str
    event: str
    answered_at: datetime


@dataclass(slots=True)
class FleetStatistics:
    """Counters of a whole fleet.

    Attributes:
        nodes: Nodes that were ever switched on.
        states: Nodes by state.
        running: Nodes by the version that they run, without those that are off.
        by_version: By the version offered.
        by_track: By the track that nodes name.
        polls: Update checks that were sent.
        grants: Of those, answered with an update.
        held: Of those, answered with ``noupdate``.
        backing_off: Offers that a node dropped since it waits with that payload.
        checks_failed: Checks that ended in an error (each is followed by an error event).
        pings: Ping-only messages that were sent.
        events: Event-only messages that were sent.
        lost: Messages that a node's fate kept from being sent.
        unanswered: Requests that got no HTTP answer.
        downloads: Downloads that were started.
        resumes: Downloads that went on after a broken connection.
        bytes_downloaded: Payload bytes that arrived, broken downloads included.
        reboots: Reboots that were begun.
        remote_refused: Connections to other machines that were refused.
        acknowledged: Reports that were sent and answered with success; not those which say that nothing happened.
    """

    nodes: int = 0
    states: Counter[NodeState] = field(default_factory=Counter)
    running: Counter[str] = field(default_factory=Counter)
    by_version: defaultdict[str, VersionStatistics] = field(default_factory=lambda: defaultdict(VersionStatistics))
    by_track: defaultdict[str, TrackStatistics] = field(default_factory=lambda: defaultdict(TrackStatistics))
    polls: int = 0
    grants: int = 0
    held: int = 0
    backing_off: int = 0
    checks_failed: int = 0
    pings: int = 0
    events: int = 0
    lost: int = 0
    unanswered: int = 0
    downloads: int = 0
    resumes: int = 0
    bytes_downloaded: int = 0
    reboots: int = 0
    remote_refused: int = 0
    grant_answers: deque[CheckAnswer] = field(default_factory=lambda: deque(maxlen=KEPT_ANSWERS))
    held_answers: deque[CheckAnswer] = field(default_factory=lambda: deque(maxlen=KEPT_ANSWERS))
    acknowledged: deque[AcknowledgedReport] = field(default_factory=lambda: deque(maxlen=KEPT_ANSWERS))

    @property
    def live(self) -> int:
        """Nodes that are not off."""
        return self.nodes - self.states[NodeState.OFF]

    @property
    def requests(self) -> int:
        """Omaha messages that were sent."""
        return self.polls + self.pings + self.events

    def first_held_after(
        self, when: datetime, *, running: str | None = None, track: str | None = None
    ) -> CheckAnswer | None:
        """The earliest answer of ``noupdate`` to a check that was sent at or after ``when``.

        Args:
            when: Aware, UTC.
            running: Only by nodes that ran this version when they asked; by any where None.
            track: Only by nodes that name this track; by any where None.
        """
        later = (
            answer
            for answer in self.held_answers
            if answer.sent_at >= when and running in {None, answer.running} and track in {None, answer.track}
        )
        return min(later, key=lambda answer: answer.answered_at, default=None)

    def granted_after(self, when: datetime, version: str) -> list[CheckAnswer]:
        """The checks sent at or after ``when`` that were answered with ``version``."""
        return [answer for answer in self.grant_answers if answer.sent_at >= when and answer.version == version]

    def as_dict(self) -> dict[str, object]:
        """The numbers, ready for JSON."""
        return {
            "nodes": self.nodes,
            "live": self.live,
            "states": {state.value: self.states[state] for state in NodeState},
            "running": _by_version(self.running),
            "versions": {version: counts.as_dict() for version, counts in sorted(self.by_version.items())},
            "tracks": {track: counts.as_dict() for track, counts in sorted(self.by_track.items())},
            "polls": self.polls,
            "grants": self.grants,
            "held": self.held,
            "backing_off": self.backing_off,
            "checks_failed": self.checks_failed,
            "pings": self.pings,
            "events": self.events,
            "lost": self.lost,
            "unanswered": self.unanswered,
            "downloads": self.downloads,
            "resumes": self.resumes,
            "bytes_downloaded": self.bytes_downloaded,
            "reboots": self.reboots,
            "remote_refused": self.remote_refused,
        }
