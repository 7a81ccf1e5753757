"""What the modules of the store share: rows, transactions, events and the locks that several of them take."""

from __future__ import annotations

import contextlib
import enum
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import asyncpg

from services.control.acting import ACTING, LOOKING, Acting
from shared.clock import Clock
from shared.db import Queries
from shared.errors import Fault
from shared.events import NewEvent, new_event, types
from shared.ids import IdSource
from shared.ledger import append

SOURCE: Final = "control"
QUERIES: Final = Queries.load("services.control.store", "base.sql")

Row: TypeAlias = dict[str, Any]
Connection: TypeAlias = "asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]"


@dataclass(frozen=True, slots=True)
class Made:
    """A thing as it is now, and whether this call made it."""

    item: Row
    new: bool


@dataclass(frozen=True, slots=True)
class Database:
    """Connections, and what every change needs.

    Attributes:
        main: From `shared.db.create_pool`.
        ids: Makes the ids of rows and events.
        clock: Gives the events' times.
        looks: Connections that can only read; dry runs and preconditions look by these. None: by those of ``main``.
    """

    main: asyncpg.Pool[Any]
    ids: IdSource
    clock: Clock
    looks: asyncpg.Pool[Any] | None = None

    @property
    def pool(self) -> asyncpg.Pool[Any]:
        """Where to read; what changes something goes through `change` or `plain`, which tell the ledger who did it."""
        acting = ACTING.get()
        only_looks = LOOKING.get() or (acting is not None and acting.dry_run)
        return self.looks if only_looks and self.looks is not None else self.main

    async def ping(self) -> None:
        """Raises what keeps Postgres from answering."""
        await self.main.execute(QUERIES["ping"])

    def change(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        """A transaction that is alone among operators' changes, with no grant half done; see `plain` for the rest."""
        return self._transaction(alone=True)

    def plain(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        """A transaction that locks nothing but the request's own target.

        Where the request at hand changes something in it, the ledger gets one ``operator.acted.v1`` in the same
        transaction. A dry run is rolled back at the end, and its events are kept in ``would``.
        """
        return self._transaction(alone=False)

    @contextlib.asynccontextmanager
    async def _transaction(self, *, alone: bool) -> AsyncIterator[Connection]:
        acting = ACTING.get()
        async with self.main.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                before = await self._begin(connection, acting, alone=alone)
                yield connection
                recorded = acting is not None and await self._record(connection, acting, before)
            except BaseException:
                await transaction.rollback()
                raise
            if acting is not None and acting.dry_run:
                await transaction.rollback()
                return
            await transaction.commit()
            if acting is not None and recorded:
                acting.recorded = True

    async def _begin(self, connection: Connection, acting: Acting | None, *, alone: bool) -> int:
        """Take the locks and judge the precondition. Returns how many rows the connection has changed so far."""
        if acting is not None and acting.target is not None:
            await connection.execute(QUERIES["lock_target"], acting.target)
        if alone:
            await connection.fetchrow(QUERIES["lock_global_gate"])
        if acting is None:
            return 0
        precondition, acting.precondition = acting.precondition, None
        if precondition is not None:
            await precondition()
        changed: int = await connection.fetchval(QUERIES["rows_changed"])
        return changed

    async def _record(self, connection: Connection, acting: Acting, before: int) -> bool:
        """Tell the ledger who changed something, where something was changed. Returns whether it was."""
        if acting.recorded or await connection.fetchval(QUERIES["rows_changed"]) == before:
            return False
        if acting.dry_run:
            acting.would.extend(rows_of(await connection.fetch(QUERIES["appended_here"])))
            return False
        subject = acting.target or acting.subject
        if subject is None:
            appended = await connection.fetch(QUERIES["appended_here"])
            subject = appended[0]["subject"] if appended else "control"
        data = types.OperatorActed(
            by=acting.principal.name,
            role=acting.principal.role.value,
            action=acting.action,
            subject=subject,
            reason=acting.reason,
            address=acting.address,
            request_id=str(acting.request_id),
        )
        await append(connection, [self.event(data, subject)])
        if acting.key is not None:
            await connection.execute(QUERIES["key_was_used"], acting.principal.name, acting.key)
        return True

    def event(self, data: types.EventData, subject: str, **more: Any) -> NewEvent:
        """A new event of control's; ``more`` as `shared.events.new_event` takes it."""
        return new_event(data, ids=self.ids, clock=self.clock, source=SOURCE, subject=subject, **more)

    async def raise_policy_version(self, connection: Connection) -> int:
        """Tell update_check that what it decides by has changed. Returns the new version."""
        raised: int = await connection.fetchval(QUERIES["raise_policy_version"])
        return raised

    async def policy_changed(self, connection: Connection, subject: str, what: str, by: str) -> None:
        """Raise the policy version and say so in the ledger."""
        raised = await self.raise_policy_version(connection)
        data = types.PolicyChanged(policy_version=raised, subject=subject, what=what, by=by)
        await append(connection, [self.event(data, subject)])


async def lock_channel(connection: Connection, channel_id: uuid.UUID) -> Row | None:
    """A channel's row, locked until the transaction ends; None where there is none."""
    row = await connection.fetchrow(QUERIES["lock_channel"], channel_id)
    return None if row is None else dict(row)


async def lock_group(connection: Connection, group_id: uuid.UUID) -> Row | None:
    """A group's row, locked until the transaction ends; None where there is none."""
    row = await connection.fetchrow(QUERIES["lock_group"], group_id)
    return None if row is None else dict(row)


def gate_of(row: Mapping[str, Any], pace: str) -> Row | None:
    """The changeset gate in a row that was joined with it; ``pace`` names the column of the gate's pace."""
    if row["gate_state"] is None:
        return None
    return {
        "state": row["gate_state"],
        "reason": row["gate_reason"],
        "braked_reason": row["braked_reason"],
        "pace": row[pace],
        "evidence": row["evidence"],
        "resumes": row["resumes"],
        "changed_at": row["gate_changed_at"],
    }


def value_of(state: enum.StrEnum | None) -> str | None:
    """A filter as SQL takes it."""
    return None if state is None else state.value


def rows_of(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Records as rows."""
    return [dict(record) for record in records]


def one(record: Mapping[str, Any] | None) -> Row:
    """A record that must be there.

    Raises:
        Fault: It is not.
    """
    if record is None:
        raise Fault("a row that must be there is missing: was the database migrated with `uneventful migrate`?")
    return dict(record)


def ids_of(records: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The ids in the column ``name``."""
    return [str(record[name]) for record in records]
