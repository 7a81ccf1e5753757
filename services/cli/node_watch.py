"""``uneventful node watch`` and ``uneventful node snippet``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

import click
from rich.text import Text

from services.cli.client import Client
from services.cli.command import app_option, json_option, talks
from services.cli.errors import Refused
from services.cli.output import Output
from services.cli.snippets import NodeOs, butane, snippet
from services.cli.target import Options, running_service
from services.cli.text import cell

DAY_S: Final = 3_600.0
"""The longest that one request watches; a longer watch is several."""
_WIDTHS: Final = {"at": 19, "dialect": 10, "address": 15, "application": 12, "machine_id": 32, "version": 14}
_LAST: Final = ("group_name", "answer", "detail")


def poll_line(poll: Mapping[str, Any]) -> str:
    """One poll as a line of a table."""
    cells = [cell(poll[name])[:width].ljust(width) for name, width in _WIDTHS.items()]
    detail = f" ({cell(poll['detail'])})" if poll["detail"] else ""
    return f"{' '.join(cells)} {cell(poll['group_name'])}: {cell(poll['answer'])}{detail}"


def _heading() -> str:
    return " ".join(name.replace("_id", "").ljust(width) for name, width in _WIDTHS.items()) + " group: answer"


@click.command("watch")
@app_option
@click.option("--machine", metavar="ID", help="Only this machine's polls.")
@click.option("--answer", metavar="WORD", help="Only polls with this answer, like granted or quarantined.")
@click.option("--rejected", is_flag=True, help="Only polls that were not judged: unknown application, malformed, ...")
@click.option(
    "--for", "seconds", type=click.FloatRange(0, min_open=True), help="End after so many seconds; else on Ctrl-C."
)
@talks
async def watch(
    client: Client,
    output: Output,
    *,
    app: str | None,
    machine: str | None,
    answer: str | None,
    rejected: bool,
    seconds: float | None,
) -> None:
    """Show polls as they come in, with what they are answered; those too that were not understood."""
    if not output.as_json:
        output.console.print(Text(_heading(), style="bold"), soft_wrap=True)
    left = seconds
    try:
        while left is None or left > 0:
            for_s = DAY_S if left is None else min(DAY_S, left)
            stream = client.lines(
                "/polls/stream",
                seconds=for_s,
                application=app,
                machine=machine,
                answer=answer,
                rejected=True if rejected else None,
            )
            async with aclosing(stream) as polls:
                async for poll in polls:
                    if output.as_json:
                        output.line(poll)
                    else:
                        output.console.print(Text(poll_line(poll)), soft_wrap=True)
            left = None if left is None else left - for_s
    except asyncio.CancelledError:
        # Ctrl-C is how a watch ends; asyncio.run takes a task that returns as done.
        return


@click.command("snippet")
@click.option(
    "--os", "node_os", type=click.Choice([os.value for os in NodeOs]), required=True, help="What the node runs."
)
@click.option("--url", metavar="URL", help="Where nodes reach update_check; else that of a running `up`.")
@click.option("--group", metavar="G", help="What the node tells as its group.")
@click.option("--app", default="flatcar", show_default=True, help="The application, where the node must name it.")
@click.option("--butane", "as_butane", is_flag=True, help="Print Butane for the first boot instead.")
@json_option
@click.pass_context
def show_snippet(
    context: click.Context,
    *,
    node_os: str,
    url: str | None,
    group: str | None,
    app: str,
    as_butane: bool,
    as_json: bool,
) -> None:
    """Print the configuration that points a node here."""
    options: Options = context.obj
    place = url or running_service(options, "update_check")
    if place is None:
        raise Refused("nothing runs here: say by --url where nodes reach update_check")
    if not place.startswith(("http://", "https://")) or any(character in place for character in "\n\r\t \"'\\"):
        raise click.BadParameter("give an http or https URL", param_hint="--url")
    if group is not None and (not group.isprintable() or any(character in group for character in " \"'\\")):
        raise click.BadParameter("a group that nodes tell has no spaces or quotes", param_hint="--group")
    kind = NodeOs(node_os)
    made = snippet(kind, place, group=group, application=app)
    output = Output(as_json=as_json or options.as_json)
    if output.as_json:
        output.json(
            {
                "files": [{"path": file.path, "content": file.content} for file in made.files],
                "butane": butane(kind, made.files),
                "notes": made.notes,
            }
        )
        return
    if as_butane:
        click.echo(butane(kind, made.files), nl=False)
    else:
        click.echo("\n".join(f"# {file.path}\n{file.content}" for file in made.files), nl=False)
    for note in made.notes:
        click.echo(note, err=True)
