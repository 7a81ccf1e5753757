"""Logs, metrics and traces."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings

import pytest
import structlog
from aiohttp.http_exceptions import BadStatusLine
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from shared.observability import configure_logging, inject_trace, span
from shared.observability.metrics import MAX_SERIES, OVERFLOW, Counter, Gauge, Histogram, Metrics
from shared.observability.telemetry import start_telemetry
from shared.observability.traces import (
    TraceContext,
    current_trace_id,
    format_traceparent,
    parse_traceparent,
    set_tracer,
)
from shared.settings import LogLevel, Secret

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-00"


class Output:
    """A standard output that keeps bytes and text in one place."""

    def __init__(self, monkeypatch, *, tty: bool = False) -> None:
        self.raw = io.BytesIO()
        stream = io.TextIOWrapper(self.raw, encoding="utf-8", write_through=True)
        stream.isatty = lambda: tty  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdout", stream)
        self._stream = stream

    def text(self) -> str:
        return self.raw.getvalue().decode()

    def entries(self) -> list[dict]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def _logging_restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def exported():
    """Spans as they are exported, with a tracer that is set for the test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    set_tracer(provider.get_tracer("test"))
    yield exporter
    set_tracer(None)
    provider.shutdown()


# ---- logs


@pytest.mark.usefixtures("_logging_restored")
def test_a_log_entry_is_one_json_object_a_line(monkeypatch):
    """With service, level, time in UTC and the values given; secrets are masked, odd types are written as text."""
    output = Output(monkeypatch)
    configure_logging("telemetry", LogLevel.INFO)

    structlog.get_logger().info("report.kept", node="n1", count=3, token=Secret("x"), kind=int)

    (entry,) = output.entries()
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "event": "report.kept",
        "service": "telemetry",
        "level": "info",
        "node": "n1",
        "count": 3,
        "token": "***",
        "kind": "<class 'int'>",
    }


@pytest.mark.usefixtures("_logging_restored")
def test_what_is_below_the_level_is_dropped(monkeypatch):
    """Own entries by the level, those of libraries below WARNING in any case."""
    output = Output(monkeypatch)
    configure_logging("x", LogLevel.INFO)

    structlog.get_logger().debug("a")
    structlog.get_logger().info("b")
    logging.getLogger("lib").info("c")
    logging.getLogger("lib").warning("d %s", 1)

    assert [(entry["event"], entry.get("logger")) for entry in output.entries()] == [("b", None), ("d 1", "lib")]


@pytest.mark.usefixtures("_logging_restored")
def test_errors_are_logged_with_their_traceback(monkeypatch):
    """Own and foreign ones; a peer's malformed request only by its line."""
    output = Output(monkeypatch)
    configure_logging("x", LogLevel.WARNING)

    for error in (ZeroDivisionError("boom"), BadStatusLine("GARBAGE")):
        logging.getLogger("aiohttp.server").error("Error handling request from %s", "192.0.2.1", exc_info=error)
    structlog.get_logger().error("own", exc_info=ZeroDivisionError("bang"))

    foreign, hostile, own = output.entries()
    assert "ZeroDivisionError: boom" in foreign["exception"]
    assert "exception" not in hostile
    assert hostile["event"].startswith("Error handling request from 192.0.2.1: ")
    assert "ZeroDivisionError: bang" in own["exception"]


@pytest.mark.usefixtures("_logging_restored")
def test_the_trace_is_in_the_log(monkeypatch):
    """So that one leads to the other."""
    output = Output(monkeypatch)
    configure_logging("x", LogLevel.INFO)

    with span("work", PARENT):
        structlog.get_logger().info("inside")
    structlog.get_logger().info("outside")

    inside, outside = output.entries()
    assert inside["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert "trace_id" not in outside


@pytest.mark.usefixtures("_logging_restored")
def test_a_terminal_gets_text(monkeypatch):
    """People read it."""
    output = Output(monkeypatch, tty=True)
    configure_logging("x", LogLevel.INFO)

    structlog.get_logger().info("hello", node="n1")
    logging.getLogger("lib").warning("there")

    assert "hello" in output.text()
    assert "there" in output.text()
    assert not output.text().startswith("{")


@pytest.mark.usefixtures("_logging_restored")
def test_warnings_of_the_interpreter_are_logged(monkeypatch):
    """They would be lost on standard error."""
    output = Output(monkeypatch)
    configure_logging("x", LogLevel.INFO)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)

    assert "UserWarning: old" in output.entries()[0]["event"]


