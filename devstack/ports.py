"""TCP ports: which are free, which are taken and by whom."""

import atexit
import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import psutil

from devstack.errors import StackError

LOOPBACK = "127.0.0.1"

_CANDIDATES = range(20_000, 32_000)
"""Below the range that the kernel hands out for outgoing connections, so that none of those takes
a port between the moment it was found free and the moment its part binds it."""


_handed_out: set[int] = set()
"""By `free_port` in this process: what has it may not have bound it yet."""

_claims: IO[bytes] | None = None
"""A file of this user's: who hands out a port locks its byte there, so that no other process of ours
hands it out as well before its part has bound it. The lock goes with the process."""


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on `host:port` now."""
    return _obstacle(port, host) is None


def is_forbidden(port: int, host: str = LOOPBACK) -> bool:
    """Whether this user may not listen on `host:port`, taken or not (below 1024 for most)."""
    return isinstance(_obstacle(port, host), PermissionError)


def _obstacle(port: int, host: str) -> OSError | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: ports in TIME_WAIT count as free, a listener on any address does not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
        return None


def free_port() -> int:
    """A port of the loopback address that nobody listens on. Raises StackError when none is left."""
    for _ in range(200):
        port = random.choice(_CANDIDATES)  # noqa: S311 - not a secret
        if port not in _handed_out and _claim(port) and is_free(port):
            _handed_out.add(port)
            return port
    raise StackError(
        f"found no free TCP port from {_CANDIDATES.start} to {_CANDIDATES.stop}; "
        "end programs that listen there"
    )


def _claim(port: int) -> bool:
    global _claims  # noqa: PLW0603 - opened once, and as long as the process lives
    if _claims is None:
        path = Path(tempfile.gettempdir()) / f"registry-quota-ports-{os.getuid()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        _claims = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
        atexit.register(_claims.close)
    try:
        fcntl.lockf(_claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    return True


def holder(port: int) -> str | None:
    """Name and pid of the process that listens on `port`, None when it cannot be known."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):  # macOS asks for root
        return None
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        if listens and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()}, pid {connection.pid}"
            except psutil.Error:
                return f"pid {connection.pid}"
    return None


def require_free(wanted: Mapping[str, int]) -> None:
    """Check the ports by the name of the variable that moves each.

    Raises StackError naming every port that cannot be had, its variable and who holds it where that
    is known.
    """
    taken = []
    for variable, port in wanted.items():
        if is_forbidden(port):
            taken.append(f"port {port} is only for root ({variable} moves it)")
        elif not is_free(port):
            by = holder(port)
            taken.append(f"port {port} is taken{f' by {by}' if by else ''} ({variable} moves it)")
    if taken:
        use_it = (
            "; to use a registry that listens there, set RQ_EXTERNAL_REGISTRY_URL"
            if any("RQ_REGISTRY_PORT" in each for each in taken)
            else ""
        )
        raise StackError(
            f"{', '.join(taken)}: end what holds it or set the variable to a free port{use_it}"
        )
