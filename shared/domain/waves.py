"""Waves: a rollout widens in steps, each a share of the group that soaks before the next one begins."""

from __future__ import annotations

from typing import Annotated

import msgspec

Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Wave(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step: the share of the group that may be offered the changeset, and how long that must soak (seconds)."""

    fraction: Fraction
    soak_s: Annotated[float, msgspec.Meta(ge=0, le=90 * 86_400)] = 0.0
