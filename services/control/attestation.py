"""Results of release tests: read from JUnit XML, TAP or JSON, and judged. Pure and bounded."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import defusedxml
import defusedxml.ElementTree

from shared.errors import InvalidInput

MAX_REPORT_BYTES: Final = 2 * 1024 * 1024
MAX_RESULTS: Final = 5_000
MAX_DEPTH: Final = 16
MAX_NAME: Final = 300
MAX_MESSAGE: Final = 500
MAX_SECONDS: Final = 1e9


class AttestedVerdict(enum.StrEnum):
    """What came of a test, or of all tests of a report."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One test of a report; ``seconds`` is how long it took, where that is told."""

    name: str
    verdict: AttestedVerdict
    seconds: float | None = None
    message: str | None = None


def verdict_of(results: Iterable[Result]) -> AttestedVerdict:
    """Any failure fails the whole; where nothing passed, nothing was shown: skipped."""
    seen = {result.verdict for result in results}
    if AttestedVerdict.FAILED in seen:
        return AttestedVerdict.FAILED
    return AttestedVerdict.PASSED if AttestedVerdict.PASSED in seen else AttestedVerdict.SKIPPED


def summary_of(results: Sequence[Result]) -> str:
    """Like ``12 passed, 1 failed: networking/bond``; names the first failures."""
    counts = {verdict: sum(result.verdict is verdict for result in results) for verdict in AttestedVerdict}
    said = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count) or "no tests"
    failed = [result.name for result in results if result.verdict is AttestedVerdict.FAILED]
    if not failed:
        return said
    more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
    return f"{said}: {', '.join(failed[:3])}{more}"


# JUnit XML


