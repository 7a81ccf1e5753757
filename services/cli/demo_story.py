"""What the demo tells: alpha is noted, beta soaks on canaries, stable follows by itself, a bad beta goes no further."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from services.cli.client import Client
from services.cli.demo_cast import CANARIES, PRODUCTION, Cast, cast
from services.cli.demo_stage import PAYLOAD_BYTES, TRACKS, Say, Show, Stage, StoryLine, running
from services.cli.errors import Refused
from services.cli.target import Options, find_target
from services.simulator.fates import Fate, FleetPlan
from services.simulator.fleet import Fleet
from services.simulator.node import Span, Timing
from services.standalone.settings import Bus

OMAHA_ID: Final = "e96281a6-d1af-4bde-9a0a-97b76e56dc57"
INSTALLED: Final = "3033.2.0"
ALPHA: Final = "3066.0.0"
BETA: Final = "3066.1.0"
BETA_FIX: Final = "3066.1.1"
STABLE: Final = "3066.2.0"
BAD_BETA: Final = "3067.1.0"
BAD_STABLE: Final = "3067.2.0"
BAD_FIX: Final = "3067.1.1"

ACTS: Final[Mapping[str, str]] = {
    "alpha": f"alpha {ALPHA} is noted: nobody follows alpha",
    "beta": f"beta {BETA} lands on the canaries and soaks",
    "fix": f"the fix {BETA_FIX} restarts the soak",
    "gate": f"stable {STABLE} waits at production's gate",
    "release": f"{STABLE} is released by itself, in waves",
    "bad": f"the bad beta {BAD_BETA} is stopped on the canaries",
    "recovery": f"its fix {BAD_FIX} takes over by itself",
}
"""The parts of the story, by what a story line calls them."""

TIME_FACTOR: Final = 1_000.0
"""45 minutes between polls become 2.7 s."""
SOAK_S: Final = 8.0
"""At that factor, a bit more than two hours."""
_LEDGER_SECONDS: Final = 10.0
_READING_SECONDS: Final = 2.0
"""A halt stays on the screen for so long."""
WAVES: Final = ({"fraction": 0.05, "soak_s": 2.0}, {"fraction": 0.3, "soak_s": 2.0}, {"fraction": 1.0})

# The nodes live a thousand times faster than the machine that they run on, so deadlines of silence are not scaled
# down as far: a busy machine must not make a good release look silent.
POLICY: Final[Mapping[str, object]] = {
    "poll_interval_s": 2_700.0 / TIME_FACTOR,
    "contact_overdue_s": 20.0,
    "silence_deadline_s": 45.0,
    "offer_deadline_s": 120.0,
    "retry_after_s": 5.0,
    "concurrency": 100,
}


class GoodEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How the good release went: nodes that committed it, that rolled back, and whether all live ones have it.

    Attributes:
        gate_soaked_s: From the first canary that committed the last fix of its beta to its own release.
        seconds: From its promotion, the wait at the gate included.
    """

    version: str
    committed: int
    rolled_back: int
    halted: bool
    complete: bool
    gate_soaked_s: float | None
    seconds: float


class BadEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How the bad release went.

    Attributes:
        nodes_exposed: Nodes that booted it.
        granted: Offers that were made.
        granted_after_halt: Offers that stand behind the halt in the ledger, or that a node got after it.
        report_to_halt_ms: From the report that decided to the halt's commit.
        report_to_first_refusal_ms: From that report to the first poll that was refused because of it.
        braked: Whether the canaries were too few for a halt by evidence: the first bad one braked them, and a person
            made it a halt.
        superseded: Whether the fix took its place, and every canary runs that.
    """

    version: str
    halted: bool
    nodes_exposed: int
    granted: int
    granted_after_halt: int
    rolled_back: int
    committed: int
    report_to_halt_ms: float | None
    report_to_first_refusal_ms: float | None
    reason: str | None
    braked: bool
    superseded: bool


class ProductionEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What the bad release did to production.

    Attributes:
        exposed_to_bad: Its nodes that were offered the bad beta or the bad stable release.
        gate_opened: Whether its gate ever let the bad stable release through.
    """

    nodes: int
    exposed_to_bad: int
    gate_opened: bool


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The whole demo in numbers."""

    ok: bool
    nodes: int
    canaries: int
    bad_rate: float
    seed: int
    good: GoodEnd
    bad: BadEnd
    prod: ProductionEnd
    story: tuple[StoryLine, ...]
    events_in_ledger: int
    ledger_verified: bool
    bus: str
    seconds: float


async def play(
    *,
    data: Path,
    nodes: int,
    bad_rate: float,
    seed: int,
    show: Show,
    say: Say,
    bus: Bus = Bus.AUTO,
) -> Summary:
    """Run the story; ``show`` is called several times a second with what is to be seen.

    Args:
        data: An empty directory for everything.
        nodes: How many nodes.
        bad_rate: The share of nodes that the bad releases make roll back.
        seed: Fates, jitter and payloads.
        show: Draws a scene.
        say: Says one line.
        bus: Whether there is a broker.
    """
    began = time.monotonic()
    players = cast(nodes, soak_s=SOAK_S)
    say("Starting PostgreSQL, the broker and six services in a directory of their own ...")
    async with running(data, say, bus=bus) as ready, contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(find_target(Options(ready_file=data / "ready.json"))))
        await _set_up(client, players, say)
        plan = FleetPlan({version: {Fate.ROLLS_BACK: bad_rate} for version in (BAD_BETA, BAD_STABLE)})
        fleet = await stack.enter_async_context(
            Fleet(
                plan,
                ready["services"]["update_check"]["url"] + "/v1/update/",
                0,
                seed,
                TIME_FACTOR,
                version=INSTALLED,
                timing=Timing(
                    prepare=Span(5, 30), install=Span(20, 60), reboot_after=Span(0, 300), reboot=Span(60, 180)
                ),
            )
        )
        stage = Stage(client, fleet, players, data=data, seed=seed, show=show, say=say, began=began)
        await _join(stage, say)
        noted = await _alpha(stage)
        await _beta(stage)
        good = await _good(stage)
        bad, prod = await _bad(stage)
        verified = await client.get("/ledger/verify")
        head = (await client.get("/ledger"))["seq"]
        stopped = bad.halted and bad.granted_after_halt == 0 and bad.superseded
        untouched = prod.exposed_to_bad == 0 and not prod.gate_opened
        released = good.complete and not good.halted and good.gate_soaked_s is not None and good.gate_soaked_s >= SOAK_S
        return Summary(
            ok=noted and released and stopped and untouched and bool(verified["ok"]),
            nodes=nodes,
            canaries=players.canary_nodes,
            bad_rate=bad_rate,
            seed=seed,
            good=good,
            bad=bad,
            prod=prod,
            story=tuple(stage.told),
            events_in_ledger=head,
            ledger_verified=bool(verified["ok"]),
            bus=ready["bus"],
            seconds=stage.seconds,
        )


async def _set_up(client: Client, players: Cast, say: Say) -> None:
    await client.post("/applications", {"name": "flatcar", "omaha_id": OMAHA_ID})
    for channel in ("alpha", *TRACKS.values()):
        await client.post("/channels", {"application": "flatcar", "name": channel, "arch": "amd64"})
    await client.post(
        "/groups",
        {
            "application": "flatcar",
            "name": CANARIES,
            "channel": TRACKS[CANARIES],
            "selector": {"track": [TRACKS[CANARIES]]},
            # Beta is expected to be worse than stable, and nobody is woken up for it.
            "policy": {**POLICY, "allowed_bad_rate": 0.02, "severity": "ticket"},
        },
    )
    await client.post(
        "/groups",
        {
            "application": "flatcar",
            "name": PRODUCTION,
            "channel": TRACKS[PRODUCTION],
            "policy": {**POLICY, "waves": WAVES, "gates": [players.gate]},
        },
    )
    say(f"Payloads have {PAYLOAD_BYTES // 2**20} MiB. Production's gate asks for {players.gate_said}.")
    if not players.halted_by_evidence:
        say(
            f"{players.canary_nodes} canaries are too few to halt a release by evidence alone: the first one that "
            "rolls back brakes them all, until somebody looks."
        )


async def _join(stage: Stage, say: Say) -> None:
    for group, clusters in ((CANARIES, stage.cast.canaries), (PRODUCTION, stage.cast.production)):
        kind = "canary" if group == CANARIES else "node"
        for cluster, count in clusters.items():
            stage.fleet.add_nodes(count, track=TRACKS[group], alias=f"{cluster}-{kind}")
    say(
        f"{stage.cast.canary_nodes} canaries and {stage.cast.production_nodes} nodes of production in "
        f"{len(stage.cast.canaries)} clusters boot with {INSTALLED} and begin to poll, {TIME_FACTOR:g} times faster "
        "than real ones."
    )
    deadline = time.monotonic() + 60.0
    known = 0
    while known < stage.cast.nodes and time.monotonic() < deadline:
        await stage.until(lambda: stage.fleet.statistics.held >= stage.cast.nodes, 1.0)
        known = len(await stage.client.items("/nodes", most=100_000))


async def _alpha(stage: Stage) -> bool:
    """Says whether nothing came of it."""
    stage.begin("alpha")
    await stage.publish(ALPHA)
    await stage.promote("alpha", ALPHA, "a new alpha")
    rollouts = await stage.rollouts(ALPHA)
    stage.tell(ALPHA, f"alpha: noted, {len(rollouts)} rollouts, since no group follows the channel")
    return not rollouts


async def _beta(stage: Stage) -> None:
    stage.begin("beta")
    await _to_canaries(stage, BETA, "a new beta", "beta: promoted, goes to the canaries")
    await stage.until(lambda: stage.runs(CANARIES, BETA) >= 1, 30.0)
    stage.tell(BETA, "lands on the first canary: its soak begins", CANARIES)
    await stage.until(lambda: stage.runs(CANARIES, BETA) >= stage.cast.canary_nodes, 60.0)
    stage.tell(BETA, f"soaks on {stage.runs(CANARIES, BETA)} canaries", CANARIES)
    await stage.until(lambda: False, SOAK_S / 4)
    stage.begin("fix")
    await _to_canaries(stage, BETA_FIX, "a fix", "fix: promoted, so the soak starts again")
    await stage.until(lambda: stage.runs(CANARIES, BETA_FIX) >= 1, 30.0)
    stage.tell(BETA_FIX, "lands on the first canary: its own soak begins", CANARIES)


async def _to_canaries(stage: Stage, version: str, reason: str, said: str) -> None:
    await stage.publish(version)
    await stage.promote(TRACKS[CANARIES], version, reason)
    stage.tell(version, said, CANARIES)


async def _good(stage: Stage) -> GoodEnd:
    production, canaries, fleet = stage.production, stage.canaries, stage.cast
    stage.begin("gate")
    promoted = time.monotonic()
    await stage.publish(STABLE)
    await stage.promote(TRACKS[PRODUCTION], STABLE, "a new stable release")
    await stage.look()
    stage.tell(STABLE, f"stable: promoted, {gate_words(production.rollout)}", PRODUCTION)
    await stage.until(lambda: production.state not in ("created", "waiting_for_gate"), 60.0)
    soaked = await _soaked_s(stage)
    stage.begin("release")
    stage.tell(STABLE, f"released to production by itself, {_soak_said(soaked)}", PRODUCTION)
    # From now on beta points to it as well, until there is a next beta.
    await stage.promote(TRACKS[CANARIES], STABLE, "beta is as far as stable")
    wave = -1

    def everywhere() -> bool:
        nonlocal wave
        rollout = production.rollout or {}
        if production.state == "running" and rollout["wave"] > wave:
            wave = rollout["wave"]
            stage.tell(
                STABLE, f"wave {wave + 1} of {len(WAVES)}: up to {rollout['fraction']:.0%} of production", PRODUCTION
            )
        if "halted" in (production.state, canaries.state):
            return True
        return (
            production.attempts("committed") >= fleet.production_nodes
            and canaries.attempts("committed") >= fleet.canary_nodes
            and production.state == canaries.state == "completed"
        )

    await stage.until(everywhere, 90.0)
    committed = production.attempts("committed") + canaries.attempts("committed")
    running = stage.runs(PRODUCTION, STABLE) + stage.runs(CANARIES, STABLE)
    stage.tell(STABLE, f"runs on {running} of {fleet.nodes} nodes")
    return GoodEnd(
        version=STABLE,
        committed=committed,
        rolled_back=production.attempts("rolled_back") + canaries.attempts("rolled_back"),
        halted="halted" in (production.state, canaries.state),
        complete=committed >= fleet.nodes and running >= fleet.nodes,
        gate_soaked_s=soaked,
        seconds=round(time.monotonic() - promoted, 1),
    )


async def _soaked_s(stage: Stage) -> float | None:
    """How long the fix had soaked when production's gate let the stable release through; None where it did not."""
    rollout = stage.production.rollout
    if rollout is None or rollout["running_since"] is None:
        return None
    changeset_id = await stage.client.changeset_id(BETA_FIX)
    first = await _first(_events(stage.client, "update.committed.v1", changeset_id))
    if first is None:
        return None
    waited = datetime.fromisoformat(rollout["running_since"]) - datetime.fromisoformat(first["time"])
    return round(waited / timedelta(seconds=1), 1)


