"""The base of every HTTP service, spoken to over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
from typing import Annotated

import aiohttp
import asyncpg
import msgspec
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from shared.errors import Conflict, Fault, InvalidInput, LedgerBroken, NotFound, Unavailable
from shared.observability.metrics import METRICS
from shared.settings import Secret, ServiceSettings
from shared.web import (
    HEALTH,
    PRINCIPAL,
    Health,
    Principal,
    background,
    bearer_auth_middleware,
    json_response,
    main,
    new_app,
    read_body,
    read_json,
    run,
    serve,
)


class Thing(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    size: Annotated[int, msgspec.Meta(ge=0)] = 0
    parts: list[Thing] = []


@pytest.fixture(autouse=True)
def logged():
    """What is logged during a test."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@contextlib.asynccontextmanager
async def client_of(app):
    async with TestClient(TestServer(app)) as client:
        yield client


def app_that_raises(error: BaseException) -> web.Application:
    async def handler(request: web.Request) -> web.Response:
        raise error

    app = new_app(name="test")
    app.router.add_get("/things/{thing}", handler)
    return app


async def problem_of(app, path="/things/1", method="GET"):
    async with client_of(app) as client, client.request(method, path) as response:
        assert response.content_type == "application/problem+json"
        body = await response.json(content_type=None)
        assert body["status"] == response.status
        assert body["type"] == f"urn:uneventful:problem:{body['code']}"
        return response, body


# ---- problems


async def test_our_errors_become_problems():
    """With status, code, title, text and details."""
    response, body = await problem_of(app_that_raises(Conflict("it is halted", details={"rollout": "r1"})))

    assert response.status == 409
    assert body == {
        "type": "urn:uneventful:problem:conflict",
        "title": "Conflict",
        "status": 409,
        "detail": "it is halted",
        "code": "conflict",
        "rollout": "r1",
    }


async def test_details_do_not_replace_the_standard_members():
    """A member called status stays the status."""
    _, body = await problem_of(app_that_raises(Conflict("x", details={"status": 200, "code": "y"})))

    assert (body["status"], body["code"]) == (409, "conflict")


@pytest.mark.parametrize(("seconds", "header"), [(0.1, "1"), (2.0, "2"), (2.1, "3")])
async def test_retry_after_is_in_whole_seconds(seconds, header):
    """Rounded up, never 0."""
    response, _ = await problem_of(app_that_raises(Unavailable("full", retry_after_s=seconds)))

    assert response.status == 503
    assert response.headers["Retry-After"] == header


async def test_an_unknown_path_is_a_problem():
    """404, by the path."""
    response, body = await problem_of(new_app(name="test"), "/nothing")

    assert response.status == 404
    assert (body["code"], body["detail"]) == ("not_found", "there is nothing at /nothing")


async def test_a_wrong_method_is_a_problem():
    """405, with Allow."""
    response, body = await problem_of(app_that_raises(NotFound("x")), method="DELETE")

    assert response.status == 405
    assert body["code"] == "method_not_allowed"
    assert set(response.headers["Allow"].split(",")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (web.HTTPForbidden(reason="not here"), "not_permitted"),
        (web.HTTPUnavailableForLegalReasons(link=None), "invalid_input"),
        (web.HTTPBadGateway(), "fault"),
    ],
)
async def test_errors_of_the_framework_become_problems(error, code):
    """By their status; what has no class of its own is a bad request or a fault."""
    _, body = await problem_of(app_that_raises(error))

    assert body["code"] == code


async def test_redirects_are_no_errors():
    """They pass."""
    async with (
        client_of(app_that_raises(web.HTTPSeeOther("/other"))) as client,
        client.get("/things/1", allow_redirects=False) as response,
    ):
        assert response.status == 303
        assert response.headers["Location"] == "/other"


@pytest.mark.parametrize("error", [RuntimeError("the password is hunter2"), Fault("row 7 of hunter2")])
async def test_faults_keep_their_details_to_themselves(error, logged):
    """The answer says where to look; the log has the traceback."""
    _, body = await problem_of(app_that_raises(error))

    assert body["code"] == "fault"
    assert "hunter2" not in json.dumps(body)
    assert [(entry["event"], entry["exc_info"]) for entry in logged] == [("request.fault", error)]


