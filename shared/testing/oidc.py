"""An OpenID Connect issuer of our own on the loopback, which signs what it is told to."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

KEYS: Final[Mapping[str, Any]] = {
    "RS256": rsa.generate_private_key(65_537, 2_048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
JWK: Final[Mapping[str, Any]] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def published(algorithm: str, key_id: str, **more: Any) -> dict[str, Any]:
    """A public key as an issuer publishes it."""
    key: dict[str, Any] = json.loads(JWK[algorithm].to_jwk(KEYS[algorithm].public_key()))
    return key | {"kid": key_id, **more}


class Issuer:
    """Publishes keys and signs tokens.

    Attributes:
        keys: What it publishes.
        asked: How often its configuration was asked for.
        configuration: Replaces members of its configuration.
        status: What it answers to that with.
        url: Its name, once it runs.
    """

    def __init__(self) -> None:
        self.keys = [published(algorithm, algorithm) for algorithm in KEYS]
        self.asked = 0
        self.configuration: dict[str, Any] = {}
        self.status = 200
        self.url = ""

    async def start(self) -> TestServer:
        """Run it; the caller closes the server."""

        async def configuration(_: web.Request) -> web.Response:
            self.asked += 1
            body = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.configuration}
            return web.json_response(body, status=self.status)

        async def keys(_: web.Request) -> web.Response:
            return web.json_response({"keys": self.keys})

        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", configuration)
        app.router.add_get("/keys", keys)
        server = TestServer(app)
        await server.start_server(access_log=None)
        self.url = str(server.make_url("")).rstrip("/")
        return server

    def token(self, algorithm: str = "RS256", key_id: str | None = None, **claims: Any) -> str:
        """A token that is valid but for what is given; None takes a claim out."""
        now = int(time.time())
        told = {
            "iss": self.url,
            "aud": "uneventful",
            "sub": "ana",
            "exp": now + 300,
            "nbf": now - 10,
            "roles": ["ops"],
        } | claims
        told = {name: value for name, value in told.items() if value is not None}
        headers = {"kid": key_id or algorithm}
        return jwt.encode(told, KEYS[algorithm], algorithm=algorithm, headers=headers)
