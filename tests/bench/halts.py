"""From the report that decides to the first poll that is refused, while other nodes report."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import aiohttp
import asyncpg
import orjson
from report import Result, say
from reports import CONNECTIONS, House, offer, open_house
from sources import NEW_VERSION, OLD_VERSION, STEADY, WHOLE_UPDATE, boot_id, machine_id, omaha_template, report, step
from stack import BenchFailedError, Stack, connected, start_load
from worlds import Rollout, make_application, make_rollout

from services.rollback_analysis import fold_input as inputs
from services.rollback_analysis.fold import Fold
from services.rollback_analysis.verdicts import Halt
from shared.domain.policy import Policy, freeze
from shared.testing.rollouts import OMAHA_ID

BACKGROUND_PER_S = 500
STARTED = 12
PER_CHANGESET = STARTED + 1
FIRST = 10_000_000
BACKGROUND_FIRST = 20_000_000
NODES_SAID = 1_000


def deciding_rollback() -> int:
    """Which rollback of ``STARTED`` started nodes halts: asked of the judge itself."""
    frozen = freeze(Policy(concurrency=1_000), fleet_size=NODES_SAID, group_size=NODES_SAID)
    parameters = inputs.Parameters(
        p0=frozen.p0,
        alpha=frozen.alpha,
        block_size=frozen.block_size,
        planned_blocks=frozen.planned_blocks,
        hold_budget=frozen.hold_budget,
        pace_limit=frozen.concurrency,
    )
    fold, now, seq = Fold(), datetime.now(UTC), 1
    fold.apply(
        seq,
        now,
        "rollout.created.v1",
        inputs.RolloutCreated(
            rollout_id="r",
            changeset_id="c",
            group_id="g",
            group_size=NODES_SAID,
            group_pace_limit=frozen.group_concurrency,
            parameters=parameters,
        ),
    )
    for kind in (inputs.UpdateKind.OFFERED, inputs.UpdateKind.BOOTED, inputs.UpdateKind.ROLLED_BACK):
        for number in range(STARTED):
            seq += 1
            observed = inputs.UpdateObserved(
                kind=kind, attempt_id=f"a{number}", node_id=f"n{number}", changeset_id="c", rollout_id="r", group_id="g"
            )
            if any(isinstance(v, Halt) for v in fold.apply(seq, now, f"update.{kind.value}.v1", observed)):
                return number + 1
    raise BenchFailedError(f"{STARTED} rollbacks do not halt a changeset")


class Scene:
    """One connection to telemetry, one to update_check, one that listens at the gates."""

    def __init__(self, house: House, session: aiohttp.ClientSession, connection: asyncpg.Connection[Any]) -> None:
        self.reports_url = f"{house.services['telemetry'].url}/v1/reports"
        self.poll_url = f"{house.services['update_check'].url}/v1/update/"
        self.session = session
        self.connection = connection
        self.gate_moved = asyncio.Event()

    async def send(self, *reports: bytes) -> float:
        """Post reports; returns when they were acknowledged."""
        body = b"[%b]" % b",".join(reports)
        headers = {"Content-Type": "application/json"}
        async with self.session.post(self.reports_url, data=body, headers=headers) as answer:
            said = orjson.loads(await answer.read())
            acknowledged = time.perf_counter()
        if answer.status != 202 or said["accepted"] != len(reports):
            raise BenchFailedError(f"telemetry answered {answer.status}: {said}")
        return acknowledged

    async def offered(self, body: bytes) -> bool:
        """Poll; whether the update was offered."""
        async with self.session.post(self.poll_url, data=body, headers={"Content-Type": "text/xml"}) as answer:
            said = await answer.read()
        if answer.status != 200:
            raise BenchFailedError(f"update_check answered {answer.status}: {said[:300]!r}")
        return b'<updatecheck status="ok"' in said

    async def halted(self, changeset_id: uuid.UUID) -> float:
        """When the halt was seen committed: the gate's notice comes with the commit."""
        while True:
            await self.gate_moved.wait()
            self.gate_moved.clear()
            heard = time.perf_counter()
            state = await self.connection.fetchval(
                "SELECT state FROM control.changeset_gates WHERE changeset_id = $1", changeset_id
            )
            if state == "halted":
                return heard


