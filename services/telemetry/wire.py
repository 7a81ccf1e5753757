"""The native dialect: reports as JSON, decoded and validated. Pure: bytes in; observations and errors out.

A body is one report, an array of reports, or ``{"reports": [...]}``. A report that is not valid is an error of its own;
the others are taken. Only a body in which no report can be found is refused as a whole.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec

from shared.domain.identity import node_id_for
from shared.errors import InvalidInput, TooLarge
from shared.fleet import Observation, ObservationKind, ObservationSource

MAX_REPORTS: Final = 1_000
MAX_FACTS: Final = 64
MAX_AHEAD: Final = timedelta(minutes=10)
"""How far a node's clock may be ahead of ours; what was said later than that did not happen yet."""

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Where a clock begins that was never set. An earlier time is no clock's."""

# Postgres takes any text but this; one such report would take its whole batch with it.
_NUL: Final = "\0"
_ESCAPED_NUL: Final = b"\\u0000"

_MachineId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Version = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_FactName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_FactValue = Annotated[str, msgspec.Meta(max_length=256)]


class ReportKind(enum.Enum):
    """What a native agent can say."""

    DOWNLOAD_STARTED = "download_started"
    DOWNLOADED = "downloaded"
    STAGED = "staged"
    REBOOT_AWAITED = "reboot_awaited"
    BOOTED = "booted"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    PING = "ping"


_KINDS: Final = {kind: ObservationKind(kind.value) for kind in ReportKind}


class Report(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One report, as an agent sends it; fields that are not named here are ignored.

    Attributes:
        event_id: Made by the agent when it happened, and sent again with every retry: it makes the report count once.
        application: The application's id or name.
        version: What the node runs as it says this.
        boot_id: Changes with every boot (``/proc/sys/kernel/random/boot_id``).
        at: When it happened, by the node's clock.
    """

    event_id: uuid.UUID
    machine_id: _MachineId
    application: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    kind: ReportKind
    version: _Version
    boot_id: _MachineId
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    facts: Annotated[dict[_FactName, _FactValue], msgspec.Meta(max_length=MAX_FACTS)] | None = None
    arch: Annotated[str, msgspec.Meta(min_length=1, max_length=32)] | None = None
    group: _Word | None = None
    error_code: Annotated[int, msgspec.Meta(ge=-(2**53) + 1, le=2**53 - 1)] | None = None
    error_class: _Word | None = None
    reason: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    previous_version: _Version | None = None


class ReportError(msgspec.Struct, frozen=True, gc=False):
    """Why one report of a body was not taken; sending it again does not help.

    Attributes:
        index: Its place in the body, from 0.
        code: ``invalid_input``, ``application_unknown``, ``at_in_future`` or ``not_permitted``.
    """

    index: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Body:
    """What was found in a body: reports with their places, and errors."""

    reports: Sequence[tuple[int, Report]]
    errors: Sequence[ReportError]


class _Envelope(msgspec.Struct, frozen=True):
    reports: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


_array: Final = msgspec.json.Decoder(list[msgspec.Raw])
_envelope: Final = msgspec.json.Decoder(_Envelope)
_report: Final = msgspec.json.Decoder(Report)


def decode(body: bytes) -> Body:
    """Find the reports in a body.

    Raises:
        InvalidInput: It is not JSON, or holds no report at all.
        TooLarge: It holds more than ``MAX_REPORTS``.
    """
    raws = _split(body)
    if not raws:
        raise InvalidInput("send at least one report")
    if len(raws) > MAX_REPORTS:
        raise TooLarge(f"send at most {MAX_REPORTS} reports at a time", details={"max_reports": MAX_REPORTS})
    suspicious = _ESCAPED_NUL in body
    reports: list[tuple[int, Report]] = []
    errors: list[ReportError] = []
    for index, raw in enumerate(raws):
        try:
            report = _report.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            errors.append(ReportError(index, "invalid_input", str(error)))
            continue
        if suspicious and _has_nul(report):
            errors.append(ReportError(index, "invalid_input", "no text may hold the character U+0000"))
            continue
        reports.append((index, report))
    return Body(reports, errors)


def observe(
    body: Body,
    *,
    application_id_of: Callable[[str], uuid.UUID | None],
    now: datetime,
    address: str | None,
    traceparent: str | None,
    only: tuple[uuid.UUID, str] | None = None,
) -> tuple[list[Observation], list[ReportError]]:
    """Make observations of reports.

    Args:
        body: What was decoded.
        application_id_of: Finds an application by its id or name.
        now: The time that ``at`` may not be far ahead of.
        address: Where the request came from.
        traceparent: The caller's trace.
        only: The application and machine id whose token came with the reports; they may be about no other node.

    Returns:
        What is to be recorded, in order, and all errors by index, those of the decoding included.
    """
    latest = now + MAX_AHEAD
    observations: list[Observation] = []
    errors = list(body.errors)
    for index, report in body.reports:
        if report.at > latest:
            errors.append(
                ReportError(index, "at_in_future", f"`at` is after {latest.isoformat()}; set the node's clock")
            )
            continue
        if report.at < EARLIEST:
            errors.append(ReportError(index, "invalid_input", f"`at` is before {EARLIEST.isoformat()}"))
            continue
        application_id = application_id_of(report.application)
        if application_id is None:
            errors.append(ReportError(index, "application_unknown", f"there is no application {report.application!r}"))
            continue
        if only is not None and only != (application_id, report.machine_id):
            errors.append(ReportError(index, "not_permitted", "the token belongs to another node"))
            continue
        facts = report.facts
        if report.group is not None:
            facts = {"group": report.group, **(facts or {})}
        observations.append(
            Observation(
                event_id=report.event_id,
                kind=_KINDS[report.kind],
                source=ObservationSource.NATIVE,
                node_id=node_id_for(application_id, report.machine_id),
                application_id=application_id,
                machine_id=report.machine_id,
                version=report.version,
                boot_id=report.boot_id,
                at=report.at,
                arch=report.arch or (facts or {}).get("arch"),
                facts=facts,
                address=address,
                error_code=report.error_code,
                error_class=report.error_class,
                previous_version=report.previous_version,
                reason=report.reason,
                traceparent=traceparent,
            )
        )
    if len(errors) > 1:
        errors.sort(key=lambda error: error.index)
    return observations, errors


def render(accepted: int, duplicates: int, errors: Sequence[ReportError]) -> bytes:
    """The body of a 202."""
    listed = msgspec.json.encode(errors) if errors else b"[]"
    return b'{"accepted":%d,"duplicates":%d,"errors":%b}' % (accepted, duplicates, listed)


def _split(body: bytes) -> Sequence[msgspec.Raw | bytes]:
    try:
        if body.lstrip(b" \t\r\n").startswith(b"["):
            return _array.decode(body)
        found = _envelope.decode(body).reports
    except msgspec.ValidationError as error:
        raise InvalidInput(f'send a report, an array of reports, or {{"reports": [...]}}: {error}') from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidInput("the body is nested too deeply") from error
    return [body] if isinstance(found, msgspec.UnsetType) else found


def _has_nul(report: Report) -> bool:
    texts = (
        report.machine_id,
        report.application,
        report.version,
        report.boot_id,
        report.arch,
        report.group,
        report.error_class,
        report.reason,
        report.previous_version,
        *(report.facts or {}).keys(),
        *(report.facts or {}).values(),
    )
    return any(text is not None and _NUL in text for text in texts)
