"""Reading reports of release tests: what is understood, what is judged, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.attestation import (
    MAX_DEPTH,
    MAX_MESSAGE,
    MAX_NAME,
    MAX_REPORT_BYTES,
    MAX_RESULTS,
    AttestedVerdict,
    Result,
    read_junit,
    read_tap,
    summary_of,
    verdict_of,
)
from shared.errors import InvalidInput

PASSED, FAILED, SKIPPED = AttestedVerdict.PASSED, AttestedVerdict.FAILED, AttestedVerdict.SKIPPED

JUNIT = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="kubernetes" tests="5">
    <properties><property name="a" value="b"/></properties>
    <testcase classname="e2e" name="pods start" time="1,012.5"/>
    <testcase classname="e2e" name="dns" time="0.2"><failure message="no answer">trace</failure></testcase>
    <testcase name="volumes"><error>it
 broke</error><system-out>much said</system-out></testcase>
    <testcase classname="e2e" name="gpu" time="odd"><skipped/></testcase>
    <testcase classname="e2e" name="both"><failure message="first"/><skipped message="then"/></testcase>
    <system-err>noise</system-err>
  </testsuite>
</testsuites>"""


def test_junit():
    """Cases, times, failures, errors and skips; what is told around them is passed over."""
    assert read_junit(JUNIT) == [
        Result(name="e2e/pods start", verdict=PASSED, seconds=1012.5),
        Result(name="e2e/dns", verdict=FAILED, seconds=0.2, message="no answer"),
        Result(name="volumes", verdict=FAILED, message="it broke"),
        Result(name="e2e/gpu", verdict=SKIPPED),
        Result(name="e2e/both", verdict=FAILED, message="then"),
    ]


def test_one_suite_or_none_is_junit_too():
    """A root <testsuite>, a namespace, no case at all."""
    assert read_junit(b"<testsuite><testcase name='a'/></testsuite>") == [Result(name="a", verdict=PASSED)]
    assert read_junit(b"<t:testsuite xmlns:t='u'><t:testcase/></t:testsuite>") == [
        Result(name="unnamed", verdict=PASSED)
    ]
    assert read_junit(b"<testsuites/>") == []


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (b"", "not usable"),
        (b"<testsuites>", "not usable"),
        (b"<html></html>", "begins with <html>"),
        (b"<testsuite><testcase><testcase/></testcase></testsuite>", "holds another"),
        (b"<!DOCTYPE testsuites><testsuites/>", "document type"),
        (b'<!DOCTYPE t [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><testsuites>&b;</testsuites>', "document type"),
        (b'<!DOCTYPE t [<!ENTITY x SYSTEM "file:///etc/passwd">]><testsuites>&x;</testsuites>', "document type"),
        (b'<!DOCTYPE t SYSTEM "http://192.0.2.1/x.dtd"><testsuites/>', "document type"),
        (b'<?xml version="1.0" encoding="nonsense"?><testsuites/>', "not usable"),
        (b"<testsuite>" + b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH + b"</testsuite>", "nested deeper"),
        (b"<a>" * 100_000, "begins with"),
        (b"<testsuite>" + b"<testcase/>" * (MAX_RESULTS + 1) + b"</testsuite>", "more than"),
        (b"<testsuite>" + b" " * MAX_REPORT_BYTES, "larger than"),
    ],
)
def test_hostile_or_wrong_xml_is_refused(report, said):
    """Entities, document types, other documents, and what is too deep, too long or too many; in words."""
    with pytest.raises(InvalidInput, match=said):
        read_junit(report)


def test_what_a_report_says_is_cut_and_cleaned():
    """A name or message of any length fits, without what moves a cursor or cannot be stored."""
    long = "x" * 100_000
    case = f"<testcase name='a&#10;\t{long}'><failure>{long} [2J</failure></testcase>"
    (result,) = read_junit(f"<testsuite>{case}</testsuite>".encode())
    assert len(result.name) == MAX_NAME
    assert result.name.startswith("a x")
    assert result.message is not None
    assert len(result.message) == MAX_MESSAGE


