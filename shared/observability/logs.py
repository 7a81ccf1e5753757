"""Logs: one JSON object a line on standard output, by structlog and orjson; pretty where a person looks on.

Own code logs by ``structlog.get_logger()``, with an event name in dotted words and values as keywords. What libraries
log through the standard library comes out in the same form, from WARNING up.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import orjson
import structlog
from aiohttp.http_exceptions import HttpProcessingError

from shared.observability.traces import current_trace_id
from shared.settings import LogLevel

_LEVELS: Final = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}


def dump_line(value: object, **_: object) -> bytes:
    """A log entry as JSON; what JSON has no form for is written as its ``str``, so secrets stay ``***``."""
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)


class _WithoutHostileTracebacks(logging.Filter):
    """Strips the traceback where the peer's bytes, not our code, are at fault: one line per bad request is enough."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            record.msg = f"{record.getMessage()}: {record.exc_info[1].message!s:.200}"
            record.args = ()
            record.exc_info = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def _console() -> structlog.dev.ConsoleRenderer:
    # Plain tracebacks: the pretty ones show local variables, and so secrets.
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def configure_logging(service: str, level: LogLevel) -> None:
    """Set up logging for the whole process; call it once, before the first log entry.

    Args:
        service: Goes into every entry as ``service``.
        level: What is less than this is dropped before it costs anything.
    """

    def add_service(_: Any, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        entry["service"] = service
        trace_id = current_trace_id()
        if trace_id is not None:
            entry["trace_id"] = trace_id
        return entry

    pretty = sys.stdout.isatty()
    first: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
    ]
    if not pretty:
        first.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[
            *first,
            _console() if pretty else structlog.processors.JSONRenderer(serializer=dump_line),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory() if pretty else structlog.BytesLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    _configure_standard_library(first, level, pretty=pretty)


def _configure_standard_library(first: list[Any], level: LogLevel, *, pretty: bool) -> None:
    def dump_text(value: object, **_: object) -> str:
        return dump_line(value).decode()

    renderer: Any = _console() if pretty else structlog.processors.JSONRenderer(serializer=dump_text)
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_WithoutHostileTracebacks())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    # While Postgres is away it writes a traceback for each connection that it cannot open; we say it once, ourselves.
    logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)
