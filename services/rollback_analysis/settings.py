"""What rollback_analysis is told."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of rollback_analysis, from ``UNEVENTFUL_*``."""

    batch_events: Annotated[
        int, msgspec.Meta(ge=1, le=10_000, description="The most events whose effects are written in one transaction.")
    ] = 2_000
