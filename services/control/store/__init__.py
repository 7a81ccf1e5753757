"""All SQL of control, a module per noun: every change is one transaction, with its events."""

from __future__ import annotations

from typing import Any

import asyncpg

from services.control.key_files import KeyFiles
from services.control.store.applications import Applications
from services.control.store.approvals import Approvals
from services.control.store.attestations import Attestations
from services.control.store.base import Database, Made
from services.control.store.changesets import Changesets
from services.control.store.channels import Channels
from services.control.store.global_gate import GlobalGate
from services.control.store.groups import Groups
from services.control.store.holds import Holds
from services.control.store.idempotency import IdempotencyKeys
from services.control.store.keys import Keys
from services.control.store.ledger import Ledger
from services.control.store.node_tokens import NodeTokens
from services.control.store.nodes import Nodes
from services.control.store.polls import WatchedPolls
from services.control.store.quarantines import Quarantines
from services.control.store.reports import Reports
from services.control.store.rollouts import Rollouts
from services.control.store.scope import Scopes
from services.control.store.status import Status
from services.control.store.steering import Steering
from services.control.store.tokens import Tokens
from shared.clock import Clock
from shared.ids import IdSource

__all__ = ["Made", "Store"]


class Store:
    """Control's view of the database, by noun.

    Every change of what update_check decides by locks the global gate first: changes are made one after the other, and
    a grant is either committed before or sees the change.

    Args:
        pool: From `shared.db.create_pool`.
        ids: Makes the ids of rows and events.
        clock: Gives the events' times.
        looks: Connections that can only read, for dry runs and preconditions; None: those of ``pool``.
        key_files: The private keys that changesets are signed with; None: none.
    """

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        *,
        ids: IdSource,
        clock: Clock,
        looks: asyncpg.Pool[Any] | None = None,
        key_files: KeyFiles | None = None,
    ) -> None:
        database = Database(pool, ids, clock, looks)
        self._database = database
        self.gate = GlobalGate(database)
        self.applications = Applications(database)
        self.tokens = Tokens(database, self.applications)
        self.approvals = Approvals(database)
        self.idempotency = IdempotencyKeys(database)
        self.scopes = Scopes(database)
        self.keys = Keys(database, KeyFiles(None) if key_files is None else key_files)
        self.changesets = Changesets(database, self.applications, self.keys)
        self.attestations = Attestations(database, self.keys)
        self.rollouts = Rollouts(database, self.gate, self.changesets)
        self.steering = Steering(database, self.changesets, self.rollouts)
        self.channels = Channels(database, self.applications, self.changesets, self.attestations, self.rollouts)
        self.groups = Groups(database, self.applications, self.changesets, self.channels, self.rollouts)
        self.nodes = Nodes(database, self.applications, self.groups, self.rollouts)
        self.holds = Holds(database, self.applications)
        self.quarantines = Quarantines(database, self.applications)
        self.polls = WatchedPolls(database, self.applications)
        self.node_tokens = NodeTokens(database, self.applications)
        self.ledger = Ledger(database)
        self.reports = Reports(database, self.applications)
        self.status = Status(database, self.gate, self.applications, self.rollouts)

    async def ping(self) -> None:
        """Raises what keeps Postgres from answering."""
        await self._database.ping()
