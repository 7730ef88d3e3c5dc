"""The image's health check asks the doors of the container's role, and those alone."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEALTHCHECK = ROOT / "deploy" / "image" / "healthcheck"


@contextmanager
def door(status: int) -> Iterator[str]:
    """An HTTP server that answers `/readyz` so; yields its port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b"the reason")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield str(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def closed() -> str:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def healthy(folder: Path, command: str, **ports: str) -> tuple[bool, str]:
    cmdline = folder / "cmdline"
    cmdline.write_bytes(b"\0".join(word.encode() for word in command.split()) + b"\0")
    done = subprocess.run(
        [sys.executable, "-IS", HEALTHCHECK, cmdline],
        env={f"RQ_{name}_PORT": port for name, port in ports.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("role", "name"), [("receiver", "RECEIVER"), ("consumer", "CONSUMER_METRICS"), ("api", "API")]
)
def test_a_role_is_healthy_when_its_own_door_is_ready(tmp_path, closed, role, name):
    others = dict.fromkeys({"RECEIVER", "CONSUMER_METRICS", "API"} - {name}, closed)
    command = f"/sbin/docker-init -- registry-quota serve {role}"
    with door(200) as port:
        assert healthy(tmp_path, command, **others, **{name: port}) == (True, "")
    with door(503) as port:
        well, why = healthy(tmp_path, command, **others, **{name: port})
    assert not well
    assert "503 the reason" in why
    assert not healthy(tmp_path, command, **others, **{name: closed})[0]


def test_all_roles_in_one_process_need_all_doors(tmp_path, closed):
    with door(200) as port:
        ready = {"RECEIVER": port, "CONSUMER_METRICS": port, "API": port}
        assert healthy(tmp_path, "registry-quota serve all", **ready)[0]
        assert not healthy(tmp_path, "registry-quota serve all", **ready | {"API": closed})[0]


@pytest.mark.parametrize(
    "command", ["registry-quota migrate", "registry-quota alerts forward", "serve temporal-worker"]
)
def test_a_command_without_a_door_is_well_as_long_as_it_lives(tmp_path, command):
    assert healthy(tmp_path, command) == (True, "")


def test_the_engine_is_given_what_the_image_needs_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[lines.index("#") :].count("*") == 1, "everything is left out, then some let in"
    assert "!deploy/image/" in lines
    assert not {"!.git", "!tests/", "!.run/", "!.env"} & set(lines)
