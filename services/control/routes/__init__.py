"""The API: HTTP in and out, no rules; a module per noun."""

from __future__ import annotations

from typing import Final

from services.control.routes import (
    applications,
    approvals,
    attestations,
    changesets,
    channels,
    global_gate,
    groups,
    holds,
    keys,
    ledger,
    node_tokens,
    nodes,
    polls,
    reports,
    rollouts,
    service,
    status,
    tokens,
)
from services.control.routes.ledger import NDJSON
from services.control.routes.route import API, PUBLIC_PATHS, REFERENCE, SESSION, SETTINGS, STORE, Route, is_public

__all__ = ["API", "NDJSON", "PUBLIC_PATHS", "REFERENCE", "ROUTES", "SESSION", "SETTINGS", "STORE", "Route", "is_public"]

ROUTES: Final = (
    *service.ROUTES,
    *global_gate.ROUTES,
    *applications.ROUTES,
    *changesets.ROUTES,
    *attestations.ROUTES,
    *keys.ROUTES,
    *channels.ROUTES,
    *groups.ROUTES,
    *rollouts.ROUTES,
    *nodes.ROUTES,
    *holds.ROUTES,
    *polls.ROUTES,
    *node_tokens.ROUTES,
    *ledger.ROUTES,
    *reports.ROUTES,
    *status.ROUTES,
    *approvals.ROUTES,
    *tokens.ROUTES,
)
