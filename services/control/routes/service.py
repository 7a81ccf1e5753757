"""The service itself."""

from __future__ import annotations

from importlib import resources
from typing import Final

from aiohttp import hdrs, web

from services.control.routes.route import REFERENCE, SETTINGS, Scope, get
from shared.web import PRINCIPAL, json_response


async def server(request: web.Request) -> web.Response:
    """GET /server."""
    settings, principal = request.app[SETTINGS], request[PRINCIPAL]
    return json_response(
        {
            "service": "control",
            "api": "v1",
            "distribution_url": settings.distribution_public_url or settings.distribution_url,
            "principal": {
                "name": principal.name,
                "role": principal.role,
                "applications": None if principal.applications is None else sorted(principal.applications),
            },
        }
    )


async def openapi(_: web.Request) -> web.Response:
    """GET /openapi.yaml."""
    text = resources.files("services.control").joinpath("openapi.yaml").read_bytes()
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: "application/yaml"})


async def reference(request: web.Request) -> web.Response:
    """GET /: the description as a page."""
    headers = {
        hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    return web.Response(body=request.app[REFERENCE], headers=headers)


ROUTES: Final = (
    get(
        "/server",
        server,
        "Server",
        "What this server is, where payloads are uploaded to, and who asks.",
        scope=Scope.ANYBODY,
    ),
    get("/openapi.yaml", openapi, "Description", "This description; no token is asked for."),
    get("/", reference, "Page", "This description as a page to read; no token is asked for."),
)