class _JUnit:
    """The target of the XML parser: keeps test cases, and counts what it is fed."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._depth = 0
        self._root: str | None = None
        self._case: Mapping[str, str] | None = None
        self._verdict = AttestedVerdict.PASSED
        self._message: str | None = None
        self._text: list[str] | None = None
        self._text_length = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidInput(f"the report is nested deeper than {MAX_DEPTH}: is it JUnit XML?")
        name = tag.rpartition("}")[2]
        if self._root is None:
            self._root = name
            if name not in ("testsuites", "testsuite"):
                raise InvalidInput(f"the report begins with <{_clean(name, 40)}>: JUnit XML begins with <testsuites>")
        if name == "testcase":
            self._begin(attributes)
        elif self._case is not None and name in ("failure", "error", "skipped"):
            skipped = name == "skipped"
            if not (skipped and self._verdict is AttestedVerdict.FAILED):
                self._verdict = AttestedVerdict.SKIPPED if skipped else AttestedVerdict.FAILED
            self._message = attributes.get("message")
            self._text, self._text_length = [], 0

    def _begin(self, attributes: Mapping[str, str]) -> None:
        if self._case is not None:
            raise InvalidInput("a <testcase> holds another one: this is no JUnit XML")
        if len(self.results) >= MAX_RESULTS:
            raise InvalidInput(
                f"the report has more than {MAX_RESULTS} tests: attach its parts under names of their own"
            )
        self._case, self._verdict, self._message = attributes, AttestedVerdict.PASSED, None

    def data(self, text: str) -> None:
        if self._text is not None and self._text_length < MAX_MESSAGE:
            self._text.append(text[:MAX_MESSAGE])
            self._text_length += len(text)

    def end(self, tag: str) -> None:
        self._depth -= 1
        name = tag.rpartition("}")[2]
        if name in ("failure", "error", "skipped") and self._text is not None:
            self._message = self._message or "".join(self._text)
            self._text = None
        if name == "testcase" and self._case is not None:
            case, self._case = self._case, None
            parts = [part for part in (case.get("classname"), case.get("name")) if part]
            self.results.append(
                Result(
                    name=_clean("/".join(parts), MAX_NAME) or "unnamed",
                    verdict=self._verdict,
                    seconds=_seconds(case.get("time")),
                    message=_clean(self._message or "", MAX_MESSAGE) or None,
                )
            )

    def close(self) -> list[Result]:
        return self.results


def read_junit(report: bytes) -> list[Result]:
    """The test cases of a JUnit XML report.

    Raises:
        InvalidInput: It is no XML or no JUnit, has a document type or entities, or is too large or too deep.
    """
    _refuse_large(report)
    parser: Any = defusedxml.ElementTree.XMLParser(target=_JUnit(), forbid_dtd=True)
    try:
        parser.feed(report)
        read: list[Result] = parser.close()
    except (defusedxml.ElementTree.ParseError, ValueError, LookupError) as fault:
        # defusedxml's refusals are ValueErrors.
        refused = isinstance(fault, defusedxml.DefusedXmlException)
        said = "it has a document type or entities, which are not read" if refused else _clean(str(fault), 200)
        raise InvalidInput(f"the report is not usable as XML: {said}") from fault
    return read


# TAP

_TEST_LINE: Final = re.compile(r"(?P<bad>not )?ok\b(?:[ \t]+(?P<number>\d{1,9}))?(?P<rest>.*)", re.ASCII)
_PLAN: Final = re.compile(r"1\.\.(?P<last>\d{1,9})(?:[ \t]*#[ \t]*(?P<why>.*))?", re.ASCII)
_DIRECTIVE: Final = re.compile(r"(?<!\\)#[ \t]*(?P<word>skip|todo)\b\S*[ \t]*(?P<why>.*)", re.ASCII | re.IGNORECASE)


def read_tap(report: bytes) -> list[Result]:
    """The tests of a TAP stream (12 to 14); those inside a subtest are summed up by its own line.

    What was planned and did not come, and a bail-out, count as failed.

    Raises:
        InvalidInput: It is no text or no TAP, or is too large.
    """
    _refuse_large(report)
    try:
        text = report.decode()
    except UnicodeDecodeError as fault:
        raise InvalidInput("the report is not UTF-8: TAP is text") from fault
    results: list[Result] = []
    planned: int | None = None
    for line in text.splitlines():
        # Diagnostics, YAML blocks and subtests are indented or begin with #; so only whole lines count.
        if (found := _TEST_LINE.fullmatch(line)) is not None:
            if len(results) >= MAX_RESULTS:
                raise _too_many()
            results.append(_tap_result(found, len(results) + 1))
        elif (found := _PLAN.fullmatch(line.rstrip())) is not None:
            if planned is not None:
                raise InvalidInput("the report has two plans (1..N): attach one report at a time")
            planned = int(found["last"])
        elif line.startswith("Bail out!"):
            why = _clean(line.removeprefix("Bail out!"), MAX_MESSAGE)
            results.append(Result(name="bail out", verdict=AttestedVerdict.FAILED, message=why or None))
            return results
    if planned is None and not results:
        raise InvalidInput("the report has no plan (1..N) and no test line (ok 1 - name): is it TAP?")
    if planned is not None and planned != len(results):
        said = f"{planned} tests were planned and {len(results)} came"
        results.append(Result(name="plan", verdict=AttestedVerdict.FAILED, message=said))
    return results


def _tap_result(found: re.Match[str], place: int) -> Result:
    rest = found["rest"]
    verdict = AttestedVerdict.FAILED if found["bad"] else AttestedVerdict.PASSED
    message = None
    directive = _DIRECTIVE.search(rest)
    if directive is not None:
        rest = rest[: directive.start()]
        # A test to do is expected to fail, and one that was skipped shows nothing.
        verdict = AttestedVerdict.SKIPPED
        message = _clean(f"{directive['word'].lower()} {directive['why']}", MAX_MESSAGE)
    name = _clean(rest.strip().removeprefix("-"), MAX_NAME)
    return Result(name=name or f"test {found['number'] or place}", verdict=verdict, message=message)


# What all formats share


def _too_many() -> InvalidInput:
    return InvalidInput(f"the report has more than {MAX_RESULTS} tests: attach its parts under names of their own")


def _refuse_large(report: bytes) -> None:
    if len(report) > MAX_REPORT_BYTES:
        raise InvalidInput(f"the report is larger than {MAX_REPORT_BYTES} bytes: attach its parts one by one")


def _clean(text: str, most: int) -> str:
    """On one line, without what cannot be stored or would move a terminal's cursor."""
    shown = "".join(character if character.isprintable() else " " for character in text[: 4 * most])
    return " ".join(shown.split())[:most]


def _seconds(text: str | None) -> float | None:
    try:
        value = float((text or "").replace(",", ""))
    except ValueError:
        return None
    return value if 0 <= value <= MAX_SECONDS else None
