"""The command line: arguments win over the environment, faults are named, other machines are refused."""

from __future__ import annotations

import pytest

from services.simulator.__main__ import main, read_arguments
from services.simulator.fates import FleetPlan
from services.simulator.fleet import Fleet
from services.simulator.wire import Arch
from shared.errors import InvalidInput, SettingsInvalid

URL = "http://127.0.0.1:1/v1/update/"


def test_arguments_win_over_the_environment():
    """Both name the same settings."""
    environ = {"UNEVENTFUL_SERVER": URL, "UNEVENTFUL_NODES": "7", "UNEVENTFUL_SEED": "3", "HOME": "/"}
    settings, as_json = read_arguments(["--nodes", "9", "--arch", "arm64", "--json", "--allow-remote"], environ)
    assert (settings.server, settings.nodes, settings.seed, settings.arch) == (URL, 9, 3, Arch.ARM64)
    assert settings.allow_remote
    assert as_json


def test_faults_are_named():
    """A missing server and a number out of range, at once."""
    with pytest.raises(SettingsInvalid) as caught:
        read_arguments(["--nodes", "0"], {})
    assert "UNEVENTFUL_SERVER" in str(caught.value)
    assert "UNEVENTFUL_NODES" in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--server", "http://update.example/v1/update/"],
        ["--server", URL, "--fates", "{"],
        ["--server", URL, "--nodes=-1"],
    ],
)
def test_unusable_settings_exit_with_2(arguments, capsys, monkeypatch):
    """With a message that says what to do, and nothing on stdout."""
    monkeypatch.delenv("UNEVENTFUL_SERVER", raising=False)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://update.example/",
        "ftp://127.0.0.1/",
        "disabled",
        "http://[::2]/",
        "http://127.0.0.1:x/",
    ],
)
def test_other_machines_are_refused(url):
    """Before anything is sent."""
    with pytest.raises(InvalidInput):
        Fleet(FleetPlan(), url, 1)


def test_loopback_by_any_name_is_allowed():
    """And other machines when it is said so."""
    for url in ("http://localhost:1/", "http://[::1]:1/", "http://127.0.0.7/"):
        Fleet(FleetPlan(), url, 1)
    Fleet(FleetPlan(), "http://update.example/", 1, allow_remote=True)


def test_a_fleet_needs_sensible_numbers():
    """No time factor of nought."""
    with pytest.raises(InvalidInput):
        Fleet(FleetPlan(), URL, 1, time_factor=0.0)
