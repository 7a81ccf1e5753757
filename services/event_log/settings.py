"""What event_log is told."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of event_log; all have defaults but the database."""

    mover_batch: Annotated[
        int, msgspec.Meta(ge=1, le=10_000, description="The most events that one transaction moves into the ledger.")
    ] = 2000
    mover_idle_seconds: Annotated[
        float, msgspec.Meta(ge=0.002, le=1.0, description="The longest pause between two looks at an empty inbox.")
    ] = 0.025
    relay_batch: Annotated[
        int, msgspec.Meta(ge=1, le=10_000, description="The most events that are published between two checkpoints.")
    ] = 1000
    tick_seconds: Annotated[
        float, msgspec.Meta(ge=0.1, le=10.0, description="Seconds between two log.ticked events.")
    ] = 5.0
    partitions_ahead: Annotated[
        int, msgspec.Meta(ge=1, le=100, description="Ledger partitions (of 1,000,000 events) made ahead.")
    ] = 2
    seen_days: Annotated[
        int,
        msgspec.Meta(ge=1, le=3650, description="Days that event ids are remembered; more than any agent's spool."),
    ] = 45
    standby_seconds: Annotated[
        float, msgspec.Meta(ge=0.05, le=10.0, description="Seconds between a standby's looks at the leader's lock.")
    ] = 0.25
