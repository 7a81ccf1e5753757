"""One node as a pure state machine: what update_engine does next, given what just happened.

No I/O, no clock: a node emits one effect at a time and is stepped with its result. Randomness is injected. Seconds are
the node's own; whoever runs the node may divide them by a time factor. The order of messages is that of update_engine's
``update_attempter.cc``.
"""

from __future__ import annotations

import enum
import random
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

from services.simulator.fates import Fate
from services.simulator.intervals import CHECK_RETRIES, CHECK_RETRY_S, INITIAL, REGULAR, next_interval
from services.simulator.payload_state import PayloadState
from services.simulator.wire import (
    CheckFailed,
    Envelope,
    ErrorCode,
    Identity,
    NoUpdate,
    Offer,
    event_error,
    event_previous_version,
    event_rollback,
    event_success,
    read_response,
)

NEVER_UPDATED: Final = "0.0.0.0"
"""The previous version that a machine reports on the first check of its life."""

DOWNLOAD_STARTED: Final = 13
DOWNLOAD_FINISHED: Final = 14
UPDATE_COMPLETE: Final = 3

_NOTHING_HAPPENED: Final = frozenset({event_previous_version(""), event_previous_version(NEVER_UPDATED)})
_SOONEST_RESET_S: Final = 60.0  # nobody types faster than that


class NodeState(enum.StrEnum):
    """Where a node is."""

    IDLE = "idle"
    CHECKING = "checking"
    DOWNLOADING = "downloading"
    STAGED = "staged"
    REBOOTING = "rebooting"
    OFF = "off"


class Expects(enum.Enum):
    """What a message is, and so whether its answer matters."""

    CHECK = "check"
    EVENT = "event"
    PING = "ping"


class Outcome(enum.Enum):
    """How an update ended, in truth and not in what was reported."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    RESET = "reset"


class CheckResult(enum.Enum):
    """What the last answer to an update check meant to the node."""

    GRANTED = "granted"
    NO_UPDATE = "no_update"
    BACKING_OFF = "backing_off"
    FAILED = "failed"
    NO_ANSWER = "no_answer"


class Sabotage(enum.Enum):
    """What goes wrong with a download, by fate."""

    NONE = "none"
    BREAKS_OFF = "breaks_off"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class News:
    """What a message tells the server about the end of an update."""

    outcome: Outcome
    version: str


@dataclass(frozen=True, slots=True)
class Send:
    """POST this body; step with a Response.

    Attributes:
        lost: The network is down for this one: do not send it, answer with ``Response(None)``.
        news: What it tells, None when it tells nothing new.
        report: The ``<event>`` that is in it; empty when it is only the one that says that nothing happened.
    """

    body: bytes
    expects: Expects
    lost: bool = False
    news: News | None = None
    report: str = ""


@dataclass(frozen=True, slots=True)
class Download:
    """GET and verify this payload; step with a DownloadDone.

    Attributes:
        size: In bytes.
        sha256: In base64.
    """

    url: str
    size: int
    sha256: str
    sabotage: Sabotage = Sabotage.NONE


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so many seconds; step with Elapsed."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reboot:
    """Down for so many seconds; step with Elapsed when it is up again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Off:
    """Never heard of again; never to be stepped again."""


Effect = Send | Download | Wait | Reboot | Off


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a Send; status None says that there was none."""

    status: int | None
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class DownloadDone:
    """The end of a Download; ``error`` is a base error code, None when the payload is whole and right."""

    error: int | None = None


@dataclass(frozen=True, slots=True)
class Elapsed:
    """The end of a Wait or a Reboot."""


Input = Response | DownloadDone | Elapsed


@dataclass(frozen=True, slots=True)
class Span:
    """A time drawn uniformly between two ends, in seconds."""

    low_s: float
    high_s: float

    def draw(self, rng: random.Random) -> float:
        """The seconds this time."""
        return rng.uniform(self.low_s, self.high_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things take on a node, in its own seconds.

    Attributes:
        prepare: From the offer to the download (the inactive partition is copied and hashed).
        install: From the end of the download to the staged update.
        reboot_after: From the staged update to the reboot: nothing for an immediate reboot, longer for a lock or a
            maintenance window. While it lasts the node pings.
        reboot: How long the machine is down; twice that if it boots a second time into the old version.
    """

    prepare: Span = Span(10.0, 40.0)
    install: Span = Span(10.0, 40.0)
    reboot_after: Span = Span(0.0, 0.0)
    reboot: Span = Span(60.0, 180.0)


