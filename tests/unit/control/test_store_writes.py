"""What operators change goes through the transactions that tell the ledger who did it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import services.control.store
from shared.db import Queries

STORE = Path(services.control.store.__file__).parent
WRITES = re.compile(r"\b(INSERT INTO|UPDATE \w+\.\w+|DELETE FROM|control\.\w+_v\d+\(|fleet\.\w+_v\d+\()")
# What is no operator's change: answers that are kept for a retry, and when a token was used last.
NOT_TOLD = {"claim", "keep", "release", "sweep", "note_used"}
READING_FUNCTIONS = re.compile(r"control\.(position|fraction)_\w+\(")


def direct_queries(module: Path) -> set[str]:
    """Names of queries that a module runs on a pool, outside of `Database.change` and `Database.plain`."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        on = node.func.value
        if isinstance(on, ast.Attribute) and on.attr in ("pool", "main"):
            for name in ast.walk(node.args[0]):
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    found.add(name.value)
    return found


def test_nothing_is_changed_beside_the_record_of_who_did_it():
    """A statement that writes is run in `change` or `plain`, never on the pool itself."""
    looked_at = 0
    for module in sorted(STORE.glob("*.py")):
        sql = module.with_suffix(".sql")
        if not sql.exists():
            continue
        queries = Queries.load("services.control.store", sql.name)
        for name in direct_queries(module) - NOT_TOLD:
            looked_at += 1
            assert not WRITES.search(READING_FUNCTIONS.sub("", queries[name])), f"{module.name} runs {name} on the pool"
    assert looked_at > 20
