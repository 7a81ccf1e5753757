"""Uploads: stored whole and durable, or not at all."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import random
import time

import pytest

from services.distribution.__main__ import verify
from services.distribution.payload_files import PayloadFiles, _Part

CONTENT = random.Random(2).randbytes(1_000_003)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ANSWER = {
    "sha256": DIGEST,
    "sha1_base64": base64.b64encode(hashlib.sha1(CONTENT).digest()).decode(),  # noqa: S324  # Omaha's hash
    "size": len(CONTENT),
}


def files_in(store_dir) -> list[str]:
    return sorted(str(path.relative_to(store_dir)) for path in store_dir.rglob("*") if path.is_file())


async def code_of(response) -> str:
    return (await response.json(content_type="application/problem+json"))["code"]


async def test_an_upload_is_stored_under_its_digest(client, admin, store_dir):
    """201 with both hashes and the size; the same again is 200 with the same body."""
    for status in (201, 200):
        async with client.put(f"/payloads/{DIGEST}", data=CONTENT, headers=admin) as response:
            assert response.status == status
            assert await response.json() == ANSWER
    assert files_in(store_dir) == [f"sha256/{DIGEST[:2]}/{DIGEST}"]
    assert (store_dir / "sha256" / DIGEST[:2] / DIGEST).read_bytes() == CONTENT


async def test_operators_ask_what_is_stored(client, admin):
    """HEAD by the digest tells the size of what is there, published or not; 404 else, and 401 without a token."""
    async with client.head(f"/payloads/{DIGEST}", headers=admin) as response:
        assert response.status == 404
    async with client.put(f"/payloads/{DIGEST}", data=CONTENT, headers=admin):
        pass
    async with client.head(f"/payloads/{DIGEST}", headers=admin) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, str(len(CONTENT)))
    async with client.head(f"/payloads/{DIGEST}") as response:
        assert response.status == 401
    async with client.head("/payloads/abc", headers=admin) as response:
        assert response.status == 400


async def test_an_upload_without_a_length_is_stored(client, admin, store_dir):
    """Chunked transfer coding works too."""

    async def pieces():
        for start in range(0, len(CONTENT), 100_000):
            yield CONTENT[start : start + 100_000]

    async with client.put(f"/payloads/{DIGEST}", data=pieces(), headers=admin) as response:
        assert response.status == 201
        assert await response.json() == ANSWER


async def test_eight_uploads_of_one_payload_at_once_leave_one_file(client, admin, store_dir):
    """All succeed, with the same answer, and no part is left."""

    async def upload():
        async with client.put(f"/payloads/{DIGEST}", data=CONTENT, headers=admin) as response:
            return response.status, (await response.json() if response.status < 300 else await code_of(response))

    answers = await asyncio.gather(*(upload() for _ in range(8)))
    assert {status for status, _ in answers} <= {200, 201}
    assert all(body == ANSWER for _, body in answers)
    assert files_in(store_dir) == [f"sha256/{DIGEST[:2]}/{DIGEST}"]


async def test_a_wrong_digest_leaves_nothing(client, admin, store_dir):
    """422, with the digest that the bytes do have."""
    async with client.put(f"/payloads/{'0' * 64}", data=CONTENT, headers=admin) as response:
        assert response.status == 422
        problem = await response.json(content_type="application/problem+json")
        assert (problem["code"], problem["sha256"]) == ("digest_mismatch", DIGEST)
    assert files_in(store_dir) == []


@pytest.mark.parametrize("overrides", [{"max_upload_bytes": 500_000}])
@pytest.mark.parametrize("announced", [True, False])
async def test_too_large_an_upload_leaves_nothing(client, admin, store_dir, announced):
    """413, whether the length was announced or only counted."""

    async def pieces():
        for start in range(0, len(CONTENT), 100_000):
            yield CONTENT[start : start + 100_000]

    data = CONTENT if announced else pieces()
    try:
        async with client.put(f"/payloads/{DIGEST}", data=data, headers=admin) as response:
            assert response.status == 413
            assert await code_of(response) == "too_large"
    except OSError:
        pass  # the server closed while we were still sending: what counts is below
    assert files_in(store_dir) == []


@pytest.mark.parametrize(("data", "code"), [(b"", "invalid_input")])
async def test_an_empty_upload_is_refused(client, admin, store_dir, data, code):
    """Nobody's payload is empty."""
    async with client.put(f"/payloads/{hashlib.sha256(data).hexdigest()}", data=data, headers=admin) as response:
        assert response.status == 400
        assert await code_of(response) == code
    assert files_in(store_dir) == []


