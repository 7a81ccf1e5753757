"""What control is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from shared.web.oidc import OidcSettings


class Settings(OidcSettings, frozen=True, kw_only=True):
    """Settings of control, from ``UNEVENTFUL_*``."""

    distribution_url: (
        Annotated[
            str,
            msgspec.Meta(
                pattern="^https?://",
                description="Where control reaches distribution to check payloads before publishing; unset: no check.",
            ),
        ]
        | None
    ) = None
    distribution_public_url: (
        Annotated[
            str,
            msgspec.Meta(
                pattern="^https?://",
                description="Where operators upload payloads to; not set: the same as UNEVENTFUL_DISTRIBUTION_URL.",
            ),
        ]
        | None
    ) = None
    key_dir: Annotated[
        Path | None,
        msgspec.Meta(
            description="Directory of the private keys that changesets are signed with, mode 0700; the first key is "
            "made at start. Not set: manifests are not signed."
        ),
    ] = None
    conduct_every_s: Annotated[
        float,
        msgspec.Meta(
            ge=0.05, le=3600, description="How often rollouts are looked at for what they do next by themselves."
        ),
    ] = 1.0
    token_cache_s: Annotated[
        float, msgspec.Meta(ge=0, le=60, description="How long a token that was found valid is not looked up again.")
    ] = 3.0
    verify_seconds: Annotated[
        float, msgspec.Meta(ge=1, le=300, description="The longest that verifying the ledger on request may take.")
    ] = 25.0
    trusted_proxies: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=16,
            description="Proxies of yours in front of control: who asks is read from X-Forwarded-For, as the outermost "
            "of them wrote it. 0: the header is ignored.",
        ),
    ] = 0
    node_retention_days: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=3_650,
            description="A node that was silent for so many days and has nothing under way is gone. 0: never.",
        ),
    ] = 30
    pool_size: Annotated[int, msgspec.Meta(ge=2, le=100, description="Connections to Postgres.")] = 6
