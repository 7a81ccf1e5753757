"""Reports: how much of the fleet is where it should be, and who changed what."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from services.control import auditing, requests
from services.control.compliance import Arrivals, Demand, Pointed, Stock, demand_of, group_report, totals
from services.control.store.applications import Applications
from services.control.store.base import Connection, Database, Row, rows_of
from shared.db import Queries

QUERIES: Final = Queries.load("services.control.store", "reports.sql")
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Reports:
    """Each from one snapshot."""

    def __init__(self, database: Database, applications: Applications) -> None:
        self._database = database
        self._applications = applications

    async def compliance(self, asked: requests.ComplianceQuery) -> Row:
        """The share of nodes that run what their channel pointed to ``within_days`` ago, per group.

        Raises:
            NotFound: There is no such application.
        """
        application_id = await self._applications.id_of(asked.application)
        now = self._database.clock.now()
        before = now - timedelta(days=asked.within_days)
        async with (
            self._database.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            groups = rows_of(await connection.fetch(QUERIES["report_groups"], application_id))
            demands = await self._demands(connection, groups, application_id, before)
            made = [
                (group_id, arch, demand.since)
                for group_id, by_arch in demands.items()
                for arch, demand in by_arch.items()
                if demand is not None
            ]
            columns = zip(*made, strict=True) if made else ([], [], [])
            stocks = [
                Stock(**row) for row in await connection.fetch(QUERIES["stocks"], *map(list, columns), application_id)
            ]
            arrivals = [
                Arrivals(**row)
                for row in await connection.fetch(
                    QUERIES["arrivals"], now - timedelta(days=asked.latency_days), application_id
                )
            ]
        lines = [
            group_report(
                group,
                demands[group["group_id"]],
                [stock for stock in stocks if stock.group_id == group["group_id"]],
                [arrival for arrival in arrivals if arrival.group_id == group["group_id"]],
            )
            for group in groups
        ]
        return {
            "made_at": now,
            "within_days": asked.within_days,
            "latency_days": asked.latency_days,
            "groups": lines,
            "total": totals(lines),
        }

    async def _demands(
        self, connection: Connection, groups: list[Row], application_id: uuid.UUID | None, before: datetime
    ) -> dict[uuid.UUID, dict[str, Demand | None]]:
        channels: dict[tuple[Any, ...], dict[str, list[Pointed]]] = {}
        for row in await connection.fetch(QUERIES["channel_pointers"], application_id):
            pointed = Pointed(version=row["version"], at=row["at"], withdrawn=row["withdrawn"])
            by_arch = channels.setdefault((row["application_id"], row["channel"]), {})
            by_arch.setdefault(row["arch"], []).append(pointed)
        pins: dict[uuid.UUID, dict[str, list[Pointed]]] = {}
        for row in await connection.fetch(QUERIES["pinned_changesets"], application_id):
            pointed = Pointed(version=row["version"], at=row["at"], withdrawn=row["withdrawn"])
            pins.setdefault(row["group_id"], {}).setdefault(row["arch"], []).append(pointed)
        return {
            group["group_id"]: {
                arch: demand_of(history, before=before)
                for arch, history in (
                    pins.get(group["group_id"], {})
                    if group["pin"] is not None
                    else channels.get((group["application_id"], group["channel"]), {})
                ).items()
            }
            for group in groups
        }

    async def audit(self, asked: requests.AuditQuery) -> tuple[list[Row], int | None]:
        """What people did, in the order of the ledger, and the ``after`` of the next page."""
        until = asked.until or self._database.clock.now() + timedelta(days=1)
        found = await self._database.pool.fetch(
            QUERIES["acts"], asked.after, asked.since or _BEGINNING, until, list(auditing.ACTS), asked.limit
        )
        acts = [
            auditing.act_of(row["seq"], row["recorded_at"], row["type"], orjson.loads(row["event"])) for row in found
        ]
        following = found[-1]["seq"] if len(found) == asked.limit else None
        return [act for act in acts if act is not None and asked.by in (None, act["by"])], following
