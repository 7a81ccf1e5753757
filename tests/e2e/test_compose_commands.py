"""compose.yaml without an engine: what each container would run is run here as a plain process.

Its command, with its environment; only hosts, ports and directories are those of this machine.
"""

# ruff: noqa: S310  # a test holds nobody up; the URLs are our own
from __future__ import annotations

import asyncio
import os
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import yaml

from services.standalone.processes import LeashedProcess, free_ports, plain_environment
from services.standalone.settings import COMMON_ENVIRON, SERVICES

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = {service.name: service for service in SERVICES}
SECRETS = {"POSTGRES_PASSWORD": "pw-postgres", "RABBITMQ_PASSWORD": "pw-rabbitmq"}

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]


class VariableMissingError(Exception):
    """A ``${NAME:?...}`` that is not set."""


def interpolate(value: str, environ: dict[str, str]) -> str:
    """The part of compose's interpolation that the file uses: ``${A}``, ``${A:-default}`` and ``${A:?message}``."""

    def substitute(match: re.Match[str]) -> str:
        name, operator, word = match["name"], match["operator"], match["word"] or ""
        found = environ.get(name, "")
        if found:
            return found
        if operator == ":?":
            raise VariableMissingError(f"{name}: {word}")
        return word

    return re.sub(r"\$\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<word>[^}]*))?\}", substitute, value)


def environment(name: str) -> dict[str, str]:
    return COMPOSE["services"][name].get("environment", {})


def command(name: str) -> list[str]:
    """The container's command, with the programs of this virtualenv."""
    program, *arguments = COMPOSE["services"][name]["command"]
    if program == "python":
        return [sys.executable, *arguments]
    return [str(Path(sys.executable).parent / program), *arguments]


def test_every_service_has_a_container_and_the_variables_of_the_table() -> None:
    """What standalone starts and what compose.yaml starts differ only in where things are."""
    assert set(COMPOSE["services"]) == {"postgres", "rabbitmq", "migrate", *OURS}
    only_here = {"UNEVENTFUL_READY_FILE"}  # compose has health checks instead
    # Operators and containers reach distribution differently; `up` is told of issuers and proxies by `--set`.
    only_there = {"UNEVENTFUL_DISTRIBUTION_PUBLIC_URL", *COMPOSE["x-operators"], "UNEVENTFUL_TRUSTED_PROXIES"}
    for name, service in OURS.items():
        assert COMPOSE["services"][name]["command"] == ["python", "-m", f"services.{name}"]
        expected = {*COMMON_ENVIRON, *service.environ} - only_here
        assert set(environment(name)) - only_there == expected, name


def test_containers_are_closed_and_watched() -> None:
    """Health checks everywhere, no capabilities, read-only, data in volumes, published on loopback by default."""
    volumes = set(COMPOSE["volumes"])
    for name, container in COMPOSE["services"].items():
        assert "healthcheck" in container, name
        for volume in container.get("volumes", []):
            assert volume.split(":")[0] in volumes
        for port in container.get("ports", []):
            assert interpolate(port, {}).startswith("127.0.0.1:"), name
        if name in OURS:
            assert container["read_only"] is True
            assert container["cap_drop"] == ["ALL"]
            port = environment(name)["UNEVENTFUL_STATUS_PORT"]
            assert f"http://127.0.0.1:{port}/readyz" in container["healthcheck"]["test"][-1]
    assert not any("ports" in COMPOSE["services"][name] for name in ("postgres", "rabbitmq"))


def test_there_are_no_default_passwords() -> None:
    """Without the passwords set, compose refuses; with them, they are the only place that they come from."""
    for name in COMPOSE["services"]:
        values = environment(name)
        with_passwords = {key: value for key, value in values.items() if "PASSWORD" in value}
        for value in with_passwords.values():
            with pytest.raises(VariableMissingError, match="PASSWORD"):
                interpolate(value, {})
            assert any(secret in interpolate(value, SECRETS) for secret in SECRETS.values())
        for key, value in values.items():
            if "PASS" in key:
                assert value.startswith("${"), f"{name}: {key}"
    assert "POSTGRES_PASSWORD" in environment("postgres")
    assert "RABBITMQ_DEFAULT_PASS" in environment("rabbitmq")


def here(name: str, *, database_url: str, amqp_url: str, ports: dict[str, int], directory: Path) -> dict[str, str]:
    """The container's environment with this machine's hosts, ports and directories in it."""
    replaced = {"UNEVENTFUL_DATABASE_URL": database_url, "UNEVENTFUL_AMQP_URL": amqp_url}
    result = {}
    for key, template in environment(name).items():
        value = interpolate(template, SECRETS)
        if key in replaced:
            theirs = urlsplit(value)
            assert theirs.hostname in {"postgres", "rabbitmq"}
            assert theirs.password in SECRETS.values()
            value = replaced[key]
        elif key.endswith("HOST"):
            value = "127.0.0.1"
        elif key == "UNEVENTFUL_PORT":
            value = str(ports[name])
        elif key == "UNEVENTFUL_STATUS_PORT":
            value = str(ports[f"{name}_status"])
        elif value.startswith("/var/lib/uneventful/"):
            value = str(directory / value.removeprefix("/var/lib/uneventful/"))
        elif (url := urlsplit(value)).hostname in OURS:
            value = value.replace(url.netloc, f"127.0.0.1:{ports[str(url.hostname)]}")
        result[key] = value
    return result


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


async def test_every_containers_command_runs_and_gets_ready(empty_database_url, amqp_url, tmp_path: Path) -> None:
    """The migration first, then all services side by side, each ready by its own status port; SIGTERM ends them."""
    ports = dict(zip([*OURS, *(f"{name}_status" for name in OURS)], free_ports(2 * len(OURS)), strict=True))
    for volume in ("store", "spool"):
        (tmp_path / volume).mkdir()

    async def start(name: str) -> LeashedProcess:
        own = here(name, database_url=empty_database_url, amqp_url=amqp_url, ports=ports, directory=tmp_path)
        return await LeashedProcess.start(
            name,
            command(name),
            log=tmp_path / f"{name}.log",
            environ=plain_environment(os.environ) | own,
            cwd=tmp_path,
            grace_seconds=10,
        )

    migration = await start("migrate")
    assert await asyncio.wait_for(migration.wait(), 60) == 0, (tmp_path / "migrate.log").read_text()
    connection = await asyncpg.connect(empty_database_url)
    assert await connection.fetchval("SELECT count(*) FROM control.tokens") == 0
    await connection.close()

    running = {name: await start(name) for name in OURS}
    try:
        for name, process in running.items():
            deadline = time.monotonic() + 90
            while (answer := await asyncio.to_thread(get, f"http://127.0.0.1:{ports[f'{name}_status']}/readyz"))[
                0
            ] != 200:
                log = (tmp_path / f"{name}.log").read_text()[-3000:]
                assert process.running, f"{name} ended:\n{log}"
                assert time.monotonic() < deadline, f"{name} is not ready: {answer}\n{log}"
                await asyncio.sleep(0.1)
            status, _ = await asyncio.to_thread(get, f"http://127.0.0.1:{ports[f'{name}_status']}/metrics")
            assert status == 200
    finally:
        codes = await asyncio.gather(*(process.stop() for process in running.values()))
    assert dict(zip(running, codes, strict=True)) == dict.fromkeys(running, 0)
