"""The configuration that points a node here. Pure: values in, files out."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote


class NodeOs(enum.StrEnum):
    """What the node runs."""

    FLATCAR = "flatcar"
    FCOS = "fcos"
    DEBIAN = "debian"


@dataclass(frozen=True, slots=True)
class NodeFile:
    """A file on the node. ``content`` ends with a line feed."""

    path: str
    content: str


@dataclass(frozen=True, slots=True)
class Snippet:
    """What is to be on a node, and what is to know about it."""

    files: tuple[NodeFile, ...]
    notes: tuple[str, ...]


DRIVER: Final = "/etc/zincati/config.d/55-updates-driver.toml"
PLACE: Final = "/v1/update/"


def snippet(os: NodeOs, url: str, *, group: str | None, application: str) -> Snippet:
    """The files for a node.

    Args:
        os: What it runs.
        url: Where nodes reach update_check, a secret path included.
        group: What it is to tell as its group.
        application: Of our own agent and of Cincinnati.
    """
    base = url.rstrip("/")
    match os:
        case NodeOs.FLATCAR:
            return _flatcar(base, group)
        case NodeOs.FCOS:
            return _fcos(base, group, application)
        case NodeOs.DEBIAN:
            return _debian(base, group, application)


def _flatcar(base: str, group: str | None) -> Snippet:
    place = base + "/" if base.rpartition("/v1/update")[1] else base + PLACE
    lines = [f"SERVER={place}", *([] if group is None else [f"GROUP={group}"])]
    told = "stable" if group is None else group
    return Snippet(
        files=(NodeFile("/etc/flatcar/update.conf", _text(lines)),),
        notes=(
            f"The node tells GROUP as the fact `track`: a group has it by `--select track={told}`.",
            "A running node takes the change with `systemctl restart update-engine`.",
        ),
    )


def _fcos(base: str, group: str | None, application: str) -> Snippet:
    # What Omaha nodes are given holds the secret too; the graph has it behind the application.
    base, _, secret = base.partition("/v1/update")
    place = "/".join([base, "cincinnati", quote(application, safe=""), *filter(None, [secret.strip("/")])])
    lines = [
        "[cincinnati]",
        f"base_url = {_quoted(place)}",
        "",
        *([] if group is None else ["[identity]", f"group = {_quoted(group)}", ""]),
        "[updates]",
        'strategy = "immediate"',
        "# Reboots one at a time; not served by this version of Uneventful yet:",
        '# strategy = "fleet_lock"',
        f"# fleet_lock.base_url = {_quoted(base)}",
    ]
    return Snippet(
        files=(NodeFile(DRIVER, _text(lines)),),
        notes=(
            "zincati asks for /v1/graph below base_url; its nodes are known here by their node_uuid.",
            f"They are nodes of the application {application}, which base_url names.",
            "A running node takes the change with `systemctl restart zincati`.",
        ),
    )


def _debian(base: str, group: str | None, application: str) -> Snippet:
    agent = [
        "# For the package uneventful-agent.",
        f"application = {_quoted(application)}",
        f"check_url = {_quoted(base + '/v1/check')}",
        *([] if group is None else ["", "[facts]", f"group = {_quoted(group)}"]),
    ]
    unit = [
        "# For the package uneventful-agent: it waits for the network, and never for a login.",
        "[Unit]",
        "After=network-online.target",
        "Wants=network-online.target",
        "",
        "[Service]",
        "Environment=UNEVENTFUL_AGENT_CONFIG=/etc/uneventful/agent.toml",
        "Restart=always",
        "RestartSec=30",
    ]
    notes = ["Both files are for the package uneventful-agent, which is not part of this version yet."]
    if group is not None:
        notes.append(f"The node tells the fact `group`: a group has it by `--select group={group}`.")
    return Snippet(
        files=(
            NodeFile("/etc/uneventful/agent.toml", _text(agent)),
            NodeFile("/etc/systemd/system/uneventful-agent.service.d/10-server.conf", _text(unit)),
        ),
        notes=tuple(notes),
    )


def butane(os: NodeOs, files: Iterable[NodeFile]) -> str:
    """The same files as a Butane configuration, from which Ignition's JSON is made."""
    variant, version = ("flatcar", "1.0.0") if os is NodeOs.FLATCAR else ("fcos", "1.5.0")
    lines = [f"variant: {variant}", f"version: {version}", "storage:", "  files:"]
    for file in files:
        lines += [
            f"    - path: {file.path}",
            "      overwrite: true",
            "      mode: 0644",
            "      contents:",
            "        inline: |",
            *(f"          {line}".rstrip() for line in file.content.splitlines()),
        ]
    return _text(lines)


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
