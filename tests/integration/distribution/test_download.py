"""Downloads over HTTP, as RFC 9110 has them, from a service on a real Postgres."""

from __future__ import annotations

import asyncio
import email
import email.policy
import time
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path

import pytest
import yaml

import services.distribution
from services.distribution.gate_watch import GATES


def parts_of(response, body: bytes) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each part of a multipart/byteranges body, read by the standard library."""
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    assert not message.defects
    return [(part["Content-Range"], part.get_payload(decode=True)) for part in message.iter_parts()]


async def until(condition, seconds: float = 5.0):
    """Poll until ``condition`` returns something true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = await condition()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def test_a_whole_payload_comes_with_its_validators(client, published):
    """GET gives the bytes, a strong entity tag, Accept-Ranges, and no content coding."""
    for path in (published.path, published.token_path):
        async with client.get(path, headers={"Accept-Encoding": "gzip, br"}) as response:
            assert response.status == 200
            assert await response.read() == published.content
            assert response.headers["ETag"] == published.etag
            assert response.headers["Accept-Ranges"] == "bytes"
            assert response.headers["Content-Type"] == "application/octet-stream"
            assert "immutable" in response.headers["Cache-Control"]
            assert "Content-Encoding" not in response.headers
            assert "Content-Range" not in response.headers


async def test_head_tells_all_but_the_bytes_and_ignores_range(client, published):
    """HEAD has the length of the whole payload, whatever Range says."""
    async with client.head(published.path, headers={"Range": "bytes=0-9"}) as response:
        assert response.status == 200
        assert response.headers["Content-Length"] == str(len(published.content))
        assert response.headers["ETag"] == published.etag
        assert await response.read() == b""


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100000-", 100_000, 100_003),
        ("bytes=100002-999999", 100_002, 100_003),
        ("bytes=-3", 100_000, 100_003),
        ("bytes=-999999", 0, 100_003),
        ("bytes=0-", 0, 100_003),
        ("BYTES= 5-9 ,", 5, 10),
        ("bytes=5-9,200000-", 5, 10),
    ],
)
async def test_one_range_is_a_206_of_exactly_its_bytes(client, published, header, start, stop):
    """Single ranges, suffixes, and a set of which one is left, have Content-Range and no parts."""
    async with client.get(published.token_path, headers={"Range": header}) as response:
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/100003"
        assert response.headers["Content-Length"] == str(stop - start)
        assert response.headers["ETag"] == published.etag
        assert await response.read() == published.content[start:stop]


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-4095,50000-", [(0, 4096), (50_000, 100_003)]),
        ("bytes=10-19,0-4,-1", [(10, 20), (0, 5), (100_002, 100_003)]),
        ("bytes=0-9,5-14", [(0, 10), (5, 15)]),
        (",".join(f"{i * 1000}-{i * 1000}" for i in range(8)), [(i * 1000, i * 1000 + 1) for i in range(8)]),
    ],
)
async def test_several_ranges_are_parts_in_the_order_asked_for(client, published, header, spans):
    """multipart/byteranges, a Content-Range per part and none on the whole, a true Content-Length, keep-alive after."""
    header = header if header.startswith("bytes") else f"bytes={header}"
    for _ in range(2):
        async with client.get(published.path, headers={"Range": header}) as response:
            assert response.status == 206
            assert "Content-Range" not in response.headers
            body = await response.read()
            assert len(body) == int(response.headers["Content-Length"])
            assert parts_of(response, body) == [
                (f"bytes {start}-{stop - 1}/100003", published.content[start:stop]) for start, stop in spans
            ]
            assert response.connection is None or not response.connection.transport.is_closing()


async def test_a_cut_download_resumes_where_it_was(client, published):
    """What a client has, then `Range: bytes=N-` with If-Range, makes the payload whole."""
    async with client.get(published.token_path, headers={"Range": "bytes=0-40000"}) as response:
        have = await response.read()
    async with client.get(
        published.token_path, headers={"Range": f"bytes={len(have)}-", "If-Range": published.etag}
    ) as response:
        assert response.status == 206
        assert have + await response.read() == published.content


