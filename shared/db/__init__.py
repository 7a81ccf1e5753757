"""Postgres: the pool, named queries, migrations, and group commit."""

from __future__ import annotations

from shared.db.group_commit import GroupCommit
from shared.db.migrate import Applied, check_schema, migrate
from shared.db.pool import TRANSIENT_ERRORS, connect, create_pool, is_transient
from shared.db.queries import Queries

__all__ = [
    "TRANSIENT_ERRORS",
    "Applied",
    "GroupCommit",
    "Queries",
    "check_schema",
    "connect",
    "create_pool",
    "is_transient",
    "migrate",
]
