"""What clients send: bodies and queries, decoded and bounded by msgspec; a module per noun."""

from __future__ import annotations

from services.control.requests.applications import (
    ApplicationsQuery,
    NewApplication,
)
from services.control.requests.approvals import (
    ApprovalsQuery,
)
from services.control.requests.changesets import (
    ChangesetsQuery,
    NewChangeset,
    NewPayload,
    Publication,
)
from services.control.requests.channels import (
    ChannelsQuery,
    HistoryQuery,
    NewChannel,
    Promotion,
)
from services.control.requests.fields import (
    Arch,
    Because,
    ChangesetState,
    FactName,
    FactValue,
    FileName,
    Kind,
    Limit,
    MachineId,
    Name,
    NodeState,
    OmahaId,
    Page,
    PayloadRole,
    PolicyValues,
    Position,
    Rank,
    Reason,
    Reference,
    Request,
    Selector,
    Seq,
    Sha1Base64,
    Sha256,
    Size,
    Text,
    Version,
)
from services.control.requests.groups import (
    Choosing,
    GroupOrder,
    GroupPatch,
    GroupRemoval,
    GroupsQuery,
    NamedNodesQuery,
    NewGroup,
)
from services.control.requests.ledger import (
    EventsQuery,
    VerifyQuery,
)
from services.control.requests.node_tokens import (
    FloodsQuery,
    NewNodeToken,
    NewNodeTokenKind,
    NodeTokensQuery,
)
from services.control.requests.nodes import (
    Lift,
    NodesQuery,
)
from services.control.requests.reports import (
    AuditQuery,
    ComplianceQuery,
)
from services.control.requests.rollouts import (
    Abort,
    NodesThatTookIt,
    OneNode,
    PaceCap,
    RolloutsQuery,
    Widening,
)
from services.control.requests.tokens import (
    NewToken,
    Rotation,
    TokenReference,
    TokensQuery,
)
from shared.domain.rollout import RolloutState

__all__ = [
    "Abort",
    "ApplicationsQuery",
    "ApprovalsQuery",
    "Arch",
    "AuditQuery",
    "Because",
    "ChangesetState",
    "ChangesetsQuery",
    "ChannelsQuery",
    "Choosing",
    "ComplianceQuery",
    "EventsQuery",
    "FactName",
    "FactValue",
    "FileName",
    "FloodsQuery",
    "GroupOrder",
    "GroupPatch",
    "GroupRemoval",
    "GroupsQuery",
    "HistoryQuery",
    "Kind",
    "Lift",
    "Limit",
    "MachineId",
    "Name",
    "NamedNodesQuery",
    "NewApplication",
    "NewChangeset",
    "NewChannel",
    "NewGroup",
    "NewNodeToken",
    "NewNodeTokenKind",
    "NewPayload",
    "NewToken",
    "NodeState",
    "NodeTokensQuery",
    "NodesQuery",
    "NodesThatTookIt",
    "OmahaId",
    "OneNode",
    "PaceCap",
    "Page",
    "PayloadRole",
    "PolicyValues",
    "Position",
    "Promotion",
    "Publication",
    "Rank",
    "Reason",
    "Reference",
    "Request",
    "RolloutState",
    "RolloutsQuery",
    "Rotation",
    "Selector",
    "Seq",
    "Sha1Base64",
    "Sha256",
    "Size",
    "Text",
    "TokenReference",
    "TokensQuery",
    "VerifyQuery",
    "Version",
    "Widening",
]
