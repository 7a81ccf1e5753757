"""The simulated zincati: what it asks, and which release it goes to."""

from __future__ import annotations

import pytest

from services.simulator.zincati import AGE, DEADEND, SCHEME, Graph, GraphNode, ZincatiNode, choose

A, B = "aa" * 32, "bb" * 32


def release(version: str, age: int, payload: str = B, **metadata: str) -> GraphNode:
    return GraphNode(version, payload, {AGE: str(age), SCHEME: "checksum", **metadata})


HERE = release("1", 0, A)


def goes_to(nodes: list[GraphNode], edges: list[tuple[int, int]], denied: frozenset[str] = frozenset()) -> str | None:
    target = choose(Graph(nodes, edges), "1", A, denied, scheme="checksum")
    return None if target is None else target.version


def test_it_goes_to_the_newest_that_an_edge_leads_to():
    """By age; a release that it has on its disk already is passed over."""
    nodes = [HERE, release("2", 1), release("3", 2), release("4", 3)]
    edges = [(0, 1), (0, 2), (1, 3)]
    assert goes_to(nodes, edges) == "3"
    assert goes_to(nodes, edges, frozenset({"3"})) == "2"


@pytest.mark.parametrize(
    ("nodes", "edges"),
    [
        ([HERE, release("2", 1)], []),
        ([HERE, release("2", 1)], [(1, 0)]),
        ([release("1", 0, B), release("2", 1)], [(0, 1)]),
        ([release("2", 1)], []),
        ([release("1", 0, A, **{DEADEND: "true"}), release("2", 1)], [(0, 1)]),
        ([release("1", 5, A), release("2", 1)], [(0, 1)]),
        ([HERE, release("2", 1, **{SCHEME: "oci"})], [(0, 1)]),
    ],
    ids=["no edge", "edge back", "other payload", "unknown", "dead end", "older", "other scheme"],
)
def test_otherwise_it_stays(nodes, edges):
    """It is nowhere in the graph, or nothing leads away."""
    assert goes_to(nodes, edges) is None


def test_its_query_is_zincatis():
    """Six digits of wariness, and oci only where it is set."""
    node = ZincatiNode(node_uuid="u", version="1", payload=A)
    assert node.query() == {
        "basearch": "x86_64", "stream": "stable", "node_uuid": "u", "os_version": "1", "os_checksum": A,
        "group": "default", "platform": "metal",
    }  # fmt: skip
    wary = ZincatiNode(node_uuid="u", version="1", payload=A, wariness=0.25, oci=True)
    assert (wary.query()["rollout_wariness"], wary.query()["oci"]) == ("0.250000", "true")
