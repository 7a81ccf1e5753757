"""What standalone starts: ports, environments, and the words for people."""

from __future__ import annotations

import pytest

from services.standalone.processes import describe_exit, plain_environment
from services.standalone.settings import SERVICES, Bus, Service, Settings, default_data_directory
from services.standalone.supervisor import PostgresReady, RabbitReady, Ready, ServiceReady, environ_for, ports_for
from services.standalone.up import parse_extra, summary
from shared.errors import InvalidInput
from shared.settings import load


def ready(*, rabbitmq: RabbitReady | None = None) -> Ready:
    return Ready(
        pid=1,
        services={
            service.name: ServiceReady(
                pid=2, url=f"http://127.0.0.1:87{service.offset:02}", status_url="http://127.0.0.1:9"
            )
            for service in SERVICES
        },
        postgres=PostgresReady(pid=3, version="18.6", url_file="/d/run/database.url"),
        rabbitmq=rabbitmq,
        bus=Bus.NONE if rabbitmq is None else Bus.RABBITMQ,
        token_file="/d/token",
        data="/d",
    )


def test_ports_follow_from_the_base_port_and_differ() -> None:
    """A base port gives the same ports every time; no two programs share one."""
    ports = ports_for(Settings(base_port=8700))
    assert ports["control"] == 8700
    assert ports["rollback_analysis"] == 8705
    assert ports["control_status"] == 8710
    assert len(set(ports.values())) == len(ports)
    free = ports_for(Settings(base_port=0))
    assert set(free) == set(ports)
    assert len(set(free.values())) == len(free)


def test_a_child_gets_its_own_variables_only() -> None:
    """What is empty is not set, what is told goes first, and nothing of another service comes along."""
    service = Service("telemetry", 3, {"UNEVENTFUL_STORE_DIR": "{data}/store"})
    values = {
        "data": "/d",
        "database_url": "postgresql://x",
        "amqp_url": "",
        "log_level": "info",
        "otlp_endpoint": "",
        "telemetry_port": "1",
        "telemetry_status_port": "2",
        "telemetry_ready_file": "/d/run/telemetry.json",
        "control_port": "9",
    }
    environ = environ_for(service, values, {"UNEVENTFUL_LOG_LEVEL": "debug"})
    assert environ["UNEVENTFUL_PORT"] == "1"
    assert environ["UNEVENTFUL_STATUS_PORT"] == "2"
    assert environ["UNEVENTFUL_STORE_DIR"] == "/d/store"
    assert environ["UNEVENTFUL_LOG_LEVEL"] == "debug"
    assert "UNEVENTFUL_AMQP_URL" not in environ
    assert "9" not in environ.values()


def test_inherited_settings_stay_outside() -> None:
    """A child would refuse variables that are not its own."""
    assert plain_environment({"PATH": "/bin", "UNEVENTFUL_DATA": "/d"}) == {"PATH": "/bin"}


def test_assignments_are_read_per_service() -> None:
    """Values may hold equals signs and braces."""
    assert parse_extra(("telemetry.pool_size=3", "control.X=a={b}")) == {
        "telemetry": {"UNEVENTFUL_POOL_SIZE": "3"},
        "control": {"UNEVENTFUL_X": "a={{b}}"},
    }


@pytest.mark.parametrize("wrong", ["telemetry.X", "telemetry=1", "nobody.X=1", "telemetry.=1", ""])
def test_wrong_assignments_are_refused(wrong: str) -> None:
    """The message shows what was written and which services there are."""
    with pytest.raises(InvalidInput, match="update_check"):
        parse_extra((wrong,))


def test_the_summary_shows_what_was_chosen() -> None:
    """URLs, versions and files; with or without a broker."""
    without = summary(ready())
    assert "http://127.0.0.1:8701/v1/update/" in without
    assert "none; services follow the ledger" in without
    assert "/d/token" in without
    broker = RabbitReady(pid=4, version="3.10.8", url_file="/d/run/amqp.url")
    assert "RabbitMQ 3.10.8" in summary(ready(rabbitmq=broker))


def test_settings_come_from_the_environment() -> None:
    """By the same rules as a service's."""
    settings = load(Settings, {"UNEVENTFUL_DATA": "/d", "UNEVENTFUL_BUS": "none", "UNEVENTFUL_BASE_PORT": "0"})
    assert str(settings.data) == "/d"
    assert settings.bus is Bus.NONE
    assert settings.base_port == 0


def test_the_default_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root has a place that servers under other users can reach."""
    assert str(default_data_directory({"XDG_STATE_HOME": "/s"})) == "/s/uneventful"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert str(default_data_directory({})) == "/var/lib/uneventful"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert str(default_data_directory({})).endswith("/.local/state/uneventful")


def test_exits_are_said_in_words() -> None:
    """Signals by name, statuses by number."""
    assert describe_exit(137) == "was ended by SIGKILL"
    assert describe_exit(3) == "ended with status 3"
    assert describe_exit(255) == "ended with status 255"
