"""Bodies and queries about node tokens and floods."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from services.control.requests.fields import Page, Reference, Request
from shared.fleet.node_tokens import NodeTokenKind


class NewNodeTokenKind(enum.StrEnum):
    """What an operator may make; a node's own token comes from enrolling."""

    ENROLMENT = NodeTokenKind.ENROLMENT.value
    PATH = NodeTokenKind.PATH.value


class NewNodeToken(Request, frozen=True, kw_only=True):
    """An enrolment token is of a group; a path secret is of the whole application, or of one machine."""

    application: Reference
    kind: NewNodeTokenKind
    group: Reference | None = None
    machine: Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,128}\Z")] | None = None
    expires_in_s: Annotated[int, msgspec.Meta(ge=60, le=10 * 366 * 86_400)] | None = None


class NodeTokensQuery(Page, frozen=True, kw_only=True):
    """``application`` is a name or an id; without ``revoked`` only those in force are listed."""

    application: Reference | None = None
    kind: NodeTokenKind | None = None
    machine: Reference | None = None
    revoked: bool = False


class FloodsQuery(Request, frozen=True, kw_only=True):
    """The newest first; those of one application where it is named."""

    application: Reference | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
