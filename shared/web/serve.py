"""A service's life: two listening sites, a ready file, and a graceful end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import orjson
import structlog
from aiohttp import web

from shared.errors import SettingsInvalid, UneventfulError
from shared.observability.logs import configure_logging
from shared.observability.telemetry import CONTENT_TYPE, Telemetry, start_telemetry
from shared.settings import ServiceSettings, load
from shared.web.app import LIFELINE, new_app
from shared.web.health import HEALTH, Health, Phase

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# Longer than a reverse proxy keeps its idle connections (nginx: 60 s), so that it closes first. This is also the time
# in which the header of a request must be complete.
KEEPALIVE_S: Final = 75.0
LINGERING_S: Final = 2.0
MAX_LINE_BYTES: Final = 8190
MAX_FIELD_BYTES: Final = 8190
MAX_HEADERS: Final = 64
BACKLOG: Final = 1024
# Of the time to stop: aiohttp waits this long for handlers, cancels them, and waits as long again. What is left is for
# the clean-up contexts.
HANDLERS_SHARE: Final = 0.3

_log = structlog.get_logger()

S = TypeVar("S", bound=ServiceSettings)


def main(
    make_app: Callable[[S], web.Application],
    kind: type[S],
    *,
    name: str,
    uvloop: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """The whole of a service's ``__main__``: read the settings, then `run`; faults in them exit with status 2."""
    try:
        settings = load(kind, environ)
    except SettingsInvalid as error:
        sys.stderr.write(f"{name}: {error}\n")
        raise SystemExit(2) from None
    run(make_app, settings, name=name, uvloop=uvloop)


def run(make_app: Callable[[S], web.Application], settings: S, *, name: str, uvloop: bool) -> None:
    """Run a service until SIGTERM or SIGINT.

    Args:
        make_app: Builds the application; called inside the running loop.
        settings: The service's settings.
        name: The service's name, in logs, metrics and traces.
        uvloop: Whether to run on uvloop; what sends files does not (uvloop has no sendfile).

    Raises:
        SystemExit: With status 1 when it could not start, or when something that it needs ended.
    """
    configure_logging(name, settings.log_level)
    try:
        with asyncio.Runner(loop_factory=_uvloop if uvloop else None) as runner:
            runner.run(serve(make_app, settings, name=name))
    except UneventfulError as error:
        _log.error("service.failed", code=error.code, error=error.message)  # the message says it all
        raise SystemExit(1) from None
    except Exception:  # noqa: BLE001  # not swallowed: the process ends
        _log.exception("service.failed")
        raise SystemExit(1) from None


def _uvloop() -> AbstractEventLoop:
    import uvloop  # noqa: PLC0415  # not every service runs on it

    return uvloop.new_event_loop()


async def serve(
    make_app: Callable[[S], web.Application],
    settings: S,
    *,
    name: str,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or ``stop``; then finish what is in flight in ``settings.shutdown_seconds``.

    Args:
        make_app: Builds the application; its ``cleanup_ctx`` runs before it listens.
        settings: The service's settings.
        name: The service's name.
        stop: Ends it when set; given, no signals are handled here (that is how tests and embedders run it).

    Raises:
        Exception: What ended a `background` task, or kept the application from starting.
    """
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT) if stop is None else ()
    stop = asyncio.Event() if stop is None else stop
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    # In a thread: OpenTelemetry's resource detectors block.
    telemetry = await asyncio.to_thread(start_telemetry, name, otlp_endpoint=settings.otlp_endpoint)
    app = make_app(settings)
    health = app[HEALTH]
    status = _runner(_status_app(name, health, telemetry), 1.0)
    service = _runner(app, settings.shutdown_seconds * HANDLERS_SHARE)
    try:
        # The status site first: a service that waits for its database is alive, and says that it is starting.
        status_url = await _listen(status, settings.status_host, settings.status_port)
        await _until(stop, service.setup())
        if not stop.is_set():
            url = await _listen(service, settings.host, settings.port)
            health.phase = Phase.SERVING
            if settings.ready_file is not None:
                await asyncio.to_thread(_write_ready_file, Path(settings.ready_file), url, status_url)
            _log.info("service.serving", url=url, status_url=status_url, pid=os.getpid())
            await _first(stop, app[LIFELINE].cut)
    finally:
        health.phase = Phase.STOPPING
        await _stop(service, status, telemetry, settings)
        for number in signals:
            loop.remove_signal_handler(number)
    error = app[LIFELINE].error
    if error is not None:
        raise error
    _log.info("service.stopped")


def _runner(app: web.Application, shutdown_timeout_s: float) -> web.AppRunner:
    return web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGERING_S,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_FIELD_BYTES,
        max_headers=MAX_HEADERS,
        auto_decompress=False,
        shutdown_timeout=shutdown_timeout_s,
    )


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    if runner.server is None:
        await runner.setup()
    site = web.TCPSite(runner, host, port, backlog=BACKLOG)
    await site.start()
    address, bound = runner.addresses[0][:2]
    return f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}"


async def _until(stop: asyncio.Event, work: object) -> None:
    """Await ``work``, but give it up when ``stop`` is set first."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]  # any coroutine
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _stop(service: web.AppRunner, status: web.AppRunner, telemetry: Telemetry, settings: ServiceSettings) -> None:
    if settings.ready_file is not None:
        await asyncio.to_thread(Path(settings.ready_file).unlink, missing_ok=True)
    try:
        async with asyncio.timeout(settings.shutdown_seconds):
            await service.cleanup()
    except TimeoutError:
        _log.warning("service.stop_overran", seconds=settings.shutdown_seconds)
    await status.cleanup()
    await asyncio.to_thread(telemetry.shutdown)


def _write_ready_file(path: Path, url: str, status_url: str) -> None:
    """Write and rename, so that who sees the file sees all of it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_bytes(orjson.dumps({"pid": os.getpid(), "url": url, "status_url": status_url}))
    unfinished.replace(path)


def _status_app(name: str, health: Health, telemetry: Telemetry) -> web.Application:
    async def livez(_: web.Request) -> web.Response:
        return _json(200, {"status": "ok", "service": name})

    async def readyz(_: web.Request) -> web.Response:
        found = await health.check()
        failing = any(dependency.error is not None for dependency in found)
        word = health.phase.value
        if health.phase is Phase.SERVING:
            word = "failing" if failing else "ok"
        dependencies = {
            dependency.name: {"ok": True, "ms": dependency.ms}
            if dependency.error is None
            else {"ok": False, "ms": dependency.ms, "error": dependency.error}
            for dependency in found
        }
        return _json(200 if word == "ok" else 503, {"status": word, "service": name, "dependencies": dependencies})

    async def metrics(_: web.Request) -> web.Response:
        text = await asyncio.to_thread(telemetry.prometheus)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    app = new_app(name=f"{name} status", max_body_bytes=1024)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def _json(status: int, value: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), headers={"Content-Type": "application/json"})
