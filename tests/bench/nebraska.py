"""The SQL that Nebraska runs for a poll, replayed by pgbench, beside our polls.

Its rates are upper bounds for Nebraska: its own code and HTTP come on top.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import machine
from polls import IN_FLIGHT, PACE, check, fill_the_pace, make_fleet, outdated, start_update_check, up_to_date
from report import Result, median, ratio, say
from sources import NEW_VERSION, OLD_VERSION
from stack import BenchFailedError, Stack, connected, load

HERE = Path(__file__).parent
INSTANCES = 100_000
CLIENTS = 8
# A poll of a Flatcar node: its event (3/2, no news), its ping, its update check. Each looks the group up again.
NO_UPDATE = (
    "get_group",
    "get_instance",
    "get_group",
    "get_instance",
    "upsert",
    "get_group",
    "get_instance",
    "get_group",
)
ON_HOLD = (*NO_UPDATE, "stats", "get_instance", "on_hold")
STATEMENTS = {"no update": 27, "held": 31}


def _statements() -> dict[str, list[str]]:
    text = (HERE / "nebraska_statements.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return {
        name: [" ".join(statement.split()) + ";" for statement in body.split(";") if statement.strip()]
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def scripts(directory: Path) -> dict[str, Path]:
    """The pgbench script of each kind of poll; refuses a count of statements other than Nebraska's."""
    known = _statements()
    written = {}
    for kind, steps, version in (("no update", NO_UPDATE, NEW_VERSION), ("held", ON_HOLD, OLD_VERSION)):
        statements = [statement for step in steps for statement in known[step]]
        if len(statements) != STATEMENTS[kind]:
            raise BenchFailedError(f"{kind}: {len(statements)} statements, not {STATEMENTS[kind]}")
        path = directory / f"{kind.replace(' ', '_')}.pgbench"
        head = [r"\set id random(10000000, 10099999)"]
        path.write_text("\n".join([*head, *statements]).replace(":version", version) + "\n", encoding="utf-8")
        written[kind] = path
    return written


async def fill(url: str) -> None:
    """The schema and the instances: all heard within the day, as many in progress as the policy allows."""
    async with connected(url) as connection:
        await connection.execute((HERE / "nebraska_schema.sql").read_text(encoding="utf-8"))
        await connection.execute(
            "INSERT INTO instance (id, ip, oem, aleph_version) "
            "SELECT 'bench-instance-00000000' || (10000000 + n), '10.0.0.1', 'ami', '3033.2.0' "
            "  FROM generate_series(0, $1::integer - 1) AS n",
            INSTANCES,
        )
        await connection.execute(
            "INSERT INTO instance_application (version, status, last_check_for_updates, last_update_granted_ts, "
            "                                  last_update_version, update_in_progress, instance_id, "
            "                                  application_id, group_id) "
            "SELECT '3033.2.0', CASE WHEN n < 10 THEN 2 ELSE 1 END, "
            "       now() AT TIME ZONE 'utc' - random() * interval '45 min', "
            "       CASE WHEN n < 10 THEN now() AT TIME ZONE 'utc' END, CASE WHEN n < 10 THEN '3033.2.1' END, n < 10, "
            "       'bench-instance-00000000' || (10000000 + n), '00000000-0000-0000-0000-0000000000a2', "
            "       '00000000-0000-0000-0000-0000000000a6' "
            "  FROM generate_series(0, $1::integer - 1) AS n",
            INSTANCES,
        )
        await connection.execute("VACUUM ANALYZE")


async def replay(pgbench: Path, url: str, script: Path, seconds: float, postgres_pid: int) -> dict[str, Any]:
    """One round of pgbench: simple protocol, one transaction per poll in its count, each statement on its own."""
    parts = urlsplit(url)
    command = (
        str(pgbench),
        *("-n", "-M", "simple", "-c", str(CLIENTS), "-j", str(CLIENTS), "-T", str(max(1, round(seconds)))),
        *("-h", str(parts.hostname), "-p", str(parts.port), "-U", str(parts.username), "-f", str(script)),
        parts.path[1:],
    )
    before, began = machine.tree_cpu_seconds(postgres_pid), time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PGPASSWORD": parts.password or ""},
    )
    out, err = await process.communicate()
    spent, took = machine.tree_cpu_seconds(postgres_pid) - before, time.monotonic() - began
    said = out.decode()
    tps = re.search(r"tps = ([0-9.]+)", said)
    polls = re.search(r"actually processed: (\d+)", said)
    latency = re.search(r"latency average = ([0-9.]+) ms", said)
    if process.returncode != 0 or tps is None or polls is None or latency is None:
        raise BenchFailedError(f"pgbench failed: {err.decode()[-500:]}")
    return {
        "per_s": float(tps[1]),
        "us": {"postgres": spent / max(1, int(polls[1])) * 1e6},
        "mean_ms": float(latency[1]),
        "answered": int(polls[1]),
        "seconds": took,
    }


