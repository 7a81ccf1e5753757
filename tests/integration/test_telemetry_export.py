"""Metrics and spans over OTLP, to a collector that is played by the test."""

from __future__ import annotations

import asyncio
import gzip

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from shared.observability import span
from shared.observability.metrics import Metrics
from shared.observability.telemetry import start_telemetry


class Collector:
    """What an OTLP receiver got, by path."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {}

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.setdefault(request.path, []).append(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        return web.Response(body=b"", content_type="application/x-protobuf")


async def test_spans_and_metrics_are_pushed():
    """What is left goes out at the end; histograms under Prometheus's names."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/{kind}", collector.receive)
    metrics = Metrics()
    metrics.counter("uneventful_polls", "Polls.", ("outcome",)).add(3, ("no",))
    metrics.gauge("uneventful_depth", "Depth.").set(2)
    metrics.histogram("uneventful_flush_seconds", "Flush.", buckets=(0.1, 1.0)).observe(0.5)
    async with TestServer(app) as server:
        endpoint = str(server.make_url("")).rstrip("/")
        telemetry = await asyncio.to_thread(start_telemetry, "test", otlp_endpoint=endpoint, metrics=metrics)
        with span("flush") as current:
            assert current is not None
        await asyncio.to_thread(telemetry.shutdown)
        with span("after") as nothing:
            assert nothing is None

    traces = ExportTraceServiceRequest.FromString(collector.bodies["/v1/traces"][0])
    (scope,) = traces.resource_spans[0].scope_spans
    assert [one.name for one in scope.spans] == ["flush"]
    assert scope.spans[0].trace_id.hex() == current[3:35]
    pushed = ExportMetricsServiceRequest.FromString(collector.bodies["/v1/metrics"][-1])
    values = {
        (metric.name, tuple(sorted((label.key, label.value.string_value) for label in point.attributes))): (
            point.as_double or point.as_int
        )
        for metric in pushed.resource_metrics[0].scope_metrics[0].metrics
        for point in (metric.sum.data_points or metric.gauge.data_points)
    }
    assert values["uneventful_polls", (("outcome", "no"),)] == 3
    assert values["uneventful_depth", ()] == 2
    assert values["uneventful_flush_seconds_bucket", (("le", "0.1"),)] == 0
    assert values["uneventful_flush_seconds_bucket", (("le", "1.0"),)] == 1
    assert values["uneventful_flush_seconds_bucket", (("le", "+Inf"),)] == 1
    assert values["uneventful_flush_seconds_sum", ()] == 0.5
    assert values["uneventful_flush_seconds_count", ()] == 1