async def test_deliberate_errors_of_our_side_are_logged_and_shown(logged):
    """A broken ledger is for operators to see."""
    _, body = await problem_of(app_that_raises(LedgerBroken("seq 7 is missing")))

    assert (body["status"], body["code"], body["detail"]) == (500, "ledger_broken", "seq 7 is missing")
    assert [entry["event"] for entry in logged] == ["request.fault"]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.AdminShutdownError("x"),
        asyncpg.InterfaceError("pool is closed"),
    ],
)
async def test_a_database_that_is_away_is_no_fault(error, logged):
    """503 with a time to retry."""
    response, body = await problem_of(app_that_raises(error))

    assert (response.status, body["code"], response.headers["Retry-After"]) == (503, "unavailable", "2")
    assert [entry["log_level"] for entry in logged] == ["warning"]


async def test_a_wrong_query_is_a_fault():
    """The other interface errors of asyncpg are bugs."""
    response, _ = await problem_of(app_that_raises(asyncpg.InterfaceError("the server expects 1 argument")))

    assert response.status == 500


async def test_half_an_answer_is_not_followed_by_a_problem():
    """The connection is cut, so that nobody takes it for whole."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        raise RuntimeError

    app = new_app(name="test")
    app.router.add_get("/", handler)
    async with client_of(app) as client, client.get("/") as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_problems_and_requests_are_counted():
    """By code; by method, route (not path) and status."""
    await problem_of(app_that_raises(Conflict("x")), "/things/42")

    requests = dict(METRICS["uneventful_http_requests"].read())
    assert requests["GET", "/things/{thing}", "409"] >= 1
    assert not any("/things/42" in labels for labels in requests)
    assert METRICS["uneventful_http_problems"].value(("conflict",)) >= 1


async def test_a_bare_application_has_no_middleware():
    """Hot paths answer errors themselves."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = new_app(name="test", bare=True)
    app.router.add_get("/", handler)

    assert list(app.middlewares) == []
    async with client_of(app) as client, client.get("/") as response:
        assert await response.text() == "ok"


async def test_a_peer_that_went_away_is_no_fault(logged):
    """What fails because nobody listens any more is not logged as ours."""
    failed = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  # no event for it
            await asyncio.sleep(0)
        failed.set()
        raise RuntimeError("nobody listens")

    app = new_app(name="test")
    app.router.add_get("/", handler)
    async with TestServer(app) as server:
        _, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        writer.close()
        await asyncio.wait_for(failed.wait(), 5)

    assert logged == []


# ---- bodies


def echo_app(**limits) -> web.Application:
    async def echo(request: web.Request) -> web.Response:
        return json_response(await read_json(request, Thing))

    async def length(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await read_body(request))))

    app = new_app(name="test", **limits)
    app.router.add_post("/", echo)
    app.router.add_post("/length", length)
    return app


async def post(app, path="/", **request):
    async with client_of(app) as client, client.post(path, **request) as response:
        return response.status, json.loads(await response.text())


async def test_json_is_decoded_to_a_type():
    """And structs are written as JSON."""
    status, body = await post(echo_app(), json={"name": "a", "size": 3})

    assert status == 200
    assert body == {"name": "a", "size": 3, "parts": []}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"name": "a", "size": -1}', "Expected `int` >= 0 - at `$.size`"),
        (b'{"name": "a", "parts": [{"name": 1}]}', "Expected `str`, got `int` - at `$.parts[0].name`"),
        (b'{"name": "a", "sise": 1}', "unknown field `sise`"),
        (b"{", "the body is not JSON"),
        (b"", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b'{"name":"a","parts":[' * 5000, "nested too deeply"),
    ],
)
async def test_what_does_not_fit_is_refused_by_its_path(data, words):
    """The caller sees where the fault is."""
    status, body = await post(echo_app(), data=data, headers={"Content-Type": "application/json"})

    assert (status, body["code"]) == (400, "invalid_input")
    assert words in body["detail"]


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("application/cloudevents+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
    ],
)
async def test_the_media_type_is_json(media_type, status):
    """Others are refused, which also keeps forms of foreign pages out."""
    found, _ = await post(echo_app(), data=b'{"name": "a"}', headers={"Content-Type": media_type})

    assert found == status


async def test_compressed_bodies_are_refused():
    """A bomb is never unpacked."""
    status, body = await post(
        echo_app(), "/length", data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}, compress=False
    )

    assert (status, body["code"]) == (415, "unsupported_type")