async def nebraska(stack: Stack, *, quick: bool) -> Result:
    """Our polls and Nebraska's SQL, in alternating rounds, over 100,000 nodes each, on one Postgres."""
    result = Result("nebraska", "Polls/s over 100,000 nodes: update_check against the SQL of Nebraska's poll")
    rounds, seconds, theirs_s = (3, 3.0, 3.0) if quick else (5, 5.0, 8.0)
    server = await stack.postgres()
    url = await stack.database("nebraska", migrated=False)
    await fill(url)
    written = scripts(stack.directory)
    pgbench = server.binaries.directory / "pgbench"
    up = range(1_000_000, 1_000_000 + INSTANCES // 2)
    held = range(2_000_000, 2_000_000 + INSTANCES // 2)
    fleet = await make_fleet(stack, "polls", pace=PACE, nodes={NEW_VERSION: [up], OLD_VERSION: [held, IN_FLIGHT]})
    await fill_the_pace(fleet)
    # As many processes as cores: theirs keeps all cores busy too.
    second = await start_update_check(stack, fleet.url)
    replicas = {
        "ports": [fleet.service.port, second.port],
        "watch": {"first": fleet.service.pid, "second": second.pid, "postgres*": server.pid},
    }
    sources = {"no update": up_to_date(up), "held": outdated(held)}
    found: dict[str, dict[str, list[dict[str, Any]]]] = {kind: {"ours": [], "theirs": []} for kind in sources}
    for number in range(rounds):
        say(f"   round {number + 1} of {rounds}")
        for kind, source in sources.items():
            theirs = await replay(pgbench, url, written[kind], theirs_s, server.pid)
            plan = fleet.plan(source, "noupdate", seconds=seconds, warmup_s=0.7, **replicas)
            ours = check(kind, await load(plan))
            ours["us"]["service"] = ours["us"]["first"] + ours["us"]["second"]
            ours["us"]["all"] = ours["us"]["service"] + ours["us"]["postgres"]
            theirs["us"]["all"] = theirs["us"]["postgres"]
            found[kind]["ours"].append(ours)
            found[kind]["theirs"].append(theirs)
    for kind, wanted in (("no update", 25.0), ("held", 200.0)):
        ours, theirs = found[kind]["ours"], found[kind]["theirs"]
        rate = ratio(ours, theirs, "per_s")
        cpu = 1 / ratio(ours, theirs, "us", "all")
        result.raw[f"{kind}, ours"] = [{name: one[name] for name in ("per_s", "us")} for one in ours]
        result.raw[f"{kind}, Nebraska's SQL"] = [
            {name: one[name] for name in ("per_s", "us", "mean_ms")} for one in theirs
        ]
        result.table += [
            {
                "poll": f"{kind}, ours",
                "polls/s": median(ours, "per_s"),
                "CPU us/poll": median(ours, "us", "all"),
                "of it Postgres": median(ours, "us", "postgres"),
                "ratio of rates": rate,
                "ratio of CPU": cpu,
            },
            {
                "poll": f"{kind}, {STATEMENTS[kind]} statements",
                "polls/s": median(theirs, "per_s"),
                "CPU us/poll": median(theirs, "us", "all"),
                "of it Postgres": median(theirs, "us", "postgres"),
            },
        ]
        result.at_least(f"{kind}: polls/s against Nebraska's SQL", rate, wanted)
    result.notes.append(
        f"{server.binaries.version} for both; {pgbench} with {CLIENTS} clients, simple protocol, fsync on; theirs is "
        "SQL alone; ours is whole HTTP requests to two update_checks that share the two cores with the load generator"
    )
    return result
