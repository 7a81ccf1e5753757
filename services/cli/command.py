"""What all commands have in common: ``--json``, a client, and how they end."""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate, ParamSpec

import click

from services.cli.client import Client
from services.cli.errors import Ended
from services.cli.output import Output
from services.cli.target import Options, Target, find_target

P = ParamSpec("P")

reason_option = click.option("--reason", required=True, help="Why; stands in the event.")
app_option = click.option("--app", metavar="APP", help="The application, by name or id.")
arch_option = click.option("--arch", metavar="ARCH", help="The arch, where a name has several.")


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--json``, which the root has too."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def talks(function: Callable[Concatenate[Client, Output, P], Awaitable[None]]) -> Callable[..., None]:
    """Makes a command of an async function that gets a client and an output first."""

    @json_option
    @click.pass_context
    @functools.wraps(function)
    def run(context: click.Context, /, *args: P.args, **kwargs: P.kwargs) -> None:
        options: Options = context.obj
        as_json = bool(kwargs.pop("as_json", False)) or options.as_json
        output = Output(as_json=as_json)

        async def talk(target: Target) -> None:
            async with Client(target) as client:
                await function(client, output, *args, **kwargs)

        try:
            asyncio.run(talk(find_target(options)))
        except Ended as end:
            end.as_json = as_json
            raise

    # click gives the options by name; the first two parameters are ours.
    return run


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for, so that the command starts quickly.

    Args:
        lazy: Where each command is, as ``module:attribute``.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})
        self._missing: dict[str, str] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; None where there is none, or where its part is not installed."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module_name, _, attribute = self._lazy[cmd_name].partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as missing:
            self._missing[cmd_name] = missing.name or module_name
            return None
        command: click.Command = getattr(module, attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was asked for.

        Raises:
            ClickException: It is one of ours, and a package that it needs is not installed.
        """
        if args and args[0] in self._lazy and self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise click.ClickException(
                f"`{args[0]}` needs {self._missing[args[0]]}, which is not installed here: "
                "install uneventful with the extras server and embedded"
            )
        return super().resolve_command(ctx, args)
