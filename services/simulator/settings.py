"""What the simulator is told: by UNEVENTFUL_* variables, or by arguments of the same names, which win."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.simulator.wire import FLATCAR_APPLICATION_ID, Arch


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The simulator's settings."""

    server: Annotated[str, msgspec.Meta(min_length=1, description="The whole URL that update checks are posted to.")]
    nodes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="How many nodes.")] = 100
    version: Annotated[str, msgspec.Meta(min_length=1, description="What the nodes run at first.")] = "3033.2.0"
    arch: Annotated[Arch, msgspec.Meta(description="The nodes' architecture.")] = Arch.AMD64
    track: Annotated[str, msgspec.Meta(description="The channel or group that the nodes name.")] = "stable"
    application_id: Annotated[
        str,
        msgspec.Meta(min_length=1, description="The application, with braces as update_engine sends it."),
    ] = FLATCAR_APPLICATION_ID
    time_factor: Annotated[
        float,
        msgspec.Meta(gt=0, le=1_000_000, description="Every time that a node waits is divided by it."),
    ] = 1.0
    seed: Annotated[int, msgspec.Meta(description="Machine ids, fates and times follow from it.")] = 0
    fates: Annotated[
        str,
        msgspec.Meta(max_length=65_536, description='Rates by version as JSON: {"3033.2.1": {"rolls_back": 0.3}}.'),
    ] = "{}"
    reboot_after_s: Annotated[
        float,
        msgspec.Meta(ge=0, le=30 * 86_400, description="A staged node waits up to so many of its seconds to reboot."),
    ] = 0.0
    seconds: Annotated[
        float,
        msgspec.Meta(gt=0, le=30 * 86_400, description="How long to simulate, in real seconds."),
    ] = 60.0
    connections: Annotated[int, msgspec.Meta(ge=1, le=4_096, description="Messages in flight at once.")] = 48
    downloads: Annotated[int, msgspec.Meta(ge=1, le=4_096, description="Downloads in flight at once.")] = 16
    allow_remote: Annotated[
        bool,
        msgspec.Meta(description="Connect to other machines than this one too."),
    ] = False
