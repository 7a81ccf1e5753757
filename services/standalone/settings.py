"""What standalone is told, and the table of what it starts."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec

from shared.settings import LogLevel


class Bus(enum.StrEnum):
    """Whether there is a broker."""

    AUTO = "auto"
    RABBITMQ = "rabbitmq"
    NONE = "none"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of ``uneventful up``, from ``UNEVENTFUL_*``; its options go before them."""

    data: Annotated[
        Path | None,
        msgspec.Meta(
            description="Directory for everything that is kept; not set: $XDG_STATE_HOME/uneventful or "
            "~/.local/state/uneventful, for root /var/lib/uneventful."
        ),
    ] = None
    base_port: Annotated[
        int, msgspec.Meta(ge=0, le=65_000, description="The first port; 0 takes free ones for everything.")
    ] = 8700
    bus: Annotated[
        Bus,
        msgspec.Meta(description="auto: a private RabbitMQ node if one is installed, else none."),
    ] = Bus.AUTO
    ready_file: Annotated[
        Path | None, msgspec.Meta(description="A file that gets what was started, as JSON, once all of it serves.")
    ] = None
    postgres_bin: Annotated[
        Path | None, msgspec.Meta(description="PostgreSQL's bin directory; not set: the wheel's, else the system's.")
    ] = None
    rabbitmq_home: Annotated[
        Path | None, msgspec.Meta(description="A rabbitmq_server-* directory; not set: the system's.")
    ] = None
    log_level: Annotated[LogLevel, msgspec.Meta(description="How much the services log.")] = LogLevel.INFO
    otlp_endpoint: Annotated[
        str | None, msgspec.Meta(description="OTLP over HTTP for all services, as http://host:4318.")
    ] = None


def default_data_directory(environ: Mapping[str, str]) -> Path:
    """Where data go when nobody says: the state directory of the XDG base directory specification.

    Root has /var/lib/uneventful instead, because servers run under users of their own, to whom /root is closed.
    """
    if configured := environ.get("XDG_STATE_HOME"):
        return Path(configured) / "uneventful"
    if os.geteuid() == 0:
        return Path("/var/lib/uneventful")
    return Path.home() / ".local" / "state" / "uneventful"


@dataclass(frozen=True, slots=True)
class Service:
    """How a service is started.

    Attributes:
        name: ``python -m services.<name>`` runs it.
        offset: Its port is the base port plus this; its status port ``STATUS_OFFSET`` higher.
        environ: Variables besides those that every service gets; ``{data}`` is the data directory and
            ``{<service>_url}`` the address of another service.
        last: Stopped after the others, because it finishes what they began.
    """

    name: str
    offset: int
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    last: bool = False


STATUS_OFFSET = 10
POSTGRES_OFFSET = 20
AMQP_OFFSET = 21
DIST_OFFSET = 22
EPMD_OFFSET = 23

COMMON_ENVIRON: Mapping[str, str] = MappingProxyType(
    {
        "UNEVENTFUL_DATABASE_URL": "{database_url}",
        "UNEVENTFUL_AMQP_URL": "{amqp_url}",
        "UNEVENTFUL_HOST": "127.0.0.1",
        "UNEVENTFUL_PORT": "{port}",
        "UNEVENTFUL_STATUS_HOST": "127.0.0.1",
        "UNEVENTFUL_STATUS_PORT": "{status_port}",
        "UNEVENTFUL_READY_FILE": "{ready_file}",
        "UNEVENTFUL_SHUTDOWN_SECONDS": "2.3",
        "UNEVENTFUL_LOG_LEVEL": "{log_level}",
        "UNEVENTFUL_OTLP_ENDPOINT": "{otlp_endpoint}",
    }
)
"""What every service gets; a variable whose value comes out empty counts as not set."""

SERVICES: tuple[Service, ...] = (
    Service(
        "control",
        0,
        MappingProxyType({"UNEVENTFUL_DISTRIBUTION_URL": "{distribution_url}", "UNEVENTFUL_KEY_DIR": "{data}/keys"}),
    ),
    Service(
        "update_check",
        1,
        MappingProxyType(
            {
                "UNEVENTFUL_DISTRIBUTION_URL": "{distribution_url}",
                "UNEVENTFUL_SPOOL_DIR": "{data}/spool/update_check",
            }
        ),
    ),
    Service("distribution", 2, MappingProxyType({"UNEVENTFUL_STORE_DIR": "{data}/store"})),
    Service("telemetry", 3),
    Service("event_log", 4, last=True),
    Service("rollback_analysis", 5, last=True),
)
"""Every service that a complete Uneventful runs; compose.yaml is tested against this table."""