TAP = b"""TAP version 14
1..6
ok 1 - boots
not ok 2 - commits \x1b[31mred # took long
  ---
  message: 'not ok 99 - in a block'
  ...
ok 3 - gpu # SKIP no hardware
not ok 4 - bond # TODO not yet
    ok 1 - inside a subtest
    not ok 2 - inside a subtest
    1..2
ok 5
# a comment, not ok
ok - escaped \\# SKIP is part of the name
"""


def test_tap():
    """Test lines, directives, plans; subtests and diagnostics are summed up by their own line."""
    results = read_tap(TAP)
    assert [(result.name, result.verdict, result.message) for result in results] == [
        ("boots", PASSED, None),
        ("commits [31mred # took long", FAILED, None),
        ("gpu", SKIPPED, "skip no hardware"),
        ("bond", SKIPPED, "todo not yet"),
        ("test 5", PASSED, None),
        ("escaped \\# SKIP is part of the name", PASSED, None),
    ]


@pytest.mark.parametrize(
    ("report", "verdict", "said"),
    [
        (b"1..2\nok 1\n", FAILED, "2 tests were planned and 1 came"),
        (b"ok 1\nok 2\n1..1\n", FAILED, "1 tests were planned and 2 came"),
        (b"1..3\nok 1\nBail out! no network\n", FAILED, "no network"),
        (b"Bail out!\n", FAILED, None),
        (b"1..0 # SKIP not here\n", SKIPPED, None),
        (b"ok\n1..1", PASSED, None),
    ],
)
def test_what_is_planned_and_missing_counts_as_failed(report, verdict, said):
    """A stream that ends early is no success."""
    results = read_tap(report)
    assert verdict_of(results) is verdict
    assert said is None or results[-1].message == said


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (b"", "is it TAP"),
        (b"hello\n", "is it TAP"),
        (b"\xff\xfe", "not UTF-8"),
        (b"1..1\n1..1\nok 1\n", "two plans"),
        (b"ok\n" * (MAX_RESULTS + 1), "more than"),
        (b"#" * (MAX_REPORT_BYTES + 1), "larger than"),
    ],
)
def test_what_is_no_tap_is_refused(report, said):
    """In words."""
    with pytest.raises(InvalidInput, match=said):
        read_tap(report)


@given(st.binary(max_size=300), st.sampled_from([b"", b"<testsuite>", b"ok 1 ", b"1.."]))
def test_no_bytes_break_the_readers(report, before):
    """Whatever is sent is read or refused; results are bounded and clean."""
    for reader in (read_junit, read_tap):
        try:
            results = reader(before + report)
        except InvalidInput:
            continue
        for result in results:
            assert 1 <= len(result.name) <= MAX_NAME
            assert result.name.isprintable()


@given(st.lists(st.sampled_from(list(AttestedVerdict))))
def test_any_failure_fails_and_nothing_passed_is_skipped(verdicts):
    """Failed if any failed; else passed if any passed; else nothing was shown."""
    verdict = verdict_of(Result(name="t", verdict=each) for each in verdicts)
    assert (verdict is FAILED) == (FAILED in verdicts)
    assert (verdict is SKIPPED) == (not {PASSED, FAILED} & set(verdicts))


def test_a_summary_counts_and_names_the_first_failures():
    """At most three names."""
    results = [Result(name=f"t{number}", verdict=FAILED) for number in range(5)]
    assert summary_of([]) == "no tests"
    assert summary_of([Result(name="a", verdict=PASSED), Result(name="b", verdict=SKIPPED)]) == "1 passed, 1 skipped"
    assert summary_of(results) == "5 failed: t0, t1, t2 and 2 more"
    assert summary_of(results[:2]) == "2 failed: t0, t1"
