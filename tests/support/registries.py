"""Real registries of a test's own: Debian's `docker-registry` as a child process."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.client import RegistryClient
from registry.errors import RegistryDenied, RegistryUnavailable
from registry.transport import Retries
from tests.support.waiting import wait_until

# htpasswd line of user `tester`, password `throw-away` (bcrypt, the only kind that registries take).
HTPASSWD = "tester:$2b$04$lTSQQ4tfLl0HLdkJrr3tPe8WHN2wjmGdVi.4ge6noxGZN/FVzccWW\n"


def program_or_skip() -> str:
    """Path of the registry program; skips the calling test when there is none."""
    found = shutil.which("docker-registry") or shutil.which("registry")
    if found is None:
        pytest.skip("no `docker-registry` or `registry` on the PATH")
    return found


@contextmanager
def running_registry(
    folder: Path, *, deletes: bool = True, htpasswd: bool = False, read_only: bool = False
) -> Iterator[str]:
    """A registry with its storage in `folder`; yields its base URL. Await `answering(url)` before use."""
    program = program_or_skip()
    port = _free_port()
    config = [
        "version: 0.1",
        "log: {level: error}",
        "storage:",
        f"  filesystem: {{rootdirectory: {folder / 'storage'}}}",
        f"  delete: {{enabled: {str(deletes).lower()}}}",
        f"  maintenance: {{readonly: {{enabled: {str(read_only).lower()}}}}}",
        f"http: {{addr: '127.0.0.1:{port}'}}",
    ]
    if htpasswd:
        (folder / "htpasswd").write_text(HTPASSWD)
        config.append(f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}")
    (folder / "config.yml").write_text("\n".join(config) + "\n")
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def answering(url: str) -> None:
    """Wait until a registry answers, also one that wants credentials."""

    async def answers() -> bool:
        try:
            await client.ping()
        except RegistryDenied:
            return True
        except RegistryUnavailable:
            return False
        return True

    async with RegistryClient(url, retries=Retries(attempts=1)) as client:
        await wait_until(answers, 15, what=f"an answer of the registry at {url}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
