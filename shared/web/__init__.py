"""The base of every HTTP service: limits, problem bodies, authentication, health, and a graceful life."""

from __future__ import annotations

from shared.web.address import client_address
from shared.web.app import background, new_app
from shared.web.auth import PRINCIPAL, Principal, Role, bearer_auth_middleware
from shared.web.body import decode_json, json_response, keep_body, read_body, read_json
from shared.web.health import HEALTH, Health
from shared.web.problems import problem_middleware, problem_response
from shared.web.serve import main, run, serve

__all__ = [
    "HEALTH",
    "PRINCIPAL",
    "Health",
    "Principal",
    "Role",
    "background",
    "bearer_auth_middleware",
    "client_address",
    "decode_json",
    "json_response",
    "keep_body",
    "main",
    "new_app",
    "problem_middleware",
    "problem_response",
    "read_body",
    "read_json",
    "run",
    "serve",
]
