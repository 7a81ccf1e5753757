"""Trace context (W3C Trace Context, level 1) and spans.

The context is a ``traceparent`` string: it travels in HTTP headers, in events and in messages, whether or not this
process exports spans. Spans are made only once a tracer is set (`set_tracer`); until then a span costs next to
nothing and hands the context through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

_TRACEPARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<span_id>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?"
)
_SAMPLED: Final = 0x01

_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


class TraceContext(NamedTuple):
    """A parsed ``traceparent``."""

    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(header: str | None) -> TraceContext | None:
    """Read a ``traceparent``; None for what is malformed, which the specification says to ignore."""
    if header is None or len(header) > 512:
        return None
    match = _TRACEPARENT.fullmatch(header)
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["rest"]):
        return None
    trace_id, span_id = int(match["trace_id"], 16), int(match["span_id"], 16)
    if not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(match["flags"], 16) & _SAMPLED))


def format_traceparent(context: TraceContext) -> str:
    """Write a ``traceparent`` of version 00."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.sampled):02x}"


def inject_trace() -> str | None:
    """The ``traceparent`` to send along from here, or None where there is no trace."""
    return _current.get()


def current_trace_id() -> str | None:
    """The trace's id in hexadecimal, for logs."""
    current = _current.get()
    return None if current is None else current[3:35]


class _Tracing:
    """Where the process's tracer is kept; None until spans are exported."""

    tracer: Tracer | None = None


def set_tracer(tracer: Tracer | None) -> None:
    """Export spans through ``tracer`` from now on; None stops it."""
    _Tracing.tracer = tracer


class SpanContext(Protocol):
    """What `span` returns: ``with`` yields the ``traceparent`` that is current inside, or None."""

    def __enter__(self) -> str | None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


def span(
    name: str,
    traceparent: str | None = None,
    links: Sequence[str] = (),
    *,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> SpanContext:
    """A stretch of work as a span.

    Args:
        name: What is done, in few and bounded words.
        traceparent: The parent as received; None means what is current here, or a trace of its own.
        links: Contexts that this work belongs to without being their child: those of a batch's items.
        attributes: Said of the span.
    """
    tracer = _Tracing.tracer
    if tracer is None:
        return _NOTHING if traceparent is None else _Passing(traceparent)
    return _Recording(tracer, name, traceparent, links, attributes)


class _Nothing:
    __slots__ = ()

    def __enter__(self) -> str | None:
        return _current.get()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        return None


_NOTHING: Final = _Nothing()


class _Passing:
    """Hands a received context through, without a span."""

    __slots__ = ("_token", "_traceparent")

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent
        self._token: Token[str | None] | None = None

    def __enter__(self) -> str | None:
        if parse_traceparent(self._traceparent) is not None:
            self._token = _current.set(self._traceparent)
        return _current.get()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)


class _Recording:
    """A span that is exported."""

    __slots__ = ("_attributes", "_links", "_name", "_span", "_token", "_traceparent", "_tracer")

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        traceparent: str | None,
        links: Sequence[str],
        attributes: Mapping[str, AttributeValue] | None,
    ) -> None:
        self._tracer = tracer
        self._name = name
        self._traceparent = traceparent
        self._links = links
        self._attributes = attributes
        self._span: Span | None = None
        self._token: Token[str | None] | None = None

    def __enter__(self) -> str | None:
        from opentelemetry import trace  # noqa: PLC0415  # a set tracer means that it is loaded already
        from opentelemetry.context import Context  # noqa: PLC0415

        def remote(context: TraceContext) -> trace.SpanContext:
            flags = trace.TraceFlags(_SAMPLED if context.sampled else 0)
            return trace.SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=flags)

        parent = parse_traceparent(self._traceparent) or parse_traceparent(_current.get())
        where = Context()
        if parent is not None:
            where = trace.set_span_in_context(trace.NonRecordingSpan(remote(parent)), where)
        linked = [trace.Link(remote(context)) for context in map(parse_traceparent, self._links) if context is not None]
        self._span = self._tracer.start_span(self._name, context=where, links=linked, attributes=self._attributes)
        made = self._span.get_span_context()
        current = format_traceparent(TraceContext(made.trace_id, made.span_id, made.trace_flags.sampled))
        self._token = _current.set(current)
        return current

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415  # as above

        if self._token is not None:
            _current.reset(self._token)
        if self._span is not None:
            if isinstance(error, Exception):
                self._span.record_exception(error)
                self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            self._span.end()
