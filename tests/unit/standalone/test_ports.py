"""Which ports are chosen for servers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from services.standalone import processes
from services.standalone.errors import StartFailed
from services.standalone.processes import free_ports, port_is_free


def test_ports_are_not_those_of_outgoing_connections():
    """A connection that somebody makes meanwhile must not take one of them away."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())

    ports = free_ports(50)

    assert len(set(ports)) == 50
    assert first <= 1_024 or not any(first <= port <= last for port in ports)
    assert all(port_is_free(port) for port in ports)


def test_a_taken_port_is_not_chosen(monkeypatch):
    """Where only taken ones are left, it says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(processes, "_PORTS", range(port, port + 1))
        with pytest.raises(StartFailed, match=f"free on 127.0.0.1 from {port} to {port}"):
            free_ports(1)
