"""Tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.text import cell

Shown = Callable[[Mapping[str, Any]], Any]


class Output:
    """Where a command says what it found.

    Args:
        as_json: JSON on stdout, one document, instead of tables.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        # A pipe has no width: nothing is cut then.
        self.console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)

    def json(self, value: Any) -> None:
        """One JSON document, indented on a terminal."""
        option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
        click.echo(orjson.dumps(value, option=option).decode())

    def line(self, value: Any) -> None:
        """One JSON document on one line."""
        click.echo(orjson.dumps(value).decode())

    def say(self, text: str) -> None:
        """A line for people."""
        self.console.print(Text(text))

    def items(self, items: Sequence[Mapping[str, Any]], columns: Mapping[str, str | Shown], *, empty: str) -> None:
        """A list: each column is a field's name, or what is computed from the item."""
        if self.as_json:
            self.json({"items": list(items)})
            return
        if not items:
            self.say(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in columns:
            table.add_column(title, overflow="fold")
        for item in items:
            table.add_row(*(Text(cell(_pick(item, of))) for of in columns.values()))
        self.console.print(table)

    def item(self, item: Mapping[str, Any], fields: Mapping[str, str | Shown]) -> None:
        """One thing, a line per field."""
        if self.as_json:
            self.json(item)
            return
        self.console.print(pairs((title, cell(_pick(item, of))) for title, of in fields.items()))


def pairs(lines: Iterable[tuple[str, str]]) -> Table:
    """Names and values, aligned."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, Text(value))
    return table


def _pick(item: Mapping[str, Any], of: str | Shown) -> Any:
    if not isinstance(of, str):
        return of(item)
    value: Any = item
    for part in of.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
