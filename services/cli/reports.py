"""``uneventful report``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from services.cli.client import Client
from services.cli.command import app_option, talks
from services.cli.errors import Refused
from services.cli.output import Output
from services.cli.report_page import (
    AUDIT_COLUMNS,
    COMPLIANCE_COLUMNS,
    minutes,
    percent,
    rows_of_compliance,
    to_csv,
    to_html,
)
from services.cli.text import cell

_COLUMNS: Final[Mapping[str, Any]] = {
    "group": lambda row: f"{row['application']}/{row['group']}",
    "follows": lambda row: f"pin {row['pin']}" if row["pin"] else cell(row["channel"]),
    "arch": "arch",
    "asked for": "demanded",
    "since": "demanded_since",
    "nodes": "nodes",
    "comply": lambda row: percent(row["share"]),
    "behind": lambda row: row["nodes"] - row["compliant"],
    "not seen since": "unseen",
}
_LATENCY: Final[Mapping[str, Any]] = {
    "group": lambda group: f"{group['application']}/{group['group']}",
    "commits": "latency.commits",
    "median": lambda group: minutes(group["latency"]["p50_minutes"]),
    "90 %": lambda group: minutes(group["latency"]["p90_minutes"]),
    "99 %": lambda group: minutes(group["latency"]["p99_minutes"]),
    "slowest": lambda group: minutes(group["latency"]["slowest_minutes"]),
}
_ACTS: Final[Mapping[str, Any]] = {
    "seq": "seq",
    "at": "at",
    "by": "by",
    "action": "action",
    "subject": "subject",
    "reason": "reason",
    "details": "details",
}
_AGO: Final = re.compile(r"(?P<count>\d{1,5})(?P<unit>[hdw])")
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

_csv_option = click.option("--csv", "as_csv", is_flag=True, help="Comma separated values.")
_out_option = click.option(
    "-o", "--output", "path", type=click.Path(dir_okay=False, path_type=Path), help="Into a file instead of here."
)


def moment_of(text: str, now: datetime) -> datetime:
    """A time as operators give it: ``2026-11-25``, ``2026-11-25T09:00+01:00``, or ``7d`` for seven days ago.

    Raises:
        ValueError: It is none of these.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - int(ago["count"]) * _UNITS[ago["unit"]]
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _moment(name: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return moment_of(text, datetime.now(UTC)).isoformat()
    except (ValueError, OverflowError) as fault:
        raise click.BadParameter(
            f"{text!r} is no time: write 2026-11-25, 2026-11-25T09:00+01:00, or 7d for seven days ago", param_hint=name
        ) from fault


@click.group()
def report() -> None:
    """Reports for those who ask whether the fleet is patched, and who changed what."""


@report.command("compliance")
@click.option(
    "--within-days", type=click.FloatRange(0, 3_650), default=14.0, show_default=True, help="Asked for so long."
)
@click.option(
    "--latency-days", type=click.FloatRange(0, 3_650), default=90.0, show_default=True, help="Commits of so many days."
)
@_csv_option
@click.option("--html", "as_html", is_flag=True, help="One page, complete in itself.")
@_out_option
@app_option
@talks
async def compliance(
    client: Client,
    output: Output,
    *,
    within_days: float,
    latency_days: float,
    as_csv: bool,
    as_html: bool,
    path: Path | None,
    app: str | None,
) -> None:
    """Show how much of each group runs what its channel pointed to some days ago, or something newer."""
    if as_csv and as_html:
        raise click.UsageError("--csv and --html are two formats: say one")
    found = await client.get("/reports/compliance", within_days=within_days, latency_days=latency_days, application=app)
    if as_csv:
        _write(output, to_csv(rows_of_compliance(found), COMPLIANCE_COLUMNS), path)
    elif as_html:
        _write(output, to_html(found), path)
    elif output.as_json:
        output.json(found)
    else:
        total = found["total"]
        output.items(rows_of_compliance(found), _COLUMNS, empty="There is no group.")
        output.say(
            f"\n{percent(total['share'])} of {total['nodes']} nodes comply within {within_days:g} days; "
            f"{total['unseen']} were not seen since.\n"
        )
        output.items(found["groups"], _LATENCY, empty="")


@report.command("audit")
@click.option("--since", metavar="TIME", help="Like 2026-11-25 or 7d; else from the beginning.")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option("--by", metavar="NAME", help="Only what one operator did.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True)
@_csv_option
@_out_option
@talks
async def audit(
    client: Client,
    output: Output,
    *,
    since: str | None,
    until: str | None,
    by: str | None,
    limit: int,
    as_csv: bool,
    path: Path | None,
) -> None:
    """Show who changed what, and why, from the ledger."""
    asked = {"since": _moment("--since", since), "until": _moment("--until", until), "by": by}
    acts: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None and len(acts) < limit:
        page = await client.get("/reports/audit", **asked, after=after, limit=1_000)
        acts += page["items"]
        after = page["next"]
    acts = acts[:limit]
    if as_csv:
        _write(output, to_csv(acts, AUDIT_COLUMNS), path)
    else:
        output.items(acts, _ACTS, empty="Nobody changed anything in that time.")


def _write(output: Output, text: str, path: Path | None) -> None:
    if path is None:
        click.echo(text, nl=False)
        return
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as fault:
        raise Refused(f"{path} cannot be written: {fault.strerror}") from fault
    output.say(f"Written to {path}")
