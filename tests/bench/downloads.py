"""What a GiB out of distribution costs, against bare aiohttp's FileResponse on the same loop."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path
from typing import Any

import orjson
from report import Result, median, ratio, say
from stack import HERE, BenchFailedError, Stack, connected

from services.distribution.payload_files import PayloadFiles
from shared.testing.rollouts import make_world

PAYLOAD_BYTES = 64 * 2**20


async def _download(plan: dict[str, object]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "downloader.py"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate(orjson.dumps(plan))
    if process.returncode != 0:
        raise BenchFailedError("the downloader failed; see above")
    return orjson.loads(said)


async def download(stack: Stack, *, quick: bool) -> Result:
    """Whole downloads of a 64 MiB payload, in alternating rounds."""
    result = Result("download", "Downloads: server CPU per GiB, distribution against bare aiohttp FileResponse")
    rounds, seconds = (3, 2.0) if quick else (5, 4.0)
    block = bytes(range(256)) * 4096
    payload = block * (PAYLOAD_BYTES // len(block))
    sha256 = hashlib.sha256(payload).hexdigest()
    store = stack.directory / "store"

    def place() -> Path:
        path = store / PayloadFiles(store).relative_path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
        return path

    path = await asyncio.to_thread(place)
    url = await stack.database("downloads")
    async with connected(url) as connection:
        await make_world(connection, payload=payload)
    service = await stack.service("distribution", database_url=url, store_dir=store)
    bare = await stack.hello(payload=path)
    plans = {
        "FileResponse": {"port": bare.port, "path": "/payload", "watch": {"service": bare.pid}},
        "distribution": {
            "port": service.port,
            "path": f"/payloads/{sha256}/update.gz",
            "watch": {"service": service.pid},
        },
    }
    for connections in (1, 50):
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in plans}
        for number in range(rounds):
            say(f"   {connections} connections, round {number + 1} of {rounds}")
            for name, plan in plans.items():
                found[name].append(await _download({**plan, "connections": connections, "seconds": seconds}))
        for name, all_rounds in found.items():
            label = f"{name}, {connections}"
            result.raw[label] = all_rounds
            result.table.append(
                {
                    "server, connections": label,
                    "CPU s/GiB": median(all_rounds, "cpu_s_per_gib", "service"),
                    "x FileResponse": ratio(all_rounds, found["FileResponse"], "cpu_s_per_gib", "service"),
                    "MiB/s": median(all_rounds, "per_s"),
                }
            )
    return result
