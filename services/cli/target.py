"""Where the server is and which token to show: from options, or from the ready file of a running ``uneventful up``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from services.cli.errors import Unreachable
from services.standalone.settings import default_data_directory

READY_NAME: Final = "ready.json"


class ServiceAt(msgspec.Struct, frozen=True):
    """Where one service is."""

    url: str


class Ready(msgspec.Struct, frozen=True):
    """What ``uneventful up`` writes once everything serves."""

    services: Annotated[dict[str, ServiceAt], msgspec.Meta(max_length=100)]
    token_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The global options, as given."""

    url: str | None = None
    distribution_url: str | None = None
    token_file: Path | None = None
    ready_file: Path | None = None
    data: Path | None = None
    as_json: bool = False
    approval: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What to talk to.

    Attributes:
        url: Control's base URL.
        token: The operator's token; None where no file was found: then the server will refuse.
        distribution_url: Where payloads are uploaded; None asks control.
        approval: The approval that allows what is asked for, by its id.
    """

    url: str
    token: str | None
    distribution_url: str | None
    approval: str | None = None


def ready_path(options: Options) -> Path:
    """The ready file that the options mean."""
    if options.ready_file is not None:
        return options.ready_file
    return (options.data if options.data is not None else default_data_directory(os.environ)) / READY_NAME


def find_target(options: Options) -> Target:
    """Put options and the ready file together; options win.

    Raises:
        Unreachable: Neither says where control is, or a file that was named cannot be read.
    """
    path = ready_path(options)
    named = options.ready_file is not None or options.data is not None
    ready = None
    if named or options.url is None:
        ready = _read_ready(path)
        if ready is None and (named or options.url is None):
            raise Unreachable(
                f"there is no ready file at {path}, so nothing seems to run",
                hint="Start everything with `uneventful up`, or name a server by --url or UNEVENTFUL_URL.",
            )
    url = options.url or _url_of(ready, "control")
    if url is None:
        raise Unreachable(f"{path} does not say where control is", hint="Name it by --url.")
    token_file = options.token_file
    # The token of the `up` on this machine is for nobody else.
    of_ready = ready is not None and url.rstrip("/") == (_url_of(ready, "control") or "").rstrip("/")
    if token_file is None and ready is not None and ready.token_file is not None and of_ready:
        token_file = path.parent / ready.token_file
    return Target(
        url=url.rstrip("/"),
        token=None if token_file is None else _read_token(token_file),
        distribution_url=options.distribution_url or (None if options.url else _url_of(ready, "distribution")),
        approval=options.approval,
    )


def running_service(options: Options, service: str) -> str | None:
    """Where the running `up` that the options mean has a service; None where there is none."""
    return _url_of(_read_ready(ready_path(options)), service)


def _url_of(ready: Ready | None, service: str) -> str | None:
    return ready.services[service].url if ready is not None and service in ready.services else None


def _read_ready(path: Path) -> Ready | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ready)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError) as fault:
        raise Unreachable(f"the ready file {path} cannot be read: {fault}") from fault


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(4096).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as fault:
        raise Unreachable(f"the token file {path} cannot be read: {fault}") from fault
    if not text or any(character.isspace() for character in text):
        raise Unreachable(f"the token file {path} does not hold one token")
    return text
