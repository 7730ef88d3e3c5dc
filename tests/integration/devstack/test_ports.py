"""Ports that cannot be had are told before anything starts, with what is in the way."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devstack import ports
from devstack.errors import StackError
from devstack.ports import LOOPBACK, free_port, require_free

_NOBODY = 65534
_FIRST_FOR_ALL = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who is not root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_taken_port_is_told_with_its_holder_and_its_variable():
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(StackError) as told:
            require_free({"RQ_API_PORT": port, "RQ_KAFKA_PORT": free_port()})
    assert f"port {port} is taken by " in str(told.value)
    assert f"pid {os.getpid()} (RQ_API_PORT moves it)" in str(told.value)
    assert "RQ_KAFKA_PORT" not in str(told.value)


def test_a_port_that_only_root_may_have_is_not_called_taken():
    if int(_FIRST_FOR_ALL.read_text()) <= 81:
        pytest.skip("every user may listen on every port here")
    with unprivileged(), pytest.raises(StackError) as told:
        require_free({"RQ_API_PORT": 81})
    assert str(told.value).startswith("port 81 is only for root (RQ_API_PORT moves it)")


def test_two_processes_are_never_handed_the_same_port(monkeypatch):
    """What has it may bind it seconds later: until then it looks free to everybody."""
    few = range(31_000, 31_020)
    code = (
        "from devstack import ports; import sys\n"
        f"ports._CANDIDATES = range({few.start}, {few.stop})\n"
        "print(*(ports.free_port() for _ in range(8)), flush=True)\n"
        "sys.stdin.read()"
    )
    monkeypatch.setattr(ports, "_CANDIDATES", few)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        ours = {ports.free_port() for _ in range(8)}
        other.communicate("")
    assert len(theirs) == len(ours) == 8
    assert not theirs & ours