# ---- metrics


def test_a_counter_counts_by_labels():
    """Each tuple of label values is a series; what was never counted is 0."""
    counter = Counter("polls", "Polls.", ("outcome",))

    counter.add(1, ("no",))
    counter.add(2, ("no",))
    counter.add(1, ("yes",))

    assert counter.read() == [(("no",), 3), (("yes",), 1)]
    assert counter.value(("no",)) == 3
    assert counter.value(("never",)) == 0


def test_a_counter_without_labels_is_there_from_the_start():
    """An absent series and a zero are told apart."""
    counter = Counter("polls", "Polls.")

    assert counter.read() == [((), 0)]
    counter.add()
    assert counter.value() == 1


def test_a_gauge_is_set_or_watched():
    """What is watched is asked when it is read."""
    gauge = Gauge("depth", "Depth.", ("queue",))
    gauge.set(3, ("a",))
    gauge.set(2, ("a",))
    gauge.set(5, ("b",))
    gauge.remove(("b",))
    gauge.remove(("b",))
    gauge.watch(lambda: {("c",): 7})

    assert sorted(gauge.read()) == [(("a",), 2), (("c",), 7)]
    assert gauge.value(("c",)) == 7

    plain = Gauge("age", "Age.")
    plain.watch(lambda: 1.5)
    assert plain.read() == [((), 1.5)]


def test_a_histogram_counts_into_buckets():
    """A value on a bound belongs to that bucket; what is above all goes to the last."""
    histogram = Histogram("flush_seconds", "Flush.", buckets=(0.1, 1.0))

    for value in (0.05, 0.1, 0.5, 2.0):
        histogram.observe(value)

    assert histogram.read() == [((), [2, 1, 1], pytest.approx(2.65))]
    assert histogram.count() == 4
    assert histogram.count(("x",)) == 0


@pytest.mark.parametrize("buckets", [(), (1.0, 0.5), (1.0, 1.0)])
def test_buckets_rise(buckets):
    """Anything else would count wrongly."""
    with pytest.raises(ValueError, match="must rise"):
        Histogram("x", "X.", buckets=buckets)


def test_label_values_fit_the_labels():
    """A wrong number of them is a bug that shows at once."""
    for wrong in (Counter("a", "A.", ("x",)).add, Histogram("a", "A.", ("x",)).observe, Gauge("a", "A.", ("x",)).set):
        with pytest.raises(ValueError, match="does not fit"):
            wrong(1, ("1", "2"))


def test_series_are_bounded():
    """What is beyond the limit is counted together, so hostile labels cost no memory."""
    counter, histogram, gauge = Counter("a", "A.", ("x",)), Histogram("b", "B.", ("x",)), Gauge("c", "C.", ("x",))

    for number in range(MAX_SERIES + 10):
        counter.add(1, (str(number),))
        histogram.observe(1, (str(number),))
        gauge.set(1, (str(number),))

    assert counter.value((OVERFLOW,)) == 10
    assert histogram.count((OVERFLOW,)) == 10
    assert len(counter.read()) == len(histogram.read()) == len(gauge.read()) == MAX_SERIES + 1


def test_metrics_are_made_once():
    """Asking again returns the same; asking for something else under its name is a bug."""
    metrics = Metrics()
    polls = metrics.counter("polls", "Polls.", ("outcome",))

    assert metrics.counter("polls", "Polls.", ("outcome",)) is polls
    assert metrics["polls"] is polls
    with pytest.raises(ValueError, match="is a Counter"):
        metrics.gauge("polls", "Polls.", ("outcome",))
    with pytest.raises(ValueError, match="is a Counter"):
        metrics.counter("polls", "Polls.")
    with pytest.raises(ValueError, match="no metric's name"):
        metrics.counter("Polls!", "Polls.")