def _soak_said(soaked_s: float | None) -> str:
    return "which nobody can explain" if soaked_s is None else f"{soaked_s:g} s after {BETA_FIX} began to soak"


async def _bad(stage: Stage) -> tuple[BadEnd, ProductionEnd]:
    canaries, production = stage.canaries, stage.production
    stage.begin("bad")
    await _to_canaries(stage, BAD_BETA, "a new beta", "beta: promoted; it makes some of its nodes roll back")
    await stage.publish(BAD_STABLE)
    await stage.promote(TRACKS[PRODUCTION], BAD_STABLE, "in a hurry")
    await stage.look()
    stage.tell(BAD_STABLE, f"stable: promoted as well, {gate_words(production.rollout)}", PRODUCTION)
    few = not stage.cast.halted_by_evidence
    passed: set[str] = set()

    def decided() -> bool:
        passed.add(production.state)
        return canaries.state in ("halted", "completed") or (few and canaries.braked)

    await stage.until(decided, 60.0)
    braked = few and canaries.braked
    if braked:
        stage.tell(BAD_BETA, "braked at the first canary that rolled back; somebody looks, and halts it", CANARIES)
        changeset_id = await stage.client.changeset_id(BAD_BETA)
        await stage.client.post(f"/changesets/{changeset_id}/halt", {"reason": "a canary rolled back"})
        await stage.until(lambda: canaries.state == "halted", 10.0)
    halt = await _halt_of(stage.client, BAD_BETA) if canaries.state == "halted" else None
    refused = await _after_the_halt(stage, halt) if halt is not None else None
    # Judged while its gate still has every reason to stay shut: what comes next would soak for it.
    gate_opened = not passed <= {"created", "waiting_for_gate"} or production.state != "waiting_for_gate"
    if halt is not None:
        stage.tell(BAD_STABLE, f"not let through: {gate_words(production.rollout)}", PRODUCTION)
        await stage.until(lambda: False, _READING_SECONDS)
    bad = BadEnd(
        version=BAD_BETA,
        halted=halt is not None,
        nodes_exposed=canaries.started,
        granted=stage.fleet.statistics.by_version[BAD_BETA].granted,
        granted_after_halt=await _offers_after(stage, halt) if halt is not None else 0,
        rolled_back=canaries.attempts("rolled_back"),
        committed=canaries.attempts("committed"),
        report_to_halt_ms=None if halt is None else _milliseconds(halt.report_at, halt.halted_at),
        report_to_first_refusal_ms=None if halt is None or refused is None else _milliseconds(halt.report_at, refused),
        reason=None if halt is None else halt.reason,
        braked=braked,
        superseded=await _recovery(stage) if halt is not None else False,
    )
    return bad, ProductionEnd(
        nodes=stage.cast.production_nodes,
        exposed_to_bad=max(
            stage.exposed(PRODUCTION, BAD_BETA, BAD_STABLE), await _offered_in(stage, PRODUCTION, BAD_BETA, BAD_STABLE)
        ),
        gate_opened=gate_opened,
    )