async def test_only_admins_upload(client, viewer, store_dir):
    """No token and a wrong one are 401, a viewer's is 403; nothing is stored."""
    for headers, status in (({}, 401), ({"Authorization": "Bearer nobody"}, 401), (viewer, 403)):
        async with client.put(f"/payloads/{DIGEST}", data=b"x", headers=headers) as response:
            assert response.status == status
    assert files_in(store_dir) == []


async def test_paths_and_codings_that_are_not_ours_are_refused(client, admin):
    """The digest must be one, and the body plain."""
    async with client.put("/payloads/abc", data=b"x", headers=admin) as response:
        assert response.status == 400
    async with client.put(
        f"/payloads/{DIGEST}", data=CONTENT, headers=admin | {"Content-Encoding": "gzip"}
    ) as response:
        assert response.status == 415


@pytest.mark.parametrize("overrides", [{"stall_seconds": 0.3}])
@pytest.mark.parametrize("how", ["disconnect", "silence"])
async def test_an_upload_that_ends_midway_leaves_nothing(client, admin, store_dir, how):
    """The part is there while it comes, and gone when the peer is, or stays silent."""
    _, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        f"PUT /payloads/{DIGEST} HTTP/1.1\r\nHost: x\r\nAuthorization: {admin['Authorization']}\r\n"
        f"Content-Length: {len(CONTENT)}\r\n\r\n".encode()
    )
    writer.write(CONTENT[:700_000])
    await writer.drain()
    deadline = time.monotonic() + 5
    while not files_in(store_dir):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    if how == "disconnect":
        writer.transport.abort()
    while files_in(store_dir):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    writer.close()


async def test_what_a_crash_left_is_removed_and_what_comes_in_is_not(store_dir):
    """A part that nobody holds goes at the start; one that another process is receiving stays."""
    files = PayloadFiles(store_dir)
    files.prepare()
    (store_dir / "incoming" / "crashed.part").write_bytes(b"half")
    part = _Part(store_dir / "incoming")
    assert PayloadFiles(store_dir).prepare() == 1
    assert len(files_in(store_dir)) == 1
    part.close()
    assert files_in(store_dir) == []


async def test_verify_names_what_is_damaged(client, admin, store_dir):
    """Exit 0 on a sound store; 1 with the name of what is not what it is called; uploading it again heals it."""
    out = io.StringIO()
    async with client.put(f"/payloads/{DIGEST}", data=CONTENT, headers=admin) as response:
        assert response.status == 201
    assert verify(store_dir, out) == 0
    path = store_dir / "sha256" / DIGEST[:2] / DIGEST
    with path.open("r+b") as file:
        file.seek(500_000)
        file.write(b"\0\0\0\0\0\0\0\0")
    (store_dir / "sha256" / "stray").mkdir()
    (store_dir / "sha256" / "stray" / "file").write_bytes(b"x")
    assert verify(store_dir, out) == 1
    assert str(path) in out.getvalue()
    assert "stray" in out.getvalue()
    (store_dir / "sha256" / "stray" / "file").unlink()
    async with client.put(f"/payloads/{DIGEST}", data=CONTENT, headers=admin) as response:
        assert response.status == 200
    assert verify(store_dir, out) == 0
