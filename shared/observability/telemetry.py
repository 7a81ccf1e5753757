"""Where metrics and spans go: Prometheus text for whoever asks, and OTLP over HTTP where that is configured.

The metrics stay plain numbers (`shared.observability.metrics`); OpenTelemetry's observable instruments read them when
they are collected. It has no observable histogram, so histograms are rendered by a collector of our own on the same
Prometheus registry, and pushed over OTLP as Prometheus would name them: ``_bucket`` (cumulative, label ``le``),
``_sum`` and ``_count``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.core import Metric as PrometheusMetric
from prometheus_client.registry import Collector

from shared.observability.metrics import METRICS, Counter, Gauge, Histogram, Metric, Metrics
from shared.observability.traces import set_tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PUSH_INTERVAL_S: Final = 15.0
PUSH_TIMEOUT_S: Final = 3.0
SHUTDOWN_TIMEOUT_S: Final = 3.0

_SCOPE: Final = "uneventful"
_Read = Callable[[CallbackOptions], Iterable[Observation]]


class Telemetry:
    """The exporters of one process; made by `start_telemetry`."""

    def __init__(
        self, registry: CollectorRegistry, meters: list[MeterProvider], tracers: TracerProvider | None
    ) -> None:
        self._registry = registry
        self._meters = meters
        self._tracers = tracers

    def prometheus(self) -> bytes:
        """All metrics in Prometheus's text format; takes milliseconds, may be called in a thread."""
        return generate_latest(self._registry)

    def shutdown(self) -> None:
        """Push what is left and stop; blocks for a few seconds at most, so call it in a thread."""
        if self._tracers is not None:
            set_tracer(None)
            self._tracers.force_flush(round(SHUTDOWN_TIMEOUT_S * 1000))
            self._tracers.shutdown()
        for provider in self._meters:
            provider.shutdown(timeout_millis=SHUTDOWN_TIMEOUT_S * 1000)


def start_telemetry(service: str, *, otlp_endpoint: str | None = None, metrics: Metrics = METRICS) -> Telemetry:
    """Set up the exporters.

    Args:
        service: The resource's ``service.name``.
        otlp_endpoint: The base URL, like http://127.0.0.1:4318; None: no spans, and metrics only for Prometheus.
        metrics: What is exported.
    """
    resource = Resource.create({"service.name": service, "service.namespace": "uneventful"})
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Histograms(metrics))
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    meters = [MeterProvider([reader], resource, shutdown_on_exit=False)]
    pulled = meters[0].get_meter(_SCOPE)
    metrics.listen(lambda metric: _observe(pulled, metric))
    tracers = None
    if otlp_endpoint is not None:
        endpoint = otlp_endpoint.rstrip("/")
        meters.append(_push_metrics(endpoint, resource))
        pushed = meters[1].get_meter(_SCOPE)
        metrics.listen(lambda metric: _observe(pushed, metric, histograms=True))
        tracers = _push_spans(endpoint, resource)
        set_tracer(tracers.get_tracer(_SCOPE))
    return Telemetry(registry, meters, tracers)


def _push_metrics(endpoint: str, resource: Resource) -> MeterProvider:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415  # slow
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415

    exporter = OTLPMetricExporter(f"{endpoint}/v1/metrics", timeout=PUSH_TIMEOUT_S)
    reader = PeriodicExportingMetricReader(
        exporter,
        export_interval_millis=PUSH_INTERVAL_S * 1000,
        export_timeout_millis=PUSH_TIMEOUT_S * 1000,
    )
    return MeterProvider([reader], resource, shutdown_on_exit=False)


def _push_spans(endpoint: str, resource: Resource) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # slow
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=PUSH_TIMEOUT_S)
    tracers.add_span_processor(BatchSpanProcessor(exporter))
    return tracers


def _observe(meter: Meter, metric: Metric, *, histograms: bool = False) -> None:
    match metric:
        case Counter():
            meter.create_observable_counter(metric.name, [_reader(metric)], description=metric.description)
        case Gauge():
            meter.create_observable_gauge(metric.name, [_reader(metric)], description=metric.description)
        case Histogram():
            if histograms:
                _observe_histogram(meter, metric)


def _reader(metric: Counter | Gauge) -> _Read:
    def read(_: CallbackOptions) -> list[Observation]:
        return [Observation(value, dict(zip(metric.labels, labels, strict=True))) for labels, value in metric.read()]

    return read


def _observe_histogram(meter: Meter, metric: Histogram) -> None:
    def buckets(_: CallbackOptions) -> Iterator[Observation]:
        for labels, counts, _sum in metric.read():
            named = dict(zip(metric.labels, labels, strict=True))
            for bound, count in zip([*map(str, metric.buckets), "+Inf"], accumulate(counts), strict=True):
                yield Observation(count, {**named, "le": bound})

    def sums(_: CallbackOptions) -> Iterator[Observation]:
        for labels, _counts, total in metric.read():
            yield Observation(total, dict(zip(metric.labels, labels, strict=True)))

    def counts(_: CallbackOptions) -> Iterator[Observation]:
        for labels, each, _sum in metric.read():
            yield Observation(sum(each), dict(zip(metric.labels, labels, strict=True)))

    meter.create_observable_counter(f"{metric.name}_bucket", [buckets], description=metric.description)
    meter.create_observable_counter(f"{metric.name}_sum", [sums], description=metric.description)
    meter.create_observable_counter(f"{metric.name}_count", [counts], description=metric.description)


class _Histograms(Collector):
    """Our histograms, for prometheus_client."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[PrometheusMetric]:
        for metric in self._metrics.all():
            if not isinstance(metric, Histogram):
                continue
            family = HistogramMetricFamily(metric.name, metric.description, labels=metric.labels)
            bounds = [*map(str, metric.buckets), "+Inf"]
            for labels, counts, total in metric.read():
                cumulative = list(zip(bounds, accumulate(counts), strict=True))
                family.add_metric(labels, cumulative, total)
            yield family

    def describe(self) -> list[PrometheusMetric]:
        """Nothing ahead of time: metrics may still be made after this is registered."""
        return []
