"""The whole on one screen. Pure but for the clock that the server's answer carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.cli.rollout_view import number, whom
from services.cli.text import cell, moment, printable

_STATE_STYLES: Final[Mapping[str, str]] = {
    "running": "green",
    "completed": "green",
    "halted": "bold red",
    "braked": "yellow",
    "held": "yellow",
    "paused": "yellow",
    "waiting_for_approval": "bold yellow",
}
_SHORT_STATES: Final[Mapping[str, str]] = {
    "waiting_for_gate": "gate",
    "waiting_for_approval": "approval",
}
_UNDER_WAY: Final = frozenset({"running", "braked", "held", "halted", "paused"})
_WHOM: Final[Mapping[str, tuple[str, str]]] = {
    "approver": ("approver", "bold yellow"),
    "operator": ("operator", "bold red"),
    "nobody": ("by itself", "dim"),
}
_LAG_WORTH_SAYING_S: Final = 5.0
_BEHIND_WORTH_SAYING: Final = 1_000


def when(text: str | None) -> datetime | None:
    """A time of an answer."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def span(length: timedelta) -> str:
    """A time for people: ``40 s``, ``5 min``, ``3.2 h``, ``2 d``."""
    seconds = abs(length.total_seconds())
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def ago(text: str | None, now: datetime) -> str:
    """How long ago it was."""
    at = when(text)
    return "" if at is None else f"{span(now - at)} ago"


def ahead(text: str | None, now: datetime) -> str:
    """How long it is until then; with the hour where that is today's."""
    at = when(text)
    if at is None:
        return ""
    return f"in {span(at - now)}" if at > now else "now"


def headline(status: Mapping[str, Any]) -> Text:
    """When, how far the ledger is, and whether the analysis sees."""
    ledger = status["ledger"]
    line = Text.assemble(("Uneventful", "bold"), f"  {moment(status['at'])} UTC   ledger {ledger['seq']}")
    lag = float(ledger["inbox_lag_s"])
    late = lag > _LAG_WORTH_SAYING_S
    line.append(f", {lag:.0f} s behind ({ledger['inbox_depth']} events wait)" if late else ", up to date",
                style="bold red" if late else "green")  # fmt: skip
    behind = [f"{one['name']} is {one['behind']} behind" for one in ledger["followers"]
              if one["behind"] > _BEHIND_WORTH_SAYING]  # fmt: skip
    if behind:
        line.append("   " + ", ".join(behind), style="yellow")
    if status["blind"]:
        sites = ", ".join("everything" if one["site"] is None else cell(one["site"]) for one in status["blind"])
        line.append(f"   BLIND for {sites}", style="bold red")
    return line


def waiting_table(status: Mapping[str, Any]) -> Table | None:
    """What waits for whom; None where nothing does."""
    if not status["waiting"]:
        return None
    now = when(status["at"]) or datetime.now(UTC)
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for item in status["waiting"]:
        who, style = _WHOM.get(item["whom"], (item["whom"], ""))
        until = ahead(item["until"], now)
        said = Text(printable(" ".join(item["what"].split()), 400))
        if until:
            said.append(f"  ({'expires ' if item['kind'] == 'approval' else 'at the earliest '}{until})", style="dim")
        if item["command"]:
            said.append(f"\n{item['command']}", style="cyan")
        table.add_row(Text(who, style=style), Text(item["kind"]), Text(ago(item["since"], now), style="dim"), said)
    return table


def evidence(rollout: Mapping[str, Any]) -> str:
    """The evidence against its threshold, as short as it goes; empty before anything started."""
    halted = rollout["gate"].get("evidence") or {}
    live = rollout.get("evidence") or {}
    ln_e, threshold = number(halted.get("ln_e")), number(halted.get("threshold"))
    if ln_e is None or threshold is None:
        if not live.get("started"):
            return ""
        ln_e, threshold = live["ln_e"], live["threshold"]
    counts = live or halted
    return f"{counts.get('bad', 0)} bad of {counts.get('started', 0)}, ln E {ln_e:.1f} of {threshold:.1f}"


