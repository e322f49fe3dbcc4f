"""Loopback ports that stay the same across restarts."""

import random
import socket

import psutil

LOOPBACK = "127.0.0.1"
#: Below the ports that Linux (32768) and macOS (49152) hand to outgoing connections. A port from that range
#: could be taken by a client while its server restarts; a client that keeps dialling it could reach itself.
CHOICES = range(20_000, 32_000)


def choose_ports(count: int) -> list[int]:
    """Distinct loopback ports on which nothing listens now."""
    ports: list[int] = []
    for port in random.sample(CHOICES, len(CHOICES)):
        if is_free(port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"no {count} free ports between {CHOICES.start} and {CHOICES.stop}")


def is_free(port: int) -> bool:
    """Tell whether a server could listen on ``port`` of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        # What a server does too: a closed connection that lingers is no obstacle, a listener is.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((LOOPBACK, port))
            server.listen(1)
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Tell whether something accepts connections on ``port`` of the loopback address."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def name_holder(port: int) -> str:
    """Say who listens on ``port``, as far as this account may know."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return "another process"
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and port in connection.laddr and connection.pid:
            try:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.Error:
                break
    return "another process"
