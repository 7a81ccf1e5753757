"""The yardstick: bare aiohttp with one route, on uvloop; with a file, bare FileResponse on the stock loop."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import uvloop
from aiohttp import web


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text="Hello, world")


async def serve(ready_file: Path, payload: Path | None) -> None:
    app = web.Application()
    app.router.add_get("/", hello)
    if payload is not None:

        async def send(_request: web.Request) -> web.FileResponse:
            return web.FileResponse(payload)

        app.router.add_get("/payload", send)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    unfinished = ready_file.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"pid": os.getpid(), "url": f"http://{host}:{port}"}))
    unfinished.rename(ready_file)
    await asyncio.Event().wait()


if __name__ == "__main__":
    file = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    with asyncio.Runner(loop_factory=None if file else uvloop.new_event_loop) as loop_runner:
        loop_runner.run(serve(Path(sys.argv[1]), file))
