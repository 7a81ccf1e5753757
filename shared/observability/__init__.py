"""What can be seen of a running service: logs, metrics, traces.

The exporters are in `shared.observability.telemetry`, imported only by what runs a service: they load OpenTelemetry's
SDK, which the command line does without.
"""

from __future__ import annotations

from shared.observability.logs import configure_logging
from shared.observability.metrics import (
    METRICS,
    Counter,
    Gauge,
    Histogram,
    Metrics,
    counter,
    gauge,
    histogram,
)
from shared.observability.traces import inject_trace, span

__all__ = [
    "METRICS",
    "Counter",
    "Gauge",
    "Histogram",
    "Metrics",
    "configure_logging",
    "counter",
    "gauge",
    "histogram",
    "inject_trace",
    "span",
]