async def _after_the_halt(stage: Stage, halt: _Halt) -> datetime | None:
    """Waits for what follows a halt; when a canary that asked was first refused because of it."""
    canaries, statistics = stage.canaries, stage.fleet.statistics
    stage.tell(BAD_BETA, f"HALTED: {halt.reason}", CANARIES)

    def first_refusal() -> datetime | None:
        answer = statistics.first_held_after(halt.halted_at, running=STABLE, track=TRACKS[CANARIES])
        return None if answer is None else answer.answered_at

    await stage.until(lambda: first_refusal() is not None, 20.0)
    # The nodes that were under way when it was halted come home; the analysis hears of the last ones a moment later.
    await stage.until(
        lambda: canaries.in_flight == 0 and canaries.started >= canaries.attempts("committed", "rolled_back"), 30.0
    )
    return first_refusal()


async def _recovery(stage: Stage) -> bool:
    """The stable release that was made from the bad beta is withdrawn; the fix takes over. Says whether it did."""
    canaries = stage.canaries
    halted_id = canaries.rollout_id
    stage.begin("recovery")
    changeset_id = await stage.client.changeset_id(BAD_STABLE)
    await stage.client.post(f"/changesets/{changeset_id}/withdraw", {"reason": f"made from {BAD_BETA}"})
    stage.tell(BAD_STABLE, f"withdrawn, since it was made from {BAD_BETA}", PRODUCTION)
    await _to_canaries(stage, BAD_FIX, "a fix", f"fix: promoted, takes the place of the halted {BAD_BETA}")
    done = await stage.until(
        lambda: canaries.attempts("committed") >= stage.cast.canary_nodes or canaries.state == "halted", 60.0
    )
    stage.tell(BAD_FIX, f"runs on {stage.runs(CANARIES, BAD_FIX)} of {stage.cast.canary_nodes} canaries", CANARIES)
    before = await stage.client.get(f"/rollouts/{halted_id}")
    return done and canaries.state != "halted" and before["state"] == "superseded"


