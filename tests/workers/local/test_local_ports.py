"""Loopback ports that stay the same across restarts."""

import os
import socket
from pathlib import Path

import pytest

from workers.local import ports


@pytest.fixture
def listener() -> socket.socket:
    """A socket that listens on some port of the loopback address."""
    server = socket.create_server((ports.LOOPBACK, 0))
    server.listen(1)
    return server


def test_chosen_ports_are_free_and_distinct() -> None:
    """Each chosen port is another one, and a server could listen there."""
    chosen = ports.choose_ports(5)

    assert len(set(chosen)) == 5
    assert all(ports.is_free(port) for port in chosen)


def test_no_outgoing_connection_takes_a_chosen_port() -> None:
    """Chosen ports lie outside the range from which the kernel takes those of outgoing connections."""
    setting = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not setting.exists():
        pytest.skip("only Linux says which ports it hands out")
    first, last = (int(word) for word in setting.read_text().split())
    if (first, last) != (32_768, 60_999):
        pytest.skip("this machine has a range of its own")

    assert not any(first <= port <= last for port in (ports.CHOICES.start, ports.CHOICES.stop - 1))


def test_a_busy_port_is_not_free(listener: socket.socket) -> None:
    """A port on which something listens is not free, accepts, and names its holder."""
    with listener:
        port = listener.getsockname()[1]

        assert not ports.is_free(port)
        assert ports.accepts(port)
        assert f"process {os.getpid()} (" in ports.name_holder(port)


def test_a_free_port_accepts_nothing() -> None:
    """Nobody answers on a free port, and nobody holds it."""
    (port,) = ports.choose_ports(1)

    assert not ports.accepts(port)
    assert ports.name_holder(port) == "another process"
