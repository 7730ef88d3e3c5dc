"""A real registry (CNCF Distribution 2.8 or 3): where it comes from and how it is configured."""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from devstack.cache import built_once
from devstack.config import RegistryVersion
from devstack.errors import AbsentError, StackError
from devstack.parts import Part, Say
from devstack.ports import LOOPBACK
from devstack.processes import Launch, run_tool
from devstack.rundir import RunDir, write_file

GO_MODULE = "github.com/distribution/distribution/v3/cmd/registry"
GO_VERSION = "v3.1.1"
DEBIAN_PACKAGE = "docker-registry"


@dataclass(frozen=True)
class RegistryBinary:
    """A registry's program. `version` is its major one, `"2"` or `"3"`."""

    path: Path
    version: str


async def find_registry(
    version: RegistryVersion,
    *,
    cache_dir: Path,
    say: Say,
    chosen: RegistryBinary | Path | None = None,
) -> RegistryBinary:
    """The first of: `chosen`, the PATH, the cache, Debian's package (as root), a build with Go.

    Raises AbsentError when none of them has `version`, saying what was tried.
    """
    if isinstance(chosen, RegistryBinary):
        return chosen
    if chosen:
        binary = await _inspect(chosen)
        if binary is None:
            raise StackError(f"RQ_REGISTRY_BINARY={chosen} is not a registry that can be run here")
        return binary
    tried = []
    for name in ("registry", "docker-registry"):
        if found := shutil.which(name):
            binary = await _inspect(Path(found))
            if binary and version in ("any", binary.version):
                return binary
    tried.append("none on the PATH")
    for source, wanted in ((_from_debian, ("any", "2")), (_from_go, ("any", "3"))):
        if version not in wanted:
            continue
        try:
            path = await source(cache_dir, say)
        except StackError as error:
            tried.append(str(error))
            continue
        binary = await _inspect(path)
        if binary and version in ("any", binary.version):
            return binary
        tried.append(f"{path} does not run here")
    raise AbsentError(
        f"no registry{'' if version == 'any' else f' {version}'} can be had here: {'; '.join(tried)}"
    )


async def _inspect(path: Path) -> RegistryBinary | None:
    """What kind of registry a program is; None when it is something else that has its name."""
    try:
        printed = await run_tool([path, "--version"], what="asking the registry for its version")
    except StackError:
        return None
    # "registry github.com/docker/distribution 2.8.2+ds1", "... distribution/v3 v3.1.1+unknown"
    match = re.search(r"distribution\S*\s+v?(\d+)\.", printed)
    return RegistryBinary(path, match[1]) if match else None


async def _from_debian(cache_dir: Path, say: Say) -> Path:
    """Debian's package, unpacked into the cache: installed, its service would take port 5000."""

    async def unpack(work: Path) -> None:
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise StackError("Debian's package needs root and apt-get")
        say(f"registry: fetching Debian's package {DEBIAN_PACKAGE} (once)")
        download = ["apt-get", "-qq", "download", DEBIAN_PACKAGE]
        try:
            await run_tool(download, what="apt-get download", cwd=work)
        except StackError:  # a fresh machine knows no packages yet
            await run_tool(["apt-get", "-qq", "update"], what="apt-get update")
            await run_tool(download, what=f"apt-get download {DEBIAN_PACKAGE}", cwd=work)
        unpack_here = ["sh", "-c", "dpkg-deb -x *.deb ."]
        await run_tool(unpack_here, what=f"unpacking {DEBIAN_PACKAGE}", cwd=work)

    folder = await built_once(cache_dir, DEBIAN_PACKAGE, unpack)
    return folder / "usr" / "bin" / "docker-registry"