def gate_words(rollout: Mapping[str, Any] | None) -> str:
    """What a rollout waits for, in words; what it has passed where it does not wait."""
    if rollout is None:
        return "nothing to wait for"
    if rollout["state"] == "waiting_for_gate":
        return "waits for " + "; ".join(rollout["waits_for"])
    return f"{rollout['state']}: {rollout['reason'] or 'its gates are open'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Halt:
    """A halt as the ledger has it; ``report_at`` is the time of the report that decided."""

    seq: int
    changeset_id: str
    report_at: datetime
    halted_at: datetime
    reason: str


async def _halt_of(client: Client, version: str) -> _Halt:
    changeset_id = await client.changeset_id(version)
    deadline = time.monotonic() + _LEDGER_SECONDS
    while (halt := await _first(_events(client, "changeset.halted.v1", changeset_id))) is None:
        if time.monotonic() > deadline:
            raise Refused(f"{version} is halted, but the ledger does not say so after {_LEDGER_SECONDS:g} s")
        await asyncio.sleep(0.05)
    evidence = halt["data"].get("evidence")
    if evidence is not None:
        report = await client.get(f"/events/{evidence['deciding_seq']}")
    else:
        # By a person, after a brake: the first node that came back is what made them look.
        report = await _first(_events(client, "update.rolled_back.v1", changeset_id)) or halt
    return _Halt(
        seq=int(halt["sequence"]),
        changeset_id=changeset_id,
        report_at=datetime.fromisoformat(report["time"]),
        halted_at=datetime.fromisoformat(halt["time"]),
        reason=halt["data"]["reason"],
    )


async def _events(client: Client, kind: str, changeset_id: str, *, after: int = 0) -> AsyncIterator[dict[str, Any]]:
    """The events of a type about a changeset, in the ledger's order."""
    position: int | None = after
    while position is not None:
        page = await client.get("/events", type=kind, after=position, limit=500)
        for item in page["items"]:
            if item["data"].get("changeset_id") == changeset_id:
                yield item
        position = None if page["next"] is None else int(page["next"])


async def _first(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    async for event in events:
        return event
    return None


async def _offers_after(stage: Stage, halt: _Halt) -> int:
    """Offers of what was halted, after the halt: as the ledger has them, or as nodes saw them where those are more."""
    offers = _events(stage.client, "update.offered.v1", halt.changeset_id, after=halt.seq)
    in_ledger = sum([1 async for _ in offers])
    return max(in_ledger, len(stage.fleet.statistics.granted_after(halt.halted_at, BAD_BETA)))


async def _offered_in(stage: Stage, group: str, *versions: str) -> int:
    """Attempts that a group's rollouts of these versions ever had."""
    found = [item for version in versions for item in await stage.rollouts(version, group)]
    return sum(int(count) for item in found for count in item["attempts"].values())


def _milliseconds(start: datetime, end: datetime) -> float:
    return round((end - start).total_seconds() * 1000, 1)
