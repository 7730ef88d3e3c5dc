"""Ports that cannot be had are told before anything starts, with what is in the way."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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
