"""A Fedora CoreOS node: asks for the graph as zincati does, and takes the newest release that an edge leads to.

It reports nothing: the server learns what became of an update from the version that the node comes back with.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import msgspec

from services.simulator.fates import Fate

AGE: Final = "org.fedoraproject.coreos.releases.age_index"
SCHEME: Final = "org.fedoraproject.coreos.scheme"
DEADEND: Final = "org.fedoraproject.coreos.updates.deadend"
TIMEOUT: Final = aiohttp.ClientTimeout(total=30.0)


class GraphNode(msgspec.Struct, frozen=True):
    """A release."""

    version: str
    payload: str
    metadata: dict[str, str]


class Graph(msgspec.Struct, frozen=True):
    """What the server answers; what zincati does not read is left out."""

    nodes: list[GraphNode]
    edges: list[tuple[int, int]]


class Step(enum.Enum):
    """What a tick came to."""

    NO_UPDATE = "no_update"
    UPDATED = "updated"
    ROLLED_BACK = "rolled_back"
    SILENT = "silent"


def choose(graph: Graph, version: str, payload: str, denied: frozenset[str], *, scheme: str) -> GraphNode | None:
    """The release to go to: the newest that an edge from the booted one leads to; None where there is none.

    Args:
        graph: What the server answered.
        version: What is booted.
        payload: Its checksum or pullspec: the booted release is looked up by both.
        denied: Versions that are on the disk already: one of these came back from a failed boot.
        scheme: ``checksum`` or ``oci``; releases of another one are passed over.
    """
    here = next(
        (
            place
            for place, node in enumerate(graph.nodes)
            if (node.version, node.payload, node.metadata.get(SCHEME)) == (version, payload, scheme)
        ),
        None,
    )
    if here is None or graph.nodes[here].metadata.get(DEADEND) == "true":
        return None
    age = int(graph.nodes[here].metadata[AGE])
    targets = [graph.nodes[target] for source, target in graph.edges if source == here]
    newer = [
        node
        for node in targets
        if node.metadata.get(SCHEME) == scheme and int(node.metadata[AGE]) > age and node.version not in denied
    ]
    return max(newer, key=lambda node: int(node.metadata[AGE]), default=None)


@dataclass(slots=True, kw_only=True)
class ZincatiNode:
    """One machine.

    Attributes:
        payload: Of what it runs: an OSTree checksum, or a pullspec where ``oci`` is set.
        wariness: What it says as ``rollout_wariness``; None: nothing.
        fate: What happens to it when it boots a new release.
        denied: Versions that it does not take any more.
    """

    node_uuid: str
    version: str
    payload: str
    stream: str = "stable"
    basearch: str = "x86_64"
    group: str = "default"
    platform: str = "metal"
    oci: bool = False
    wariness: float | None = None
    fate: Fate = Fate.GOOD
    denied: frozenset[str] = frozenset()
    silent: bool = False
    last: Graph | None = field(default=None, repr=False)

    def query(self) -> Mapping[str, str]:
        """The query of its request."""
        asked = {
            "basearch": self.basearch,
            "stream": self.stream,
            "node_uuid": self.node_uuid,
            "os_version": self.version,
            "os_checksum": self.payload,
            "group": self.group,
            "platform": self.platform,
        }
        if self.oci:
            asked["oci"] = "true"
        if self.wariness is not None:
            asked["rollout_wariness"] = f"{self.wariness:.6f}"
        return asked

    async def tick(self, session: aiohttp.ClientSession, base_url: str) -> Step:
        """Ask once, and take what is offered with all that follows from it.

        Args:
            session: Whose connections are used.
            base_url: zincati's ``cincinnati.base_url``.

        Raises:
            aiohttp.ClientError: The server did not answer, or not with a graph.
        """
        if self.silent:
            return Step.SILENT
        async with session.get(
            base_url.rstrip("/") + "/v1/graph",
            params=self.query(),
            headers={"Accept": "application/json"},
            timeout=TIMEOUT,
        ) as answer:
            answer.raise_for_status()
            self.last = msgspec.json.decode(await answer.read(), type=Graph)
        scheme = "oci" if self.oci else "checksum"
        target = choose(self.last, self.version, self.payload, self.denied, scheme=scheme)
        if target is None:
            return Step.NO_UPDATE
        if self.fate is Fate.ROLLS_BACK:
            self.denied |= {target.version}
            return Step.ROLLED_BACK
        if self.fate is Fate.SILENT:
            self.silent = True
            return Step.SILENT
        self.version, self.payload = target.version, target.payload
        return Step.UPDATED