class Node:
    """One simulated machine.

    Args:
        identity: What it says about itself.
        version: What it runs at first.
        fate_of: What happens to it with a version.
        rng: Its own source of randomness.
        timing: How long things take.
        first_ever: It has never checked for an update in its life.
    """

    __slots__ = (
        "_envelope",
        "_fate_of",
        "_interval",
        "_life",
        "_marker",
        "_payload",
        "_reset_before",
        "_rng",
        "_stale_news",
        "_timing",
        "boot_id",
        "fate",
        "identity",
        "last_check",
        "last_outcome",
        "lived_s",
        "payload_url",
        "state",
        "target",
        "version",
    )

    def __init__(
        self,
        identity: Identity,
        version: str,
        *,
        fate_of: Callable[[str], Fate],
        rng: random.Random,
        timing: Timing | None = None,
        first_ever: bool = True,
    ) -> None:
        self.identity = identity
        self.version = version
        self.state = NodeState.IDLE
        self.fate = Fate.GOOD
        self.target = ""
        self.last_check: CheckResult | None = None
        self.last_outcome: Outcome | None = None
        self.lived_s = 0.0
        self.payload_url = ""
        self._fate_of = fate_of
        self._rng = rng
        self._timing = timing or Timing()
        self._marker: str | None = None if first_ever else ""
        self._payload = PayloadState()
        self._interval = INITIAL
        self._reset_before: frozenset[str] = frozenset()
        self._stale_news: str | None = None
        self._boot(version)
        self._life = self._live()

    def start(self) -> Effect:
        """Switches the machine on.

        Returns:
            The first effect.
        """
        return next(self._life)

    def step(self, result: Input) -> Effect:
        """Goes on with the result of the last effect.

        Returns:
            The next effect.

        Raises:
            TypeError: The result is not of the kind that the last effect asked for.
        """
        return self._life.send(result)

    def _boot(self, version: str) -> None:
        self.version = version
        self.boot_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        self._envelope = Envelope.of(self.identity, version=version, boot_id=self.boot_id)
        self._interval = INITIAL

    def _live(self) -> Generator[Effect, Input, None]:
        while True:
            yield from self._wait(self._interval.draw(self._rng))
            offer = yield from self._check()
            staged = offer is not None and (yield from self._install(offer))
            if not staged:
                self.state = NodeState.IDLE
                continue
            rebooting = yield from self._await_reboot()
            if not rebooting:
                continue
            yield from self._reboot()

    def _check(self) -> Generator[Effect, Input, Offer | None]:
        """One update check with all that belongs to it; an offer that is to be taken, or None."""
        self.state = NodeState.CHECKING
        event, news = self._news()
        lost = news is not None and self.fate in {Fate.LOSES_REPORT, Fate.LOSES_ROLLBACK_REPORT}
        # Cleared before the request is sent, as update_engine does: a lost request is lost news.
        self._marker = ""
        report = "" if event in _NOTHING_HAPPENED else event
        send = Send(self._envelope.check(event), Expects.CHECK, lost=lost, news=news, report=report)
        response = yield from self._send(send)
        for _ in range(CHECK_RETRIES):
            if response.status is not None:
                break
            self.last_check = CheckResult.NO_ANSWER
            yield from self._wait(CHECK_RETRY_S)
            response = yield from self._send(send)
        outcome = read_response(response.status, response.body)
        self._interval = next_interval(
            self._interval,
            poll_interval_s=outcome.poll_interval_s,
            slow_down=isinstance(outcome, CheckFailed) and outcome.slow_down,
        )
        match outcome:
            case NoUpdate():
                self.last_check = CheckResult.NO_UPDATE
                self.state = NodeState.IDLE
                return None
            case CheckFailed(code=code):
                self.last_check = CheckResult.FAILED
                yield from self._post(event_error(code), lost=lost)
                return None
            case Offer():
                if not self._payload.admit(outcome, lived_s=self.lived_s):
                    self.last_check = CheckResult.BACKING_OFF
                    yield from self._post(event_error(ErrorCode.OMAHA_UPDATE_DEFERRED_FOR_BACKOFF))
                    return None
                self.last_check = CheckResult.GRANTED
                self.state = NodeState.DOWNLOADING
                self.target = outcome.version or self.version
                self.payload_url = self._payload.url(outcome)
                self.fate = self._fate_of(self.target)
                if self.fate is Fate.RESETS_STATUS and self.target in self._reset_before:
                    self.fate = Fate.GOOD
                return outcome

    def _news(self) -> tuple[str, News | None]:
        """The event of the next check, and what is new in it."""
        marker = self._marker
        if marker and marker == self.version:
            return event_rollback(), News(Outcome.ROLLED_BACK, self.target)
        if marker:
            if self.fate is Fate.LIES:
                self._stale_news = marker
            return event_previous_version(marker), News(Outcome.COMMITTED, self.version)
        if self._stale_news is not None:
            marker, self._stale_news = self._stale_news, None
            return event_previous_version(marker), None
        return event_previous_version(NEVER_UPDATED if marker is None else ""), None

    def _install(self, offer: Offer) -> Generator[Effect, Input, bool]:
        """Downloads and stages; says whether the node now waits for its reboot."""
        yield from self._wait(self._timing.prepare.draw(self._rng))
        lies = self.fate is Fate.LIES
        if lies:
            yield from self._post(event_success(DOWNLOAD_FINISHED))
        yield from self._post(event_success(DOWNLOAD_STARTED))
        sabotage = {Fate.FAILS_TO_DOWNLOAD: Sabotage.BREAKS_OFF, Fate.CORRUPT: Sabotage.CORRUPT}.get(
            self.fate,
            Sabotage.NONE,
        )
        done = yield Download(self._payload.url(offer), offer.size, offer.sha256, sabotage)
        if not isinstance(done, DownloadDone):
            raise TypeError("Step a node that downloads with a DownloadDone.")
        if done.error is not None:
            self._payload.failed(offer, done.error, lived_s=self.lived_s, rng=self._rng)
            yield from self._post(event_error(done.error))
            return False
        self._payload.downloaded(lived_s=self.lived_s, rng=self._rng)
        if lies:
            yield from self._post(event_success(UPDATE_COMPLETE))
        yield from self._post(event_success(DOWNLOAD_FINISHED))
        yield from self._wait(self._timing.install.draw(self._rng))
        self._marker = self.version
        yield from self._post(event_success(UPDATE_COMPLETE))
        if lies:
            yield from self._post(event_success(DOWNLOAD_STARTED))
            yield from self._post(event_success(UPDATE_COMPLETE))
        self.state = NodeState.STAGED
        return True

    def _await_reboot(self) -> Generator[Effect, Input, bool]:
        """Pings until the reboot; False when somebody resets update_engine instead."""
        left_s = self._timing.reboot_after.draw(self._rng)
        if self.fate is Fate.RESETS_STATUS:
            left_s = max(left_s, _SOONEST_RESET_S)
        while left_s > 0.0:
            step_s = min(left_s, self._interval.draw(self._rng))
            yield from self._wait(step_s)
            left_s -= step_s
            if left_s > 0.0:
                yield from self._send(Send(self._envelope.ping(), Expects.PING))
                # A ping's answer is not read, so the PollInterval of the offer holds no longer.
                self._interval = REGULAR
        if self.fate is Fate.RESETS_STATUS:
            self._reset_before |= {self.target}
            self.state = NodeState.IDLE
            self.last_outcome = Outcome.RESET
            return False
        return True

    def _reboot(self) -> Generator[Effect, Input, None]:
        falls_back = self.fate in {Fate.ROLLS_BACK, Fate.LOSES_ROLLBACK_REPORT}
        self.state = NodeState.REBOOTING
        seconds = self._timing.reboot.draw(self._rng) * (2.0 if falls_back else 1.0)
        self.lived_s += seconds
        up = yield Reboot(seconds)
        _elapsed(up)
        if self.fate is Fate.SILENT:
            self.state = NodeState.OFF
            yield Off()
            raise RuntimeError("A machine that is off cannot be stepped: forget it.")
        self._boot(self.version if falls_back else self.target)
        self.last_outcome = Outcome.ROLLED_BACK if falls_back else Outcome.COMMITTED
        self.state = NodeState.IDLE

    def _wait(self, seconds: float) -> Generator[Effect, Input, None]:
        self.lived_s += seconds
        over = yield Wait(seconds)
        _elapsed(over)

    def _send(self, send: Send) -> Generator[Effect, Input, Response]:
        response = yield send
        if not isinstance(response, Response):
            raise TypeError("Step a node that sent a message with a Response.")
        return response

    def _post(self, event: str, *, lost: bool = False) -> Generator[Effect, Input, None]:
        """Posts an event: once, whatever the answer."""
        yield from self._send(Send(self._envelope.report(event), Expects.EVENT, lost=lost, report=event))


def _elapsed(result: Input) -> None:
    if not isinstance(result, Elapsed):
        raise TypeError("Step a node that waits with Elapsed.")