def how(rollout: Mapping[str, Any]) -> str:
    """What there is to say of a rollout besides its nodes."""
    parts = [] if rollout["purpose"] == "update" else [rollout["purpose"]]
    if rollout["shown"] in _UNDER_WAY:
        waves = rollout["policy"].get("waves") or []
        if len(waves) > 1:
            parts.append(f"wave {min(rollout['wave'] + 1, len(waves))}/{len(waves)}")
        parts += [f"{rollout['in_flight']} of {rollout['pace']} in flight", evidence(rollout)]
    if rollout["shown"] == "halted":
        parts.append(f"tell {whom(rollout)}")
    return ", ".join(part for part in parts if part)


def rollout_lines(status: Mapping[str, Any]) -> list[Text]:
    """A line per rollout, and a second one where there is more to say of it; narrow terminals break no column."""
    now = when(status["at"]) or datetime.now(UTC)
    rows = [
        (
            _cut(f"{cell(one['version'])} {cell(one['arch'])}", 24),
            _cut(cell(one["group_name"]), 20),
            _SHORT_STATES.get(one["shown"], one["shown"].replace("_", " ")),
            f"{one['nodes']['on_target']}/{one['nodes']['total']}",
        )
        for one in status["rollouts"]
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    lines = []
    for one, (release, group, state, nodes) in zip(status["rollouts"], rows, strict=True):
        line = Text(f"{release:<{widths[0]}}  {group:<{widths[1]}}  ")
        line.append(f"{state:<{widths[2]}}  ", style=_STATE_STYLES.get(one["shown"], ""))
        line.append_text(_bar(one["nodes"]["on_target"], one["nodes"]["total"]))
        line.append(f"  {nodes:>{widths[3]}}")
        if one["eta"] is not None and one["shown"] != "completed":
            line.append(f"  done {ahead(one['eta'], now)}")
        lines.append(line)
        if how(one):
            lines.append(Text(f"  {how(one)}", style="dim"))
    return lines


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _bar(done: int, total: int, width: int = 12) -> Text:
    """Full only where nothing is missing, and empty only where there is nothing."""
    filled = width * done // total if total else 0
    filled = max(filled, 1) if done else filled
    return Text.assemble(("█" * filled, "green"), ("░" * (width - filled), "bright_black"))


def node_words(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What there is to say of nodes, each with its style."""
    nodes = status["nodes"]
    yield f"{nodes['total']} nodes, {nodes['in_flight']} in flight", "bold"
    for name, words, style in (
        ("will_boot_stopped", "WILL BOOT a halted release at their next reboot", "bold red"),
        ("stuck", "staged for over a week", "yellow"),
        ("on_withdrawn", "on a withdrawn release", "yellow"),
        ("quarantined", "quarantined", "yellow"),
        ("silent", "silent for a day", "yellow"),
        ("parked", "parked", ""),
        ("cloned", "with a cloned machine id", "yellow"),
        ("without_group", "in no group", "yellow"),
    ):
        if nodes[name]:
            yield f"{nodes[name]} {words}", style


def screen(status: Mapping[str, Any]) -> RenderableType:
    """All of it."""
    parts: list[RenderableType] = [headline(status), Text()]
    waits = waiting_table(status)
    parts += [Text("Waits", style="bold underline"), waits] if waits is not None else [
        Text("Nothing waits for anybody.", style="green")
    ]  # fmt: skip
    parts.append(Text())
    if status["rollouts"]:
        shown = sum(one["shown"] != "completed" for one in status["rollouts"])
        hidden = status["rollouts_active"] - shown
        parts += [Text("Rollouts", style="bold underline"), *rollout_lines(status)]
        if hidden > 0:
            parts.append(Text(f"and {hidden} more: `uneventful rollout list --active`", style="dim"))
    else:
        parts.append(Text("No rollout: `uneventful channel promote` starts some.", style="dim"))
    parts += [Text(), _joined(list(node_words(status)))]
    parts += [
        Text(f"Flooded by {cell(one['kind'])} {cell(one['source'])}: {one['dropped']} reports dropped", style="yellow")
        for one in status["floods"][:5]
    ]
    return Group(*parts)


def _joined(words: Sequence[tuple[str, str]]) -> Text:
    line = Text()
    for number_of, (said, style) in enumerate(words):
        line.append("" if number_of == 0 else ": " if number_of == 1 else ", ")
        line.append(said, style=style)
    return line