async def _from_go(cache_dir: Path, say: Say) -> Path:
    """The module's command, built by the Go toolchain of the PATH, which checks its checksums."""

    async def build(work: Path) -> None:
        if not shutil.which("go"):
            raise StackError("building one needs Go on the PATH")
        say(f"registry: building {GO_MODULE}@{GO_VERSION} with Go (about two minutes, once)")
        await run_tool(
            ["go", "install", f"{GO_MODULE}@{GO_VERSION}"],
            what="building the registry with Go",
            env={"GOBIN": str(work), "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
        )

    return await built_once(cache_dir, f"distribution-{GO_VERSION}", build) / "registry"


def configuration(
    *, data: Path, port: int, secret: str, notification_url: str | None, token: str
) -> dict[str, Any]:
    """The registry's configuration file, the same for 2.8 and 3: deletes on, one endpoint.

    The timings are what a registry in production usually has, but for the wait after `threshold`
    failures, which is short so that a restarted receiver hears at once what it missed.
    """
    values: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(data)},
            "delete": {"enabled": True},
            "cache": {"blobdescriptor": "inmemory"},
        },
        "http": {"addr": f"{LOOPBACK}:{port}", "secret": secret},
    }
    if notification_url:
        values["notifications"] = {
            "events": {"includereferences": True},
            "endpoints": [notification_endpoint(notification_url, token)],
        }
    return values


def notification_endpoint(url: str, token: str) -> dict[str, Any]:
    """One entry of `notifications.endpoints` in a registry's configuration."""
    return {
        "name": "registry-quota",
        "url": url,
        "headers": {"Authorization": [f"Bearer {token}"]},
        "timeout": "1s",
        "threshold": 5,
        "backoff": "500ms",
    }


def how_to_connect(url: str, token: str, port: int) -> str:
    """What a person whose machine has no registry can do, as lines."""
    endpoint = json.dumps(notification_endpoint(url, token))
    return (
        "  registry   none runs yet: connect one of yours (CNCF Distribution 2.7 or newer). Put this\n"
        "             into its configuration:\n"
        "               storage: {delete: {enabled: true}}\n"
        "               notifications:\n"
        "                 events: {includereferences: true}\n"
        f"                 endpoints: [{endpoint}]\n"
        f"             and let it listen on {LOOPBACK}:{port}, or start this again with\n"
        "             RQ_EXTERNAL_REGISTRY_URL=http://HOST:PORT"
    )


class Registry(Part):
    """One registry with file system storage below the run dir, deletes enabled.

    `chosen` is a program to use instead of searching one of `version`, or one that was found before.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        port: int,
        cache_dir: Path,
        version: RegistryVersion = "any",
        chosen: RegistryBinary | Path | None = None,
        notification_url: str | None,
        token: str,
    ) -> None:
        self.name = "registry"
        # It keeps what it has not delivered in memory: a push that it takes after the receiver's end
        # would be told to nobody.
        self.feeds = ("receiver",)
        self.port = port
        self.binary: RegistryBinary | None = None
        self._run_dir = run_dir
        self._data = run_dir.data("registry")
        self._cache_dir = cache_dir
        self._version = version
        self._chosen = chosen
        self._notification_url = notification_url
        self._token = token

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def configuration_file(self) -> Path:
        """What the registry is started with; its garbage collection needs it, too."""
        return self._data / "config.yml"

    async def prepare(self, say: Say) -> None:
        """Find the program and write its configuration (mode 600: the notification token is in it).

        Raises AbsentError when there is no registry for this machine.
        """
        self.binary = await find_registry(
            self._version, cache_dir=self._cache_dir, say=say, chosen=self._chosen
        )
        self._data.mkdir(mode=0o700, exist_ok=True)
        values = configuration(
            data=self._data / "storage",
            port=self.port,
            secret=self._run_dir.secret("registry_secret"),
            notification_url=self._notification_url,
            token=self._token,
        )
        # JSON is YAML.
        write_file(self.configuration_file, json.dumps(values, indent=2) + "\n", mode=0o600)

    def launch(self) -> Launch:
        """The registry itself."""
        if self.binary is None:
            raise StackError("the registry was not prepared")
        return Launch(
            argv=(str(self.binary.path), "serve", str(self.configuration_file)),
            # Version 3 would send its traces to a collector on this machine.
            env={"OTEL_TRACES_EXPORTER": "none"},
        )

    async def answers(self) -> None:
        """`GET /v2/`."""
        await get_ok(f"{self.url}/v2/")


async def get_ok(url: str) -> None:
    """GET; raises aiohttp.ClientError unless the answer is 2xx within 3 s."""
    timeout = aiohttp.ClientTimeout(total=3)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
        response.raise_for_status()
        await response.read()
