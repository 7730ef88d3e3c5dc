"""Real registries of a test's own, as child processes with settings that a stack's has not."""

import asyncio
import functools
import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devstack.config import RegistryVersion, default_cache_dir
from devstack.errors import AbsentError
from devstack.ports import free_port
from devstack.registry import find_registry
from registry.client import RegistryClient
from registry.errors import RegistryDenied, RegistryUnavailable
from registry.transport import Retries
from tests.support.certificates import Pair
from tests.support.waiting import wait_until

# htpasswd line of user `tester`, password `throw-away` (bcrypt, the only kind that registries take).
HTPASSWD = "tester:$2b$04$lTSQQ4tfLl0HLdkJrr3tPe8WHN2wjmGdVi.4ge6noxGZN/FVzccWW\n"


@functools.cache
def _program(version: RegistryVersion) -> Path:
    """The registry that `make run` would take; fetched or built once if the machine has none.

    Raises AbsentError when none can be had. In a thread: callers have a running event loop.
    """
    search = find_registry(version, cache_dir=default_cache_dir(os.environ), say=print)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, search).result().path


def program_or_skip(version: RegistryVersion = "any") -> Path:
    """Path of a registry's program; skips the calling test where none can be had."""
    try:
        return _program(version)
    except AbsentError as error:
        pytest.skip(str(error))


@contextmanager
def running_registry(
    folder: Path,
    *,
    deletes: bool = True,
    htpasswd: bool = False,
    read_only: bool = False,
    cache: bool = False,
    tls: Pair | None = None,
    endpoint: dict[str, Any] | None = None,
    trusts: Path | None = None,
    storage: Path | None = None,
    version: RegistryVersion = "any",
) -> Iterator[str]:
    """A registry with its storage in `folder`; yields its base URL. Await `answering(url)` before use.

    `endpoint` hears its notifications, without references; `trusts` is whom it believes behind https;
    `storage` is another registry's folder.
    """
    program = program_or_skip(version)
    port = free_port()
    config = [
        "version: 0.1",
        "log: {level: error}",
        "storage:",
        f"  filesystem: {{rootdirectory: {storage or folder / 'storage'}}}",
        f"  delete: {{enabled: {str(deletes).lower()}}}",
        f"  maintenance: {{readonly: {{enabled: {str(read_only).lower()}}}}}",
        *(["  cache: {blobdescriptor: inmemory}"] if cache else []),
        f"http: {{addr: '127.0.0.1:{port}'{_served_with(tls)}}}",
    ]
    if endpoint is not None:
        config.append(f"notifications: {{endpoints: [{json.dumps(endpoint)}]}}")
    if htpasswd:
        (folder / "htpasswd").write_text(HTPASSWD)
        config.append(f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}")
    trusting = {} if trusts is None else {"SSL_CERT_FILE": str(trusts)}
    with running_configured(folder, "\n".join(config) + "\n", program=program, **trusting):
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"


@contextmanager
def running_configured(
    folder: Path, configuration: str, *, program: Path, **environment: str
) -> Iterator[None]:
    """A registry with this configuration file; what it says goes to `registry.log` in `folder`."""
    (folder / "config.yml").write_text(configuration)
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")],
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none", **environment},
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def registry_configured(folder: Path, version: RegistryVersion, **sections: Any) -> Iterator[str]:
    """A registry of some version with these sections of its configuration; yields its base URL.

    Deletes are enabled; `storage` and `http` are added to. Await `answering(url)` before use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    http = {"addr": f"127.0.0.1:{port}", **sections.pop("http", {})}
    storage = {
        "filesystem": {"rootdirectory": str(folder / "storage")},
        "delete": {"enabled": True},
        **sections.pop("storage", {}),
    }
    document = {"version": "0.1", "log": {"level": "error"}, "storage": storage, "http": http}
    program = program_or_skip(version)
    # JSON is YAML.
    with running_configured(folder, json.dumps(document | sections), program=program):
        yield f"http://127.0.0.1:{port}{http.get('prefix', '')}"


def _served_with(tls: Pair | None) -> str:
    return "" if tls is None else f", tls: {{certificate: {tls.certificate}, key: {tls.key}}}"


async def answering(url: str, *, tls: ssl.SSLContext | None = None) -> None:
    """Wait until a registry answers, also one that wants credentials."""

    async def answers() -> bool:
        try:
            await client.ping()
        except RegistryDenied:
            return True
        except RegistryUnavailable:
            return False
        return True

    async with RegistryClient(url, retries=Retries(attempts=1), tls=tls) as client:
        await wait_until(answers, 15, what=f"an answer of the registry at {url}")
