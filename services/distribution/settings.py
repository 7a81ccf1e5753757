"""What distribution is told."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.web.oidc import OidcSettings

_GIB = 1024**3


class Settings(OidcSettings, frozen=True, kw_only=True):
    """Settings of distribution, from ``UNEVENTFUL_*``."""

    store_dir: Annotated[
        str, msgspec.Meta(min_length=1, description="Where the payloads are; one file system, made if it is not there.")
    ]
    max_upload_bytes: Annotated[
        int, msgspec.Meta(ge=1, le=1024 * _GIB, description="The largest payload that is taken, in bytes.")
    ] = 16 * _GIB
    max_uploads: Annotated[int, msgspec.Meta(ge=1, le=1000, description="Uploads at a time.")] = 8
    max_downloads: Annotated[
        int, msgspec.Meta(ge=1, le=100_000, description="Downloads at a time; more are told to come again.")
    ] = 1000
    stall_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=0.1, le=3600, description="A peer that takes longer for 4 MiB of a download, or is silent that long."
        ),
    ] = 300.0
    snapshot_max_age_s: Annotated[
        float, msgspec.Meta(ge=2, le=300, description="What is known of halts may be this old; then nothing is sent.")
    ] = 30.0
    accel_prefix: (
        Annotated[
            str,
            msgspec.Meta(
                pattern="^/.*/$",
                description="An internal nginx location over the store; nginx sends the bytes then (X-Accel-Redirect).",
            ),
        ]
        | None
    ) = None
