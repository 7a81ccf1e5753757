"""The demo on the screen: the story as a timeline, both groups side by side, the gate in words, the evidence. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.cli.demo_cast import CANARIES
from services.cli.demo_stage import TRACKS, Scene, StoryLine, Troupe
from services.cli.demo_story import ACTS, Summary, gate_words

_BAR = 20
_SIDE_BY_SIDE = 120
"""Columns that two panels beside each other need."""
_TALL = 33
_TALL_BESIDE = 26
"""Lines that the whole story needs above both groups, below or beside each other."""


def plain_line(scene: Scene) -> str:
    """The scene in one line."""
    return f"{scene.seconds:6.1f} s  {_group_line(scene.canaries)}; {_group_line(scene.production)}"


def _group_line(troupe: Troupe) -> str:
    rollout = troupe.rollout
    if rollout is None:
        return f"{troupe.name}: no rollout yet"
    version = rollout["version"]
    said = f"{troupe.name}: {troupe.running.get(version, 0)} of {troupe.nodes} run {version} ({rollout['shown']})"
    if rollout["state"] == "running":
        said += f", {rollout['group_in_flight']} in flight at pace {rollout['pace']}"
    if bad := troupe.attempts("rolled_back", "presumed_lost"):
        said += f", {bad} rolled back"
    return said


def picture(scene: Scene, width: int, height: int) -> RenderableType:
    """The scene: what was told so far, and both groups as they are now.

    Args:
        scene: What is to be seen.
        width: Columns of the screen.
        height: Its lines; where they are few, only the act that plays is shown of the story.
    """
    panels: list[RenderableType] = [_group(scene.canaries), _group(scene.production)]
    if width >= _SIDE_BY_SIDE:
        beside = Table.grid(expand=True, padding=(0, 1, 0, 0))
        beside.add_column(ratio=1)
        beside.add_column(ratio=1)
        beside.add_row(*panels)
        panels = [beside]
    return Group(_timeline(scene, whole=height >= (_TALL if len(panels) > 1 else _TALL_BESIDE)), *panels)


def _timeline(scene: Scene, *, whole: bool) -> RenderableType:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=1, no_wrap=True)
    table.add_column(justify="right", width=7, style="dim", no_wrap=True)
    table.add_column(ratio=1)
    began = {line.act: line.at_s for line in reversed(scene.told)}
    last: Mapping[str, StoryLine] = {line.act: line for line in scene.told}
    acts = list(ACTS)
    now = acts.index(scene.act) if scene.act else -1
    for number, (act, title) in enumerate(ACTS.items()):
        at = f"{began[act]:.1f} s" if act in began else ""
        if not whole and number != max(now, 0):
            continue
        if number < now:
            table.add_row(Text("✓", style="green"), at, Text(title))
        elif number == now:
            table.add_row(Text("▶", style="bold cyan"), at, Text(title, style="bold"))
            if act in last:
                table.add_row(
                    "",
                    "",
                    Text(f"{last[act].version} {last[act].what}", style="cyan", no_wrap=not whole, overflow="ellipsis"),
                )
        else:
            table.add_row(Text("·", style="dim"), at, Text(title, style="dim"))
    act = f", act {now + 1} of {len(acts)}" if now >= 0 else ""
    return Panel(table, title=f"{scene.seconds:.0f} s, {scene.statistics.polls} polls{act}", title_align="left")


def _group(troupe: Troupe) -> RenderableType:
    where = "canaries of all clusters" if troupe.name == CANARIES else "production"
    title = f"{where}: {troupe.nodes} nodes, channel {TRACKS[troupe.name]}"
    versions = ", ".join(f"{count} on {version}" for version, count in sorted(troupe.running.items()) if count)
    rollout = troupe.rollout
    if rollout is None:
        return Panel(Text(versions or "no node yet"), title=title, title_align="left")
    shown = rollout["shown"]
    style = _STYLES.get(shown, "none")
    lines: list[RenderableType] = [_bars(troupe, rollout, style), Text(versions, style="dim")]
    if shown == "halted":
        lines.append(Text(f"HALTED: {rollout['reason']}", style=style))
    elif shown == "waiting_for_gate":
        lines += [Text(line, style=style) for line in gate_lines(rollout, datetime.now(UTC))]
    elif shown in ("braked", "held"):
        lines.append(Text(f"stands still: {rollout['explanation']}", style=style))
    return Panel(Group(*lines), title=title, title_align="left", border_style=style)


_STYLES: Final[Mapping[str, str]] = {
    "halted": "bold red",
    "aborted": "red",
    "braked": "yellow",
    "held": "yellow",
    "waiting_for_gate": "yellow",
    "completed": "green",
}


def _bars(troupe: Troupe, rollout: Mapping[str, Any], style: str) -> RenderableType:
    bars = Table.grid(padding=(0, 1))
    bars.add_column(style="bold", no_wrap=True, width=7)
    bars.add_column(width=_BAR, no_wrap=True)
    bars.add_column(overflow="ellipsis", no_wrap=True)
    running, shown = troupe.running.get(rollout["version"], 0), rollout["shown"]
    wave = f", wave of {rollout['fraction']:.0%}" if shown == "running" and rollout["fraction"] < 1 else ""
    bars.add_row("release", Text(rollout["version"], style="bold"), Text(shown.replace("_", " "), style=style))
    bars.add_row(
        "nodes",
        ProgressBar(total=max(1, troupe.nodes), completed=running, width=_BAR),
        f"{running} of {troupe.nodes} run it{wave}",
    )
    for gate in rollout["gates"] if shown == "waiting_for_gate" else ():
        words, share = promotion_evidence(gate)
        bars.add_row("gate", ProgressBar(total=1.0, completed=share, width=_BAR, complete_style="green"), words)
    if shown != "waiting_for_gate":
        pace, in_flight = rollout["pace"], rollout["group_in_flight"]
        bars.add_row(
            "pace",
            ProgressBar(total=max(1, pace), completed=min(pace, in_flight), width=_BAR),
            f"{in_flight} of {pace} in flight",
        )
        words, share = evidence(rollout)
        bars.add_row("halt", ProgressBar(total=1.0, completed=share, width=_BAR, complete_style="red"), words)
    return bars


def gate_lines(rollout: Mapping[str, Any], now: datetime) -> list[str]:
    """What a rollout's gates have seen, what each still waits for, and for how long at least."""
    lines = []
    for gate in rollout["gates"]:
        lines.append(f"gate: {gate['subject']}: {gate['seen']}; {gate['excludes']}")
        left = 0.0 if gate["until"] is None else (datetime.fromisoformat(gate["until"]) - now).total_seconds()
        lines.append(f"  for {left:.1f} s more at least it" if left > 0 else "  it")
        lines[-1] += " waits for " + gate["waits_for"][0] if gate["waits_for"] else " is open"
        lines += [f"  and for {words}" for words in gate["waits_for"][1:]]
    return lines or [gate_words(rollout)]