async def test_a_body_up_to_the_limit_is_read():
    """To the byte."""
    assert await post(echo_app(max_body_bytes=1000), "/length", data=b"x" * 1000) == (200, 1000)
    assert await post(echo_app(max_body_bytes=300_000), "/length", data=b"x" * 300_000) == (200, 300_000)
    assert await post(echo_app(), "/length") == (200, 0)


@pytest.mark.parametrize("size", [1001, 500_000])
async def test_a_larger_body_is_refused(size):
    """As announced, and as counted when nothing is announced."""

    async def chunks():
        yield b"x" * size

    announced = await post(echo_app(max_body_bytes=1000), "/length", data=b"x" * size)
    counted = await post(echo_app(max_body_bytes=1000), "/length", data=chunks())

    for status, body in (announced, counted):
        assert (status, body["code"], body["max_bytes"]) == (413, "too_large", 1000)


async def raw(app, *parts: bytes) -> bytes:
    """Speak bytes, return what comes: a problem, or anything until the other side closes."""
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        for part in parts:
            writer.write(part)
            await writer.drain()
        answer = b""
        async with asyncio.timeout(5):
            while b"}" not in answer and (chunk := await reader.read(1000)):
                answer += chunk
        writer.close()
        await writer.wait_closed()
        return answer


async def test_a_body_that_does_not_arrive_in_time_is_refused():
    """408, after the application's limit."""
    head = b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12"

    answer = await raw(echo_app(request_timeout_s=0.05), head)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.05 s" in answer


async def test_a_body_that_is_malformed_is_refused():
    """A chunk whose size is no number."""
    head = b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    answer = await raw(echo_app(), head, b"zz\r\n")

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))


# ---- authentication


def guarded_app(**options) -> web.Application:
    async def verify(token: str) -> Principal | None:
        return Principal("ann", "admin") if token == "right" else None

    async def who(request: web.Request) -> web.Response:
        principal = request.get(PRINCIPAL)
        return web.Response(text="nobody" if principal is None else f"{principal.name} {principal.role}")

    app = new_app(name="test", middlewares=[bearer_auth_middleware(verify, **options)])
    app.router.add_get("/{path}", who)
    return app


@pytest.mark.parametrize("header", ["Bearer right", "bearer  right", "BEARER right "])
async def test_a_valid_token_lets_pass(header):
    """The handler knows whose it is."""
    async with (
        client_of(guarded_app()) as client,
        client.get("/x", headers={"Authorization": header}) as response,
    ):
        assert await response.text() == "ann admin"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "right"},
        {"Authorization": "Basic right"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer right right"},
        {"Authorization": "Bearer " + "x" * 600},
    ],
)
async def test_everything_else_is_refused(headers):
    """401 with the scheme to use."""
    async with client_of(guarded_app()) as client, client.get("/x", headers=headers) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (await response.json(content_type=None))["code"] == "not_authenticated"


async def test_public_paths_need_no_token():
    """The service says which these are."""
    app = guarded_app(is_public=lambda request: request.path == "/open")
    async with client_of(app) as client, client.get("/open") as response:
        assert await response.text() == "nobody"


# ---- health


async def test_health_names_each_dependency():
    """What works, what fails, what hangs; texts of foreign errors are not shown."""
    health = Health()

    async def works() -> None:
        return

    async def fails() -> None:
        raise Unavailable("the pool is empty")

    async def breaks() -> None:
        raise OSError("hunter2")

    async def hangs() -> None:
        await asyncio.Event().wait()

    for name, ping in (("a", works), ("b", fails), ("c", breaks), ("d", hangs)):
        health.add(name, ping)

    found = await health.check(timeout_s=0.05)

    assert [(one.name, one.error) for one in found] == [
        ("a", None),
        ("b", "the pool is empty"),
        ("c", "OSError"),
        ("d", "no answer within 0.05 s"),
    ]
    assert all(one.ms >= 0 for one in found)
    with pytest.raises(ValueError, match="already"):
        health.add("a", works)


# ---- life