@pytest.mark.parametrize("if_range", ['"other"', "W/{etag}", "Thu, 01 Jan 1970 00:00:00 GMT", "nonsense"])
async def test_if_range_that_does_not_hold_gives_the_whole(client, published, if_range):
    """Another tag, a weak one, another date or nonsense: 200 with everything."""
    headers = {"Range": "bytes=0-9", "If-Range": if_range.format(etag=published.etag)}
    async with client.get(published.path, headers=headers) as response:
        assert response.status == 200
        assert await response.read() == published.content


async def test_last_modified_serves_as_a_validator(client, published):
    """The date from the answer holds in If-Range and If-Modified-Since; an earlier one does not."""
    async with client.head(published.path) as response:
        modified = response.headers["Last-Modified"]
    earlier = format_datetime(parsedate_to_datetime(modified) - timedelta(seconds=1), usegmt=True)
    for date, status in ((modified, 206), (earlier, 200)):
        async with client.get(published.path, headers={"Range": "bytes=0-9", "If-Range": date}) as response:
            assert response.status == status
    for date, status in ((modified, 304), (earlier, 200)):
        async with client.get(published.path, headers={"If-Modified-Since": date}) as response:
            assert response.status == status


@pytest.mark.parametrize("header", ["bytes=100003-", "bytes=-0", "bytes=100003-,200000-"])
async def test_a_range_past_the_end_is_a_416_with_the_size(client, published, header):
    """Content-Range tells the size, so that the client can ask again."""
    async with client.get(published.path, headers={"Range": header}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == "bytes */100003"
        assert (await response.json(content_type="application/problem+json"))["code"] == "range_unsatisfiable"


@pytest.mark.parametrize("header", ["bytes=2-1", "lines=0-1", "bytes=abc", "bytes=" + "0-0," * 9, "bytes=0-,0-,0-"])
async def test_ranges_that_are_malformed_or_abusive_give_the_whole(client, published, header):
    """Ignored, as the RFC says."""
    async with client.get(published.path, headers={"Range": header}) as response:
        assert response.status == 200
        assert await response.read() == published.content


async def test_conditions_are_answered(client, published):
    """304 without a body to who has it; 412 to who insists on something else."""
    async with client.get(published.path, headers={"If-None-Match": f'"x", W/{published.etag}'}) as response:
        assert response.status == 304
        assert response.headers["ETag"] == published.etag
        assert await response.read() == b""
    async with client.head(published.path, headers={"If-None-Match": "*"}) as response:
        assert response.status == 304
    async with client.get(published.path, headers={"If-Match": '"x"', "Range": "bytes=0-1"}) as response:
        assert response.status == 412
        assert (await response.json(content_type="application/problem+json"))["code"] == "precondition_failed"
    async with client.get(published.path, headers={"If-Match": published.etag}) as response:
        assert response.status == 200


async def test_what_is_not_listed_is_not_found(client, published, pool):
    """Other names, other digests, malformed paths and drafts are 404, though the bytes may be there."""
    other = "0" * 64
    paths = [
        f"/payloads/{published.sha256}/other.gz",
        f"/payloads/{other}/{published.name}",
        f"/payloads/{published.sha256.upper()}/{published.name}",
        f"/payloads/{published.sha256}/short/{published.name}",
        f"/payloads/..%2f..%2fetc/{published.name}",
        f"/payloads/{published.sha256}/..%2f{published.name}",
        "/",
    ]
    for path in paths:
        async with client.get(path) as response:
            assert response.status == 404, path
            assert (await response.json(content_type="application/problem+json"))["code"] == "not_found"
    await pool.execute("UPDATE control.changesets SET state = 'draft'")
    await until(lambda: answers(client, published.path, 404))


async def answers(client, path, status, code=None) -> bool:
    """Whether a GET has this status and problem code."""
    async with client.get(path) as response:
        if response.status != status:
            return False
        return code is None or (await response.json(content_type="application/problem+json"))["code"] == code


async def test_what_was_published_a_moment_ago_is_served(client, publish, put_in_store):
    """A node may ask before the next look at the gates: the service looks again before it says 404."""
    content = b"fresh" * 1000
    put_in_store(content)
    fresh = await publish(content)
    async with client.get(fresh.token_path) as response:
        assert response.status == 200
        assert await response.read() == content


async def test_a_halt_refuses_within_a_second(client, published, pool):
    """From the commit of the halt on, by token and without, with the reason; a resume lets through again."""
    assert await answers(client, published.token_path, 200)
    started = time.monotonic()
    await pool.execute(
        "SELECT control.halt_changeset_v1($1, 'nodes roll back', 'test', NULL, gen_random_uuid(), 'test')",
        published.changeset_id,
    )
    await until(lambda: answers(client, published.token_path, 403, "halted"), 1.0)
    assert time.monotonic() - started < 1.0
    async with client.get(published.path) as response:
        assert response.status == 403
        problem = await response.json(content_type="application/problem+json")
        assert (problem["code"], problem["reason"]) == ("halted", "nodes roll back")
    async with client.head(published.path) as response:
        assert response.status == 403
    await pool.execute(
        "SELECT control.resume_changeset_v1($1, 'fixed', 'test', gen_random_uuid())", published.changeset_id
    )
    await until(lambda: answers(client, published.path, 200), 1.5)
    # The halt recalled the attempt that had not staged: its token stays refused.
    await until(lambda: answers(client, published.token_path, 403, "recalled"))


async def test_a_halt_is_seen_without_its_notification(client, published, pool):
    """NOTIFY is a hint: the look of every second is enough."""
    await pool.execute("UPDATE control.changeset_gates SET state = 'halted', reason = 'quiet'")
    await until(lambda: answers(client, published.path, 403, "halted"), 2.5)


async def test_suspended_withdrawn_and_stopped_payloads_are_refused(client, published, pool):
    """Each with its code; everything halted counts as halted."""
    notify = "SELECT pg_notify('uneventful_gates', 'test')"
    await pool.execute("INSERT INTO control.suspended_payloads VALUES ($1, 're-hash failed')", published.sha256)
    await pool.execute(notify)
    await until(lambda: answers(client, published.path, 403, "suspended"))
    await pool.execute("DELETE FROM control.suspended_payloads")
    await pool.execute("UPDATE control.global_gate SET open = false, reason = 'stop'")
    await pool.execute(notify)
    await until(lambda: answers(client, published.path, 403, "halted"))
    await pool.execute("UPDATE control.global_gate SET open = true")
    await pool.execute("UPDATE control.changesets SET state = 'withdrawn'")
    await pool.execute(notify)
    await until(lambda: answers(client, published.token_path, 403, "withdrawn"))


async def test_a_withdrawal_refuses_downloads_with_its_reason(client, published, pool):
    """From the moment it is committed, with a token and without, whatever the node had begun."""
    withdrawn = await pool.fetchval(
        "SELECT control.withdraw_changeset_v1($1, 'it eats disks', 'ana', gen_random_uuid())", published.changeset_id
    )
    assert withdrawn
    for path in (published.path, published.token_path):
        await until(lambda path=path: answers(client, path, 403, "withdrawn"), 2.5)
        async with client.get(path) as response:
            assert (await response.json(content_type="application/problem+json"))["reason"] == "it eats disks"


async def test_what_was_recalled_while_everything_was_halted_stays_refused(client, published, pool):
    """The node asks anew for an offer; without a token the payload is there again."""
    assert await answers(client, published.token_path, 200)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE control.global_gate SET open = false, reason = 'fire'")
        await connection.execute("SELECT fleet.recall_everything_v1('everything halted', 'control')")
        await connection.execute("SELECT control.raise_policy_version_v1()")
    await until(lambda: answers(client, published.token_path, 403, "halted"))
    await pool.execute("UPDATE control.global_gate SET open = true")
    await pool.execute("SELECT control.raise_policy_version_v1()")
    await until(lambda: answers(client, published.path, 200))
    await until(lambda: answers(client, published.token_path, 403, "recalled"))


async def test_unknown_and_foreign_tokens_are_refused(client, published, publish):
    """A token of nobody, and the token of an attempt at something else."""
    other = await publish(b"another payload")
    for token in ("0" * 32, other.token):
        path = f"/payloads/{published.sha256}/{token}/{published.name}"
        assert await answers(client, path, 403, "token_unknown")


async def test_a_listed_payload_that_is_not_in_the_store_is_not_found(client, publish):
    """And says that it must be uploaded."""
    missing = await publish(b"never uploaded")
    async with client.get(missing.path) as response:
        assert response.status == 404
        assert "upload" in (await response.json(content_type="application/problem+json"))["detail"]


async def test_a_halt_ends_downloads_under_way(client, publish, put_in_store, pool):
    """A slow download of a halted changeset is cut, so that no more of it reaches the node."""
    content = bytes(64 * 1024 * 1024)
    put_in_store(content)
    big = await publish(content)
    async with client.get(big.token_path, read_bufsize=2**14) as response:
        assert response.status == 200
        await response.content.readexactly(1000)
        await pool.execute(
            "SELECT control.halt_changeset_v1($1, 'stop', 'test', NULL, gen_random_uuid(), 'test')", big.changeset_id
        )
        await until(lambda: answers(client, big.token_path, 403, "halted"))
        with pytest.raises(Exception, match=r"(?i)payload|reset|disconnect|not completed"):
            await response.read()


@pytest.mark.parametrize("overrides", [{"max_downloads": 1}])
async def test_more_downloads_than_allowed_are_told_to_come_again(client, published, publish, put_in_store):
    """503 with Retry-After while the one slot is taken; free again afterwards."""
    content = bytes(64 * 1024 * 1024)
    put_in_store(content)
    big = await publish(content)
    async with client.get(big.path, read_bufsize=2**14) as slow:
        assert slow.status == 200
        async with client.get(published.path) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
        async with client.head(published.path) as response:
            assert response.status == 200
        slow.close()
    await until(lambda: answers(client, published.path, 200))


@pytest.mark.parametrize("overrides", [{"stall_seconds": 0.3}])
async def test_a_peer_that_stops_reading_is_cut_off(client, publish, put_in_store):
    """It does not keep its slot."""
    content = bytes(64 * 1024 * 1024)
    put_in_store(content)
    big = await publish(content)
    reader, writer = await asyncio.open_connection(client.host, client.port, limit=2**12)
    writer.write(f"GET {big.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readexactly(100)
    routes = client.server.app.router.routes()
    handler = next(route.handler.__self__ for route in routes if route.method == "GET")
    assert handler._downloads == 1

    async def ended() -> bool:
        return handler._downloads == 0

    await until(ended)
    writer.close()


async def test_what_is_too_old_is_not_trusted(client, published):
    """With a snapshot that could not be refreshed in time, nothing is sent: 503 with Retry-After."""
    gates = client.server.app[GATES]
    gates._max_age_s = -1.0
    async with client.get(published.path) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize("overrides", [{"accel_prefix": "/stored/"}])
async def test_nginx_may_send_the_bytes(client, published, pool):
    """With a prefix, the answer names the file for nginx; refusals stay ours."""
    async with client.get(published.token_path, headers={"Range": "bytes=0-1"}) as response:
        assert response.status == 200
        expected = f"/stored/sha256/{published.sha256[:2]}/{published.sha256}"
        assert response.headers["X-Accel-Redirect"] == expected
        assert await response.read() == b""
    await pool.execute("INSERT INTO control.suspended_payloads VALUES ($1, 'doubt')", published.sha256)
    await until(lambda: answers(client, published.path, 403, "suspended"))


async def test_the_kernel_sends_the_bytes(client, published, monkeypatch):
    """Every byte of a body goes through the loop's sendfile, on a loop that has it."""
    loop = asyncio.get_running_loop()
    assert type(loop).__module__.startswith("asyncio.")
    sent = []
    original = loop._sock_sendfile_native

    async def counted(sock, file, offset, count):
        sent.append((offset, count))
        return await original(sock, file, offset, count)

    monkeypatch.setattr(loop, "_sock_sendfile_native", counted)
    async with client.get(published.path) as response:
        await response.read()
    async with client.get(published.path, headers={"Range": "bytes=0-9,50-59"}) as response:
        await response.read()
    assert sent == [(0, 100_003), (0, 10), (50, 10)]


async def test_the_routes_are_those_of_openapi(client):
    """Every route is described, and nothing else is."""
    text = Path(services.distribution.__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    described = {
        (method.upper(), path)
        for path, operations in yaml.safe_load(text)["paths"].items()
        for method in operations
        if method != "parameters"
    }
    routes = {(route.method, route.resource.canonical) for route in client.server.app.router.routes()}
    assert routes == described
