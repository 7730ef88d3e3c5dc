"""Kafka's jars: resolved by jgo from Maven coordinates, checked against `kafka.lock`, kept in the cache.

`kafka.lock` has a line `group:artifact:version sha256` for each jar, dependencies included, so that
a start resolves nothing. `python -m devstack.jars VERSION` writes it anew.
"""

import asyncio
import hashlib
import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from devstack.cache import locked
from devstack.config import default_cache_dir
from devstack.errors import StackError
from devstack.parts import Say
from devstack.processes import in_thread
from devstack.rundir import write_file

LOCK_FILE = "kafka.lock"

_DOWNLOADS = 8
"""Jars that are fetched at the same time."""

_ROOT = ("org.apache.kafka", "kafka_2.13")
_LOG_BINDING = ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3")
"""Kafka logs by SLF4J 1.7; which binding carries that to log4j is left to whoever packages it."""


def locked_jars(text: str) -> list[tuple[str, str]]:
    """(coordinate, sha256) of each line of a lock file."""
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return [(coordinate, digest) for coordinate, digest in lines]


def lock_text() -> str:
    """The lock file of this version of the stack."""
    return files("devstack").joinpath(LOCK_FILE).read_text()


async def class_path(cache_dir: Path, say: Say) -> str:
    """Java class path of Kafka; missing jars are fetched first.

    Raises StackError when a jar cannot be had or is not the one that was locked.
    """
    text = lock_text()
    done = cache_dir / f"kafka-{hashlib.sha256(text.encode()).hexdigest()[:16]}.classpath"
    paths = _remembered(done)
    if not paths:
        async with locked(cache_dir, "maven"):
            paths = await _fetch_all(cache_dir / "maven", locked_jars(text), say)
            write_file(done, ":".join(paths), mode=0o644)
    return ":".join(paths)


def _remembered(done: Path) -> list[str]:
    """The class path of an earlier start, empty when a jar of it has gone."""
    paths = done.read_text().split(":") if done.exists() else []
    return paths if all(Path(path).exists() for path in paths) else []


async def _fetch_all(repository: Path, jars: list[tuple[str, str]], say: Say) -> list[str]:
    missing = sum(not _path(repository, coordinate).exists() for coordinate, _ in jars)
    if missing:
        say(f"kafka: fetching {missing} jars (about 45 MB, once)")
    at_once = asyncio.Semaphore(_DOWNLOADS)

    async def fetch(coordinate: str, digest: str) -> str:
        async with at_once:
            return str(await in_thread(lambda: _fetch(repository, coordinate, digest)))

    return await asyncio.gather(*(fetch(*jar) for jar in jars))


def _path(repository: Path, coordinate: str) -> Path:
    group, artifact, version = coordinate.split(":")
    return repository.joinpath(*group.split("."), artifact, version, f"{artifact}-{version}.jar")


def _fetch(repository: Path, coordinate: str, digest: str) -> Path:
    path = _path(repository, coordinate)
    if path.exists() and _sha256(path) == digest:
        return path
    # jgo writes in place: what an interrupted run left must not pass for the jar.
    path.unlink(missing_ok=True)
    try:
        _download(repository, coordinate)
    except (RuntimeError, OSError) as error:
        path.unlink(missing_ok=True)
        raise StackError(
            f"kafka: {coordinate} cannot be fetched ({error}): the first start needs the network"
        ) from error
    if (found := _sha256(path)) != digest:
        path.unlink(missing_ok=True)
        raise StackError(
            f"kafka: {coordinate} is not the jar that was locked (sha256 {found}, expected {digest}): "
            "it came damaged or was changed on its way; try again"
        )
    return path


def _download(repository: Path, coordinate: str) -> None:
    from jgo.maven import MavenContext  # noqa: PLC0415 - takes half a second to import

    group, artifact, version = coordinate.split(":")
    context = MavenContext(repo_cache=repository, timeout=60)
    context.project(group, artifact).at_version(version).artifact().resolve()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def render_lock(version: str, repository: Path) -> str:
    """Resolve Kafka `version` with all it needs and return the text of a new lock file."""
    from jgo.maven import MavenContext  # noqa: PLC0415
    from jgo.parse import Coordinate  # noqa: PLC0415

    context = MavenContext(repo_cache=repository, timeout=60)

    def dependency(group: str, artifact: str, number: str) -> Any:
        return context.create_dependency(
            Coordinate(groupId=group, artifactId=artifact, version=number, scope="compile")
        )

    roots, others = context.resolver.resolve([dependency(*_ROOT, version)])
    # Apart from Kafka, whose choice of versions would otherwise give way to this one's.
    binding, _ = context.resolver.resolve([dependency(*_LOG_BINDING)], transitive=False)
    kept = [*roots, *binding, *(each for each in others if each.scope in ("compile", "runtime"))]
    lines = []
    for artifact in sorted((each.artifact for each in kept), key=str):
        coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        lines.append(f"{coordinate} {_sha256(artifact.resolve())}\n")
    head = f"# Kafka {version} and what it needs; written by `python -m devstack.jars {version}`.\n"
    return head + "".join(lines)


if __name__ == "__main__":
    target = Path(__file__).with_name(LOCK_FILE)
    target.write_text(render_lock(sys.argv[1], default_cache_dir(os.environ) / "maven"))