class Life:
    """A service that runs inside the test."""

    def __init__(self, tmp_path, make=None, **settings) -> None:
        self.app: web.Application | None = None
        self.stop = asyncio.Event()
        self.ready = tmp_path / "ready.json"
        self.settings = ServiceSettings(database_url=Secret("x"), ready_file=str(self.ready), **settings)
        self._make = make or (lambda _: None)

    def make_app(self, settings) -> web.Application:
        self.app = new_app(name="life")
        self._make(self.app)
        return self.app

    async def until(self, *, there: bool) -> None:
        """Wait until the ready file is there, or gone."""
        async with asyncio.timeout(10):
            while self.ready.exists() is not there:  # noqa: ASYNC110  # files have no events
                await asyncio.sleep(0.005)

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(serve(self.make_app, self.settings, name="life", stop=self.stop))
        try:
            appeared = asyncio.create_task(self.until(there=True))
            await asyncio.wait((task, appeared), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                appeared.cancel()
                await task
            async with aiohttp.ClientSession() as session:
                yield session, json.loads(self.ready.read_bytes())
        finally:
            self.stop.set()
            await asyncio.wait_for(task, 10)


async def test_a_service_listens_on_two_ports_and_says_where(tmp_path):
    """The ready file holds all of it, and goes away at the end."""

    def make(app: web.Application) -> None:
        async def hello(request: web.Request) -> web.Response:
            return web.Response(text="hello")

        async def works() -> None:
            return

        app.router.add_get("/", hello)
        app[HEALTH].add("postgres", works)

    life = Life(tmp_path, make)
    async with life.running() as (session, ready):
        assert set(ready) == {"pid", "url", "status_url"}
        async with session.get(ready["url"]) as response:
            assert await response.text() == "hello"
        async with session.get(f"{ready['status_url']}/livez") as response:
            assert await response.json() == {"status": "ok", "service": "life"}
        async with session.get(f"{ready['status_url']}/readyz") as response:
            body = await response.json()
            assert (response.status, body["status"]) == (200, "ok")
            assert body["dependencies"]["postgres"].keys() == {"ok", "ms"}
        async with session.get(f"{ready['status_url']}/metrics") as response:
            assert response.content_type == "text/plain"
            assert "uneventful_http_requests_total" in await response.text()
        assert stat.S_ISREG(life.ready.stat().st_mode)

    assert not life.ready.exists()
    assert list(tmp_path.iterdir()) == []


async def test_a_failing_dependency_makes_it_unready(tmp_path):
    """503, naming it; the service itself stays alive."""

    def make(app: web.Application) -> None:
        async def fails() -> None:
            raise ConnectionRefusedError

        app[HEALTH].add("postgres", fails)

    async with Life(tmp_path, make).running() as (session, ready):
        async with session.get(f"{ready['status_url']}/readyz") as response:
            body = await response.json()
            assert (response.status, body["status"]) == (503, "failing")
            assert body["dependencies"]["postgres"]["error"] == "ConnectionRefusedError"
        async with session.get(f"{ready['status_url']}/livez") as response:
            assert response.status == 200


async def test_a_request_in_flight_is_finished(tmp_path):
    """Stopping waits for it, and meanwhile is not ready."""
    inside, go_on = asyncio.Event(), asyncio.Event()

    def make(app: web.Application) -> None:
        async def slow(request: web.Request) -> web.Response:
            inside.set()
            await go_on.wait()
            return web.Response(text="done")

        app.router.add_get("/", slow)

    life = Life(tmp_path, make)
    async with life.running() as (session, ready):
        request = asyncio.create_task(session.get(ready["url"]))
        await inside.wait()
        life.stop.set()
        await life.until(there=False)
        async with session.get(f"{ready['status_url']}/readyz") as response:
            assert (response.status, (await response.json())["status"]) == (503, "stopping")
        go_on.set()
        response = await request
        assert await response.text() == "done"


async def test_a_request_that_never_ends_does_not_keep_it(tmp_path):
    """The time to stop is bounded."""
    inside = asyncio.Event()

    def make(app: web.Application) -> None:
        async def stuck(request: web.Request) -> web.Response:
            inside.set()
            return await asyncio.Event().wait()

        app.router.add_get("/", stuck)

    life = Life(tmp_path, make, shutdown_seconds=0.3)
    async with life.running() as (session, ready):
        request = asyncio.create_task(session.get(ready["url"]))
        await inside.wait()
        life.stop.set()
        with pytest.raises(aiohttp.ClientError):
            await request


async def test_background_work_is_cancelled_at_the_end(tmp_path):
    """With time to put its things away."""
    seen: list[str] = []

    def make(app: web.Application) -> None:
        async def work(app: web.Application) -> None:
            seen.append("began")
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("ended")

        app.cleanup_ctx.append(background("mover", work))

    async with Life(tmp_path, make).running():
        assert seen == ["began"]

    assert seen == ["began", "ended"]


async def test_background_work_that_misses_a_cancellation_is_cancelled_again(tmp_path, monkeypatch):
    """A wait that ends as it is cancelled may swallow that; the service must stop all the same."""
    monkeypatch.setattr("shared.web.app._CANCEL_AGAIN_S", 0.01)
    missed: list[str] = []

    def make(app: web.Application) -> None:
        async def work(app: web.Application) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                missed.append("once")
            await asyncio.Event().wait()

        app.cleanup_ctx.append(background("mover", work))

    async with asyncio.timeout(20), Life(tmp_path, make).running():
        pass

    assert missed == ["once"]


@pytest.mark.parametrize("error", [InvalidInput("the mover fell over"), None])
async def test_background_work_that_ends_takes_the_service_along(tmp_path, error):
    """A service whose mover is dead must not look alive."""
    go_on = asyncio.Event()

    def make(app: web.Application) -> None:
        async def work(app: web.Application) -> None:
            await go_on.wait()
            if error is not None:
                raise error

        app.cleanup_ctx.append(background("mover", work))

    life = Life(tmp_path, make)

    async def live() -> None:
        async with life.running():
            go_on.set()
            await life.until(there=False)

    with pytest.raises((InvalidInput, RuntimeError), match=r"the mover fell over|mover ended"):
        await live()


async def test_a_failure_while_stopping_is_logged(tmp_path, logged):
    """It does not keep the rest from being put away."""

    def make(app: web.Application) -> None:
        async def work(app: web.Application) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError("disk")

        app.cleanup_ctx.append(background("mover", work))

    async with Life(tmp_path, make).running():
        pass

    assert "background.failed_while_stopping" in [entry["event"] for entry in logged]


async def test_a_stop_during_the_start_is_heeded(tmp_path):
    """A service that waits for its database can still be stopped."""
    began = asyncio.Event()

    def make(app: web.Application) -> None:
        async def never(app: web.Application):
            began.set()
            await asyncio.Event().wait()
            yield

        app.cleanup_ctx.append(never)

    life = Life(tmp_path, make)
    task = asyncio.create_task(serve(life.make_app, life.settings, name="life", stop=life.stop))
    await began.wait()
    life.stop.set()

    await asyncio.wait_for(task, 5)
    assert not life.ready.exists()


async def test_a_start_that_fails_is_raised(tmp_path):
    """And everything is closed again."""

    def make(app: web.Application) -> None:
        async def broken(app: web.Application):
            raise Unavailable("no database")
            yield

        app.cleanup_ctx.append(broken)

    with pytest.raises(Unavailable, match="no database"):
        async with Life(tmp_path, make).running():
            pass


def test_faults_in_settings_end_the_program(capsys):
    """With status 2 and one line each, no traceback."""
    with pytest.raises(SystemExit) as caught:
        main(lambda _: new_app(name="x"), ServiceSettings, name="life", environ={"UNEVENTFUL_PORT": "x"})

    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "UNEVENTFUL_DATABASE_URL is missing" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("error", [Unavailable("no database"), ZeroDivisionError("bug")])
@pytest.mark.parametrize("uvloop", [True, False])
def test_a_service_that_cannot_start_ends_with_status_1(error, uvloop, monkeypatch, logged):
    """And says why in its log."""
    monkeypatch.setattr(sys.modules["shared.web.serve"], "configure_logging", lambda *_: None)

    def make(_: ServiceSettings) -> web.Application:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(make, ServiceSettings(database_url=Secret("x")), name="life", uvloop=uvloop)

    assert caught.value.code == 1
    assert [entry["event"] for entry in logged] == ["service.failed"]


def test_sigterm_stops_a_service(tmp_path, monkeypatch, logged):
    """Gracefully: `run` returns."""
    monkeypatch.setattr(sys.modules["shared.web.serve"], "configure_logging", lambda *_: None)

    async def end(_: web.Application) -> None:
        while not await asyncio.to_thread((tmp_path / "ready").exists):  # noqa: ASYNC110  # files have no events
            await asyncio.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    def make(_: ServiceSettings) -> web.Application:
        app = new_app(name="life")
        app.cleanup_ctx.append(background("killer", end))
        return app

    run(make, ServiceSettings(database_url=Secret("x"), ready_file=str(tmp_path / "ready")), name="life", uvloop=True)

    assert [entry["event"] for entry in logged] == ["service.serving", "service.stopped"]
