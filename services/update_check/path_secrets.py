"""Secrets in the path of the Omaha endpoint: the fleet's from the settings, and those that were minted. Pure."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from shared.errors import NotFound, NotPermitted


class PathRefused(NotPermitted):
    """The secret in the path was in force once, or is another machine's or another application's."""

    code = "path_secret_refused"
    title = "Path secret refused"


class PathUnknown(NotFound):
    """There is no such path: without a secret where one is asked for, or with one that was never made."""

    code = "path_secret_unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSecret:
    """A secret that was minted.

    Attributes:
        machine_id: The only machine that it is for; None: any of the application.
    """

    application_id: uuid.UUID
    machine_id: str | None = None
    expires_at: datetime | None = None
    revoked: bool = False


def digest_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


class PathGuard:
    """Which paths serve.

    Args:
        fleet_secret: The secret of the settings, for every node; None: none.
        required: Whether a path without a secret serves nobody; a fleet's secret says so too.
    """

    def __init__(self, fleet_secret: str | None, *, required: bool) -> None:
        self._fleet = None if fleet_secret is None else digest_of(fleet_secret)
        self._required = required or fleet_secret is not None

    def check_bare(self) -> None:
        """Whether the path without a secret serves.

        Raises:
            PathUnknown: It does not.
        """
        if self._required:
            raise PathUnknown("this path takes a secret: post to /v1/update/<secret>, as `node snippet` shows it")

    def admit(self, given: str, minted: Mapping[bytes, PathSecret], now: datetime) -> PathSecret | None:
        """The minted secret that a request came with; None for the fleet's, which may speak for any node.

        Raises:
            PathUnknown: The path is none of ours.
            PathRefused: Its secret is not in force any more.
        """
        digest = digest_of(given)
        if digest == self._fleet:
            return None
        secret = minted.get(digest)
        if secret is None:
            raise PathUnknown("there is no such path secret: see `uneventful node token list`")
        if secret.revoked:
            raise PathRefused("this path secret was revoked: mint another one for the node")
        if secret.expires_at is not None and secret.expires_at <= now:
            raise PathRefused(f"this path secret expired at {secret.expires_at:%Y-%m-%d %H:%M} UTC: mint another one")
        return secret


def check_machine(secret: PathSecret, application_id: uuid.UUID | None, machine_id: str) -> None:
    """Whether a secret serves what one ``<app>`` is about; ``application_id`` is None where that is unknown.

    Raises:
        PathRefused: It is for another application or another machine.
    """
    if application_id is not None and secret.application_id != application_id:
        raise PathRefused("this path secret is of another application")
    if secret.machine_id is not None and secret.machine_id != machine_id:
        raise PathRefused("this path secret is of another machine: mint one for each")
