"""What telemetry is told."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of telemetry, from ``UNEVENTFUL_*``."""

    max_waiting: Annotated[
        int,
        msgspec.Meta(ge=1, le=1_000_000, description="Reports that may wait to be written; more get 503."),
    ] = 10_000
    flush_timeout_s: Annotated[
        float, msgspec.Meta(ge=0.1, le=60, description="Seconds that a batch of reports may take to be written.")
    ] = 10.0
    reboot_awaited_every_s: Annotated[
        float,
        msgspec.Meta(gt=0, le=86400, description="A staged node's pings become an event at most this often."),
    ] = 900.0
    require_node_tokens: Annotated[
        bool, msgspec.Meta(description="Take reports only with a node's token, which /v1/enrol of update_check gives.")
    ] = False
    trust_forwarded_for: Annotated[
        bool, msgspec.Meta(description="Take a node's address from X-Forwarded-For, behind a proxy that sets it.")
    ] = False