def evidence(rollout: Mapping[str, Any]) -> tuple[str, float]:
    """What speaks against a release, in words and as a share of what halts it."""
    found = rollout.get("evidence")
    if not found:
        return "no evidence yet", 0.0
    ln_e, threshold = float(found["ln_e"]), float(found["threshold"])
    return f"ln E {ln_e:+.2f} of {threshold:.2f}, {found['bad']} bad of {found['started']}", min(
        1.0, max(0.0, ln_e / threshold)
    )


def promotion_evidence(gate: Mapping[str, Any]) -> tuple[str, float]:
    """What speaks for a release, in words and as a share of what opens the gate."""
    if gate["ln_e"] is None:
        return "asks for time, not for evidence", 0.0
    ln_e, threshold = float(gate["ln_e"]), float(gate["threshold"])
    return f"ln E' {ln_e:+.2f} of {threshold:.2f} that open it", min(1.0, max(0.0, ln_e / threshold))


def summary_table(summary: Summary) -> RenderableType:
    """What came of it, for people."""
    good, bad, prod = summary.good, summary.bad, summary.prod
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(
        f"{good.version} (good)",
        f"{good.committed} of {summary.nodes} nodes committed it, {good.rolled_back} rolled back, "
        f"in {good.seconds:g} s",
    )
    if good.gate_soaked_s is not None:
        table.add_row("", f"released by itself, {good.gate_soaked_s:g} s after its last beta began to soak")
    table.add_row(
        f"{bad.version} (bad)",
        f"{bad.nodes_exposed} of {summary.canaries} canaries booted it, {bad.rolled_back} of them rolled back, "
        f"{bad.committed} committed it",
    )
    if bad.halted:
        by = "braked by itself at the first bad canary, halted by hand: " if bad.braked else ""
        table.add_row("halted", f"{by}{bad.reason}")
        table.add_row("", f"{bad.report_to_halt_ms:g} ms after the report that decided")
        if bad.report_to_first_refusal_ms is not None:
            table.add_row("", f"{bad.report_to_first_refusal_ms:g} ms until the first poll was refused")
        table.add_row("", f"{bad.granted_after_halt} offers after the halt")
        table.add_row("", "its fix took over by itself" if bad.superseded else "its fix did not take over")
    else:
        table.add_row("halted", "no")
    table.add_row(
        "production",
        f"{prod.exposed_to_bad} of {prod.nodes} nodes were offered anything bad; its gate "
        f"{'OPENED' if prod.gate_opened else 'stayed shut'}",
    )
    table.add_row(
        "ledger",
        f"{summary.events_in_ledger} events, hash chain {'verifies' if summary.ledger_verified else 'IS BROKEN'}",
    )
    table.add_row("took", f"{summary.seconds:g} s, bus {summary.bus}")
    return Panel(table, title="uneventful" if summary.ok else "something is wrong")
