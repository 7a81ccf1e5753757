"""``uneventful``: operate a fleet from a terminal."""

from __future__ import annotations

from pathlib import Path

import click
import stamina

from services.cli.command import LazyGroup
from services.cli.target import Options

LAZY = {
    "app": "services.cli.applications:app",
    "approval": "services.cli.approvals:approval",
    "apply": "services.cli.fleet:apply",
    "backup": "services.cli.backup:backup",
    "changeset": "services.cli.changesets:changeset",
    "channel": "services.cli.channels:channel",
    "completion": "services.cli.completion:completion",
    "demo": "services.cli.demo:command",
    "event": "services.cli.events:event",
    "export": "services.cli.fleet:export",
    "group": "services.cli.groups:group",
    "hold": "services.cli.holds:hold",
    "halt": "services.cli.gates:halt",
    "import": "services.cli.nebraska:import_from",
    "keys": "services.cli.keys:keys",
    "ledger": "services.cli.events:ledger",
    "migrate": "services.cli.migrate:migrate_database",
    "node": "services.cli.nodes:node",
    "report": "services.cli.reports:report",
    "quarantine": "services.cli.quarantines:quarantine",
    "rollout": "services.cli.rollouts:rollout",
    "status": "services.cli.status:status",
    "token": "services.cli.tokens:token",
    "unhalt": "services.cli.gates:unhalt",
    "up": "services.cli.up:up",
}


@click.group(
    cls=LazyGroup,
    lazy=LAZY,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit status: 0 done, 1 refused, 2 wrongly used, 3 the server does not answer, 4 somebody has to approve.",
)
@click.option("--url", envvar="UNEVENTFUL_URL", metavar="URL", help="Control's URL; else a running `up` is looked for.")
@click.option(
    "--token-file",
    envvar="UNEVENTFUL_TOKEN_FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file that holds your token.",
)
@click.option(
    "--distribution-url",
    envvar="UNEVENTFUL_DISTRIBUTION_URL",
    metavar="URL",
    help="Where payloads are uploaded; else control says.",
)
@click.option(
    "--ready-file", type=click.Path(dir_okay=False, path_type=Path), help="The ready file of the `up` to talk to."
)
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="The data directory of the `up` to talk to."
)
@click.option("--approval", metavar="ID", help="The approval that allows what needs four eyes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.version_option(package_name="uneventful", prog_name="uneventful")
@click.pass_context
def cli(
    context: click.Context,
    *,
    url: str | None,
    token_file: Path | None,
    distribution_url: str | None,
    ready_file: Path | None,
    data: Path | None,
    approval: str | None,
    as_json: bool,
) -> None:
    """Roll OS releases out to a fleet, and have them stopped by themselves when nodes start to roll back."""
    context.obj = Options(
        url=url,
        token_file=token_file,
        distribution_url=distribution_url,
        ready_file=ready_file,
        data=data,
        as_json=as_json,
        approval=approval,
    )


def main() -> None:
    """The command, as installed."""
    # Retries are silent: what comes of them is said once, at the end.
    stamina.instrumentation.set_on_retry_hooks([])
    cli(prog_name="uneventful")


if __name__ == "__main__":
    main()
