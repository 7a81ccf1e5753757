"""Reports as files: CSV for spreadsheets, and one HTML page that needs nothing else. Pure."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.cli.text import cell, moment

COMPLIANCE_COLUMNS: Final = (
    "application", "group", "owner", "channel", "pin", "arch", "demanded", "demanded_since", "nodes", "compliant",
    "share", "unseen",
)  # fmt: skip
AUDIT_COLUMNS: Final = ("seq", "at", "by", "role", "action", "subject", "reason", "address", "details")
# What a spreadsheet would take for a formula: names and reasons are other people's words.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; --soft: #8881 }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p.made { color: #888; margin: .2rem 0 1.5rem }
.big { display: flex; flex-wrap: wrap; gap: 1rem }
.big div { background: var(--soft); border-radius: .5rem; padding: .7rem 1rem }
.big b { display: block; font-size: 1.6rem; line-height: 1.2 }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600 }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem .35rem 0; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: var(--bad); border-radius: 3px; height: .6rem; min-width: 6rem; overflow: hidden }
.bar i { background: var(--good); display: block; height: 100% }
small { color: #888 }
"""


def rows_of_compliance(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per group and arch; a group without nodes or channels has one for itself."""
    rows = []
    for group in report["groups"]:
        names = {name: group[name] for name in ("application", "group", "owner", "channel", "pin")}
        parts = group["archs"] or [
            {"arch": None, "demanded": None, "demanded_since": None, "nodes": 0, "compliant": 0, "unseen": 0}
        ]
        for part in parts:
            share = part["compliant"] / part["nodes"] if part["nodes"] else None
            counted = {
                name: part[name] for name in ("arch", "demanded", "demanded_since", "nodes", "compliant", "unseen")
            }
            rows.append({**names, **counted, "share": share})
    return rows


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Comma separated, CRLF, with a header (RFC 4180); what looks like a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_plain(row.get(name)) for name in columns])
    return out.getvalue()


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int):
        return str(value)
    text = cell(value) if isinstance(value, Mapping | list) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def percent(share: float | None) -> str:
    """A share for people; never 100 % where one is missing."""
    if share is None:
        return "-"
    shown = f"{share:.1%}"
    return f"{min(share, 0.999):.1%}" if shown == "100.0%" and share < 1 else shown


def minutes(count: int | None) -> str:
    """Minutes for people."""
    if count is None:
        return "-"
    if count < 120:
        return f"{count} min"
    return f"{count / 60:.1f} h" if count < 2_880 else f"{count / 1_440:.1f} d"


def to_html(report: Mapping[str, Any]) -> str:
    """One page, without scripts, fonts or pictures from elsewhere."""
    total = report["total"]
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Compliance</title><style>{_STYLE}</style>"
        f"<h1>Compliance within {report['within_days']:g} days</h1>"
        f'<p class="made">Made {html.escape(moment(str(report["made_at"])))} UTC by Uneventful. A node complies when '
        f"it runs what its channel pointed to {report['within_days']:g} days ago, or something newer.</p>"
    )
    big = "".join(
        f"<div><b>{value}</b>{label}</div>"
        for label, value in (
            ("comply", percent(total["share"])),
            ("nodes", total["nodes"]),
            ("behind", total["nodes"] - total["compliant"]),
            ("not seen since", total["unseen"]),
        )
    )
    lines = "".join(_html_row(row) for row in rows_of_compliance(report))
    latency = "".join(_latency_row(group) for group in report["groups"])
    return (
        f'{head}<div class="big">{big}</div>'
        "<h2>Groups</h2><table><tr><th>group<th>channel<th>arch<th>asked for<th class=n>nodes<th class=n>comply"
        f"<th><th class=n>not seen since</tr>{lines}</table>"
        f"<h2>From promotion to commit, last {report['latency_days']:g} days</h2>"
        "<table><tr><th>group<th class=n>commits<th class=n>median<th class=n>90 %<th class=n>99 %<th class=n>slowest"
        "</tr>"
        f"{latency}</table></html>\n"
    )


def _html_row(row: Mapping[str, Any]) -> str:
    said = {name: html.escape(cell(value)) for name, value in row.items()}
    owner = f"<br><small>{said['owner']}</small>" if row["owner"] else ""
    since = f"<br><small>since {said['demanded_since']}</small>" if row["demanded"] else ""
    follows = f"pinned to {said['pin']}" if row["pin"] else said["channel"]
    width = 0 if row["share"] is None else 100 * row["share"]
    bar = "" if row["share"] is None else f'<div class="bar"><i style="width:{width:.1f}%"></i></div>'
    return (
        f"<tr><td>{said['application']}/{said['group']}{owner}<td>{follows}<td>{said['arch']}<td>{said['demanded']}{since}"
        f"<td class=n>{row['nodes']}<td class=n>{percent(row['share'])}<td>{bar}<td class=n>{row['unseen']}</tr>"
    )


def _latency_row(group: Mapping[str, Any]) -> str:
    latency = group["latency"]
    name = html.escape(f"{group['application']}/{group['group']}")
    shown = "".join(
        f"<td class=n>{minutes(latency[each])}"
        for each in ("p50_minutes", "p90_minutes", "p99_minutes", "slowest_minutes")
    )
    return f"<tr><td>{name}<td class=n>{latency['commits']}{shown}</tr>"
