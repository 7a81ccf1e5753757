"""``uneventful completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

WHERE = {
    "bash": 'eval "$(uneventful completion bash)"',
    "zsh": 'eval "$(uneventful completion zsh)"',
    "fish": "uneventful completion fish | source",
}


@click.command(epilog="  ".join(WHERE.values()))
@click.argument("shell", type=click.Choice(sorted(WHERE)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell, to be evaluated in its start file."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  # click knows all that the argument allows
    script = kind(context.find_root().command, {}, "uneventful", "_UNEVENTFUL_COMPLETE")
    click.echo(script.source_template % script.source_vars())
