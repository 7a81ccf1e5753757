"""The service as a process: its memory under load, its loop, and its command."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import aiohttp
import pytest

CLIENTS = 20
SIZE = 200 * 1024 * 1024


def environment(database_url: str, store_dir: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "UNEVENTFUL_DATABASE_URL": database_url,
        "UNEVENTFUL_STORE_DIR": str(store_dir),
        **more,
    }


def peak_rss_mib(pid: int) -> float:
    """The most memory the process ever had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.processes
async def test_memory_stays_constant_for_large_downloads(database_url, store_dir, publish, put_in_store, tmp_path):
    """20 clients take 200 MiB each; the process grows by a few MiB, and SIGTERM ends it with status 0."""
    content = bytes(SIZE)
    put_in_store(content)
    big = await publish(content)
    del content
    ready = tmp_path / "ready.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.distribution",
        env=environment(database_url, store_dir, UNEVENTFUL_READY_FILE=str(ready)),
        cwd=Path(__file__).parents[3],
    )
    try:
        deadline = time.monotonic() + 30
        while not ready.exists():
            assert process.returncode is None
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        url = json.loads(ready.read_bytes())["url"]
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

            async def take() -> int:
                size = 0
                async with session.get(url + big.token_path) as response:
                    assert response.status == 200
                    while chunk := await response.content.readany():
                        size += len(chunk)
                return size

            async with session.get(url + big.path, headers={"Range": "bytes=0-99"}) as response:
                assert response.status == 206
            before = peak_rss_mib(process.pid)
            started = time.monotonic()
            assert await asyncio.gather(*(take() for _ in range(CLIENTS))) == [SIZE] * CLIENTS
            seconds = time.monotonic() - started
            grown = peak_rss_mib(process.pid) - before
            print(f"{CLIENTS} x 200 MiB: {CLIENTS * 200 / seconds:.0f} MiB/s, RSS {before:.0f} MiB + {grown:.1f} MiB")  # noqa: T201  # a figure to look at
            assert grown < 24
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.processes
async def test_the_verify_command_exits_with_what_it_found(database_url, store_dir, put_in_store):
    """0 and a summary on a sound store, 1 on a damaged one, 2 on arguments that mean nothing."""
    path = put_in_store(b"payload")
    for break_it, arguments, status in ((False, ["verify"], 0), (True, ["verify"], 1), (False, ["nonsense"], 2)):
        if break_it:
            path.write_bytes(b"paylord")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.distribution",
            *arguments,
            env=environment(database_url, store_dir),
            cwd=Path(__file__).parents[3],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == status, err.decode()
        assert status == 2 or b"payloads are sound" in out