async def one_halt(scene: Scene, rollout: Rollout, first: int, rollbacks: int) -> dict[str, float]:
    """Bring one changeset to the brink, then tell the report that decides."""
    poller, patients = first, range(first + 1, first + 1 + STARTED)
    before, middle, after = omaha_template(OLD_VERSION, STEADY, alias=f"h{first}")
    whole = before + boot_id(poller).encode() + middle + machine_id(poller).encode() + after
    poll = whole.partition(b"\r\n\r\n")[2]
    await scene.send(*(step("flatcar", number, "booted", rollout.version) for number in patients))
    bad = [report("flatcar", number, "rolled_back", OLD_VERSION, 2) for number in patients]
    await scene.send(*bad[: rollbacks - 1])
    await asyncio.sleep(0.5)
    if not await scene.offered(poll):
        raise BenchFailedError("the poll was refused before the report that decides")
    scene.gate_moved.clear()
    halted = asyncio.create_task(scene.halted(rollout.changeset_id))

    async def refused() -> float:
        while await scene.offered(poll):  # noqa: ASYNC110  # what is measured is when a poll is refused
            await asyncio.sleep(0.002)
        return time.perf_counter()

    watching = asyncio.create_task(refused())
    acknowledged = await scene.send(bad[rollbacks - 1])
    async with asyncio.timeout(30):
        refused_at, halted_at = await watching, await halted
    return {"halted_ms": (halted_at - acknowledged) * 1e3, "refused_ms": (refused_at - acknowledged) * 1e3}


async def halt(stack: Stack, *, quick: bool) -> Result:
    """As many halts as asked, one after the other, under a steady 500 reports/s."""
    result = Result("halt", f"Report acknowledged -> halt committed -> poll refused, at {BACKGROUND_PER_S} reports/s")
    halts = 12 if quick else 40
    rollbacks = deciding_rollback()
    house = await open_house(stack, names=("event_log", "rollback_analysis", "telemetry"))
    async with connected(house.database) as connection, connected(house.database) as listening:
        flatcar = await make_application(connection, "flatcar", OMAHA_ID)
        other = await make_application(connection, "other", None)
        background = await make_rollout(
            connection, other, group="other", selector={}, position=1, nodes=1_000_000, pace=1_000_000
        )
        seconds = halts * 1.5 + 10
        count = round(seconds * BACKGROUND_PER_S / 4)
        await offer(connection, background, range(BACKGROUND_FIRST, BACKGROUND_FIRST + count))
        rollouts = []
        for number in range(halts):
            first = FIRST + number * PER_CHANGESET
            rollout = await make_rollout(
                connection,
                flatcar,
                group=f"h{first}",
                selector={"alias": [f"h{first}"]},
                position=number + 1,
                version=f"4000.0.{number}",
                nodes=NODES_SAID,
                pace=1_000,
            )
            await offer(connection, rollout, range(first, first + PER_CHANGESET))
            rollouts.append((first, rollout))
        house.services["update_check"] = await stack.service(
            "update_check",
            database_url=house.database,
            amqp_url=house.amqp,
            distribution_url="http://127.0.0.1:9",
            spool_dir=stack.directory / "spool",
        )
        plan = {
            "port": house.services["telemetry"].port,
            "connections": CONNECTIONS,
            "seconds": seconds,
            "warmup_s": 1.0,
            "rate": BACKGROUND_PER_S,
            "watch": house.watch,
            "expect": '"accepted":1',
            "source": {
                "kind": "reports",
                "application": "other",
                "first": BACKGROUND_FIRST,
                "count": count,
                "connections": CONNECTIONS,
                "pack": 1,
                # Not to the end: an idle node is expected to poll, and these do not.
                "kinds": WHOLE_UPDATE[:4],
                "version": NEW_VERSION,
            },
        }
        process = await start_load(plan)
        load = asyncio.create_task(process.communicate(orjson.dumps(plan)))
        await asyncio.sleep(3)
        found = []
        async with aiohttp.ClientSession() as session:
            scene = Scene(house, session, connection)
            await listening.add_listener("uneventful_gates", lambda *_: scene.gate_moved.set())
            for number, (first, rollout) in enumerate(rollouts):
                found.append(await one_halt(scene, rollout, first, rollbacks))
                say(
                    "   halt {} of {}: {halted_ms:.0f} ms, refused {refused_ms:.0f} ms".format(
                        number + 1, halts, **found[-1]
                    )
                )
        said, _ = await load
        _tell(result, found, orjson.loads(said), rollbacks)
    return result


def _tell(result: Result, found: list[dict[str, float]], background: dict[str, Any], rollbacks: int) -> None:
    for name, title in (("halted_ms", "halt committed"), ("refused_ms", "poll refused")):
        ordered = sorted(one[name] for one in found)
        p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
        result.table.append(
            {
                "from the acknowledgement to": title,
                "p50 ms": p50,
                "p99 ms": p99,
                "max ms": ordered[-1],
                "halts": len(ordered),
            }
        )
        result.at_most(f"{title}, p50 ms", p50, 200)
        result.at_most(f"{title}, p99 ms", p99, 1000)
    result.raw = {"halts": found, "background": [background]}
    result.notes.append(
        f"halted by rollback {rollbacks} of {STARTED} started nodes; background {background['per_s']:.0f} reports/s, "
        f"p50 {background['p50_ms']:.1f} ms, p99 {background['p99_ms']:.1f} ms, "
        f"{background['unexpected']} unexpected answers"
    )
