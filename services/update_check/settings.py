"""What update_check is told."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of update_check, from ``UNEVENTFUL_*``."""

    distribution_url: Annotated[
        str,
        msgspec.Meta(pattern="^https?://", description="Where nodes reach distribution; payload URLs begin with it."),
    ]
    spool_dir: Annotated[
        str,
        msgspec.Meta(min_length=1, description="Where reports are kept while Postgres is away; on a disk that stays."),
    ]
    omaha_secret: (
        Annotated[
            str,
            msgspec.Meta(
                pattern="^[A-Za-z0-9_-]{8,128}$",
                description="If set, nodes must post to /v1/update/<secret>, or with a secret that was minted; "
                "anything else is 404.",
            ),
        ]
        | None
    ) = None
    require_path_secret: Annotated[
        bool,
        msgspec.Meta(description="Serve Omaha only at paths with a secret, minted or the fleet's."),
    ] = False
    trust_forwarded_for: Annotated[
        bool, msgspec.Meta(description="Take a node's address from the last entry of X-Forwarded-For, behind a proxy.")
    ] = False
    cincinnati_application: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=64, description="The application that /v1/graph is about, by name or id."
        ),
    ] = "fedora-coreos"
    require_node_tokens: Annotated[
        bool, msgspec.Meta(description="Answer native checks only with a node's token, which /v1/enrol gives.")
    ] = False
    flood_machine_per_minute: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=1e6, description="Requests with reports that one machine id may send in a minute; 0: no limit."
        ),
    ] = 30.0
    flood_machine_burst: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="How many of them it may send at once.")
    ] = 60
    flood_address_per_minute: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=1e6, description="Requests with reports that one address may send in a minute; 0: no limit."
        ),
    ] = 600.0
    flood_address_burst: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="How many of them it may send at once.")
    ] = 2_000
    snapshot_max_age_s: Annotated[
        float, msgspec.Meta(ge=1, le=60, description="A snapshot older than this means: no update now.")
    ] = 5.0
    analysis_max_lag_s: Annotated[
        float,
        msgspec.Meta(ge=5, le=3600, description="A judgement that lags by more than this means: no update now."),
    ] = 20.0
    reboot_awaited_every_s: Annotated[
        float,
        msgspec.Meta(gt=0, le=86400, description="A staged node's polls become an event at most this often."),
    ] = 900.0
    contact_flush_s: Annotated[
        float, msgspec.Meta(ge=0.05, le=60, description="How often last contacts are written.")
    ] = 0.5
    max_waiting_reports: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="Reports that may wait for Postgres; more are answered 503.")
    ] = 10_000
    spool_max_bytes: Annotated[
        int, msgspec.Meta(ge=65_536, description="The most bytes of the spool; a report beyond is answered 503.")
    ] = 268_435_456
    pool_size: Annotated[int, msgspec.Meta(ge=2, le=100, description="Connections to Postgres.")] = 8