def test_prometheus_text_holds_all_metrics():
    """Counters and gauges through OpenTelemetry, histograms beside them; also those made after the start."""
    metrics = Metrics()
    metrics.counter("uneventful_polls", "Polls answered.", ("outcome",)).add(3, ("no_update",))
    telemetry = start_telemetry("update_check", metrics=metrics)
    metrics.gauge("uneventful_depth", "Depth.").watch(lambda: 4)
    late = metrics.histogram("uneventful_flush_seconds", "Flush.", ("table",), buckets=(0.1, 1.0))
    late.observe(0.05, ("nodes",))
    late.observe(5, ("nodes",))

    lines = telemetry.prometheus().decode().splitlines()

    telemetry.shutdown()
    assert "# HELP uneventful_polls_total Polls answered." in lines
    assert 'uneventful_polls_total{outcome="no_update"} 3.0' in lines
    assert "uneventful_depth 4.0" in lines
    assert "# TYPE uneventful_flush_seconds histogram" in lines
    assert 'uneventful_flush_seconds_bucket{le="0.1",table="nodes"} 1.0' in lines
    assert 'uneventful_flush_seconds_bucket{le="+Inf",table="nodes"} 2.0' in lines
    assert 'uneventful_flush_seconds_sum{table="nodes"} 5.05' in lines
    assert any(line.startswith("process_cpu_seconds_total ") for line in lines)
    assert any('service_name="update_check"' in line for line in lines)


# ---- traces


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "junk",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        PARENT + "-more",
        PARENT + "\n",
        "01" + PARENT[2:] + "-" + "x" * 600,
    ],
)
def test_malformed_trace_contexts_are_ignored(header):
    """As the specification says: none, rather than an error."""
    assert parse_traceparent(header) is None


def test_trace_contexts_are_read():
    """Also those of later versions, as far as they are known."""
    context = TraceContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, sampled=True)

    assert parse_traceparent(PARENT) == context
    assert parse_traceparent("cc" + PARENT[2:] + "-later") == context
    assert parse_traceparent(OTHER).sampled is False


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_trace_contexts_survive_the_round_trip(trace_id, span_id, sampled):
    """What is written is read again."""
    context = TraceContext(trace_id, span_id, sampled)

    assert parse_traceparent(format_traceparent(context)) == context


def test_without_a_tracer_the_context_is_handed_through():
    """A service that exports nothing does not break the chain."""
    assert inject_trace() is None
    with span("outer", PARENT) as outer:
        assert outer == inject_trace() == PARENT
        with span("inner") as inner:
            assert inner == PARENT
        with span("other", OTHER):
            assert inject_trace() == OTHER
        with span("malformed", "junk") as current:
            assert current == PARENT
        assert current_trace_id() == PARENT[3:35]
    assert inject_trace() is None
    with span("alone") as alone:
        assert alone is None


def test_spans_are_children_of_what_was_received(exported):
    """Same trace, and what is sent along names the new span."""
    with span("receive", PARENT, attributes={"count": 2}) as current, span("store") as inner:
        assert inject_trace() == inner

    store, receive = exported.get_finished_spans()
    assert format_traceparent(TraceContext(receive.context.trace_id, receive.context.span_id, sampled=True)) == current
    assert f"{receive.context.trace_id:032x}" == PARENT[3:35]
    assert receive.parent.span_id == 0xB7AD6B7169203331
    assert store.parent.span_id == receive.context.span_id
    assert receive.attributes == {"count": 2}
    assert inject_trace() is None


def test_a_batch_is_linked_to_its_items(exported):
    """A span of its own trace, with a link per well-formed context."""
    with span("flush", links=[PARENT, "junk", OTHER]):
        pass

    (flush,) = exported.get_finished_spans()
    assert flush.parent is None
    assert [f"{link.context.trace_id:032x}" for link in flush.links] == [PARENT[3:35], OTHER[3:35]]


def test_a_span_that_fails_says_so(exported):
    """The error goes on, and the context is as before."""
    with pytest.raises(ZeroDivisionError), span("work"):
        raise ZeroDivisionError

    (work,) = exported.get_finished_spans()
    assert work.status.status_code is StatusCode.ERROR
    assert work.events[0].name == "exception"
    assert inject_trace() is None


def test_an_unsampled_parent_stays_unsampled(exported):
    """Who began the trace decided."""
    with span("work", OTHER) as current:
        assert current.startswith(OTHER[:35])
        assert current.endswith("-00")

    assert exported.get_finished_spans() == ()
