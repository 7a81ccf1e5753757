"""The query of watched polls."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.control.requests.fields import MachineId, Reference, Request


class PollStreamQuery(Request, frozen=True, kw_only=True):
    """``seconds`` is how long to watch. ``rejected`` leaves out what was understood."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 60.0
    application: Reference | None = None
    machine: MachineId | None = None
    answer: Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[a-z_-]*\Z")] | None = None
    rejected: bool = False
