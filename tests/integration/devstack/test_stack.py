"""The embedded stack keeps what `make run` promises, on real Postgres, Kafka and registry."""

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from devstack.config import Ports, StackConfig
from devstack.errors import StackError
from devstack.foreground import running_stack
from devstack.ports import free_port
from devstack.processes import run_tool
from devstack.rundir import RunDir, parse_env
from devstack.stack import INFRASTRUCTURE, Stack
from tests.support.pages import ROOT, block
from tests.support.waiting import wait_until

ENV_KEYS = [
    "RQ_WEBHOOK_URL",
    "RQ_WEBHOOK_TOKEN",
    "RQ_API_URL",
    "RQ_API_TOKEN",
    "RQ_INTERNAL_API_KEY",
    "RQ_GRPC_TARGET",
    "RQ_REGISTRY_URL",
    "RQ_KAFKA_BOOTSTRAP",
    "RQ_DATABASE_URL",
]

FOREGROUND = """
import os, sys, dataclasses
from devstack.config import StackConfig
from devstack.foreground import run_foreground
program = (sys.executable, "-m", "tests.support.fake_program")
sys.exit(run_foreground(dataclasses.replace(StackConfig.from_environment(os.environ), program=program)))
"""


async def answer_of_postgres(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def environment(run_dir: Path) -> dict[str, str]:
    """Settings of a stack in `run_dir` on free ports of its own."""
    ports = {
        f"RQ_{field.name.upper()}_PORT": str(free_port()) for field in dataclasses.fields(Ports)
    }
    return {**os.environ, **ports, "RQ_RUN_DIR": str(run_dir)}


@contextmanager
def foreground(environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`registry-quota dev up` as a process of its own, with stand-ins for our programs."""
    with started([sys.executable, "-u", "-c", FOREGROUND], environ, log) as process:
        yield process


@contextmanager
def started(
    command: list[str], environ: dict[str, str], log: Path, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, env=environ, stdout=output, stderr=subprocess.STDOUT, **options
        ) as process,
    ):
        try:
            yield process
        finally:
            if options.get("start_new_session"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()


async def test_killed_parts_come_back_and_a_second_start_keeps_the_data(tmp_path):
    config = StackConfig.for_tests(tmp_path / "run")
    async with Stack(config, parts=INFRASTRUCTURE) as stack:
        await answer_of_postgres(stack.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        old = {name: stack.pid(name) for name in INFRASTRUCTURE}
        for name in INFRASTRUCTURE:
            stack.kill(name)
        await wait_until(
            lambda: all(stack.pid(name) not in (None, old[name]) for name in INFRASTRUCTURE), 3
        )
        for name in INFRASTRUCTURE:
            await stack.wait_until_answers(name)
            assert int((stack.run_dir.pids / f"{name}.pid").read_text()) == stack.pid(name)
        assert psutil.Process(stack.pid("postgres")).name() == "postgres"
        assert psutil.Process(stack.pid("kafka")).name() == "java"
        assert "registry" in psutil.Process(stack.pid("registry")).name()
        url, token = stack.database_url, stack.webhook_token

    async with Stack(config, parts=("postgres",)) as again:
        assert again.database_url == url
        assert again.webhook_token == token
        assert await answer_of_postgres(url, "SELECT answer FROM kept") == 42


async def test_postgres_is_safe_and_its_url_is_for_everyone(tmp_path):
    async with Stack(StackConfig.for_tests(tmp_path / "run"), parts=("postgres",)) as stack:
        url = stack.database_url
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await answer_of_postgres(url, f"SHOW {setting}") == "on"
        assert await answer_of_postgres(url, "SHOW listen_addresses") == "127.0.0.1"
        assert await answer_of_postgres(url, "SELECT current_database()") == "registry_quota"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(url.replace(stack.run_dir.secret("postgres_password"), "wrong"))


@pytest.fixture
def folder_with_mode():
    """Call it for a folder of that mode whose parents everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="rq-test-") as parent:
        Path(parent).chmod(0o755)

        def make(mode: int) -> Path:
            folder = Path(parent) / f"{mode:o}"
            folder.mkdir()
            folder.chmod(mode)
            return folder

        yield make


def capabilities(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("CapEff:")[2].split()[0], 16)


@pytest.mark.skipif(os.geteuid() != 0, reason="only a root supervisor changes the user")
@pytest.mark.parametrize("mode", [0o755, 0o700])
async def test_below_root_postgres_is_a_normal_user_that_at_most_passes_closed_folders(
    folder_with_mode, mode
):
    dac_override = 1 << 1
    config = StackConfig.for_tests(folder_with_mode(mode) / "run")
    async with Stack(config, parts=("postgres",)) as stack:
        assert await answer_of_postgres(stack.database_url, "SELECT 1") == 1
        pid = stack.pid("postgres") or 0
        assert psutil.Process(pid).uids().effective != 0
        # The project itself may lie in a closed folder.
        assert capabilities(pid) in ({dac_override} if mode == 0o700 else {0, dac_override})


async def test_two_stacks_run_side_by_side(tmp_path):
    parts = ("postgres", "registry")
    async with (
        Stack(StackConfig.for_tests(tmp_path / "a"), parts=parts) as one,
        Stack(StackConfig.for_tests(tmp_path / "b"), parts=parts) as other,
    ):
        assert one.database_url != other.database_url
        assert one.registry_url != other.registry_url
        assert one.webhook_token != other.webhook_token
        for stack in (one, other):
            assert await answer_of_postgres(stack.database_url, "SELECT 1") == 1


async def test_a_taken_port_names_port_variable_and_holder(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = StackConfig.for_tests(tmp_path / "run")
        config = dataclasses.replace(config, ports=Ports(0, 0, 0, registry=port, kafka=0))
        with pytest.raises(StackError) as error:
            async with Stack(config, parts=("registry",)):
                pass
    assert f"port {port} is taken by" in str(error.value)
    assert f"pid {os.getpid()} (RQ_REGISTRY_PORT moves it)" in str(error.value)


async def test_one_folder_has_one_stack(tmp_path):
    config = StackConfig.for_tests(tmp_path / "run")
    async with Stack(config, parts=("postgres",)) as stack:
        with pytest.raises(StackError, match=f"already running in .*kill {os.getpid()}"):
            async with Stack(config, parts=("postgres",)):
                pass
        assert await answer_of_postgres(stack.database_url, "SELECT 1") == 1


async def test_a_start_that_is_refused_leaves_the_running_stack_announced(tmp_path):
    config = StackConfig.for_tests(tmp_path / "run")
    async with Stack(config, parts=("postgres",)) as stack:
        stack.run_dir.env.write_text("RQ_API_URL=http://127.0.0.1:1\n")
        with pytest.raises(StackError):
            await Stack(config, parts=("postgres",)).__aenter__()
        assert stack.run_dir.env.exists()


async def test_postgres_starts_although_another_program_has_its_old_pid(tmp_path):
    config = StackConfig.for_tests(tmp_path / "run")
    async with Stack(config, parts=("postgres",)) as stack:
        lock = stack.run_dir.data("postgres") / "postmaster.pid"
        left = lock.read_text().split("\n", 1)
    lock.write_text(f"{os.getpid()}\n{left[1]}")
    async with Stack(config, parts=("postgres",)) as stack:
        assert await answer_of_postgres(stack.database_url, "SELECT 1") == 1


async def test_an_outage_lasts_until_it_is_ended(tmp_path):
    async with Stack(StackConfig.for_tests(tmp_path / "run"), parts=("postgres",)) as stack:
        await stack.pause("postgres")
        with pytest.raises(OSError):
            await asyncpg.connect(stack.database_url)
        await stack.resume("postgres")
        assert await answer_of_postgres(stack.database_url, "SELECT 1") == 1


@pytest.mark.alone
async def test_make_run_announces_itself_and_ends_within_six_seconds(tmp_path):
    """As docs/getting-started.md says it: in a terminal, whose Ctrl-C goes to all that runs in it."""
    run_dir, log = tmp_path / "a folder" / "run", tmp_path / "out"
    environ = environment(run_dir)
    command = ["sh", "-c", block("docs/getting-started.md", "in a terminal of its own")]
    with started(command, environ, log, cwd=ROOT, start_new_session=True) as process:
        await wait_until(lambda: b"registry-quota runs" in log.read_bytes(), 60)
        env = run_dir / "env"
        values = parse_env(env.read_text())
        assert list(values) == ENV_KEYS
        assert stat.S_IMODE(env.stat().st_mode) == 0o600
        assert values["RQ_WEBHOOK_URL"] == (
            f"http://127.0.0.1:{environ['RQ_RECEIVER_PORT']}/v1/notifications"
        )
        assert await running_stack(run_dir) == values
        (read,) = re.findall(r"for programs: (.*)", log.read_text())
        said = await run_tool(["sh", "-c", f'{read}; echo "$RQ_WEBHOOK_URL"'], what="sh")
        assert said.strip() == values["RQ_WEBHOOK_URL"]
        pids = {path.stem: int(path.read_text()) for path in (run_dir / "pids").iterdir()}
        assert pids.keys() == {*INFRASTRUCTURE, "receiver", "consumer", "api"}
        assert {path.stem for path in (run_dir / "logs").iterdir()} == {*pids, "migrate"}

        os.kill(pids["receiver"], signal.SIGKILL)
        await wait_until(lambda: b"receiver answers again" in log.read_bytes(), 5)

        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        await asyncio.to_thread(process.wait, 10)
        assert time.monotonic() - began < 6
        assert b"everything ended" in log.read_bytes()
    assert not env.exists()
    assert await running_stack(run_dir) is None
    assert not any(psutil.pid_exists(pid) for pid in pids.values())


async def test_a_start_can_be_called_off(tmp_path):
    run_dir, log = tmp_path / "run", tmp_path / "out"
    with foreground(environment(run_dir), log) as process:
        await wait_until(lambda: list(run_dir.glob("pids/*.pid")), 30)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 7) == 0
    assert list(run_dir.glob("pids/*.pid")) == []
    assert not RunDir(run_dir).is_locked()


async def test_a_killed_run_leaves_nothing_in_the_way_of_the_next(tmp_path):
    run_dir, log = tmp_path / "run", tmp_path / "out"
    environ = environment(run_dir)
    with foreground(environ, log) as process:
        await wait_until((run_dir / "env").exists, 60)
        process.kill()
    assert await running_stack(run_dir) is None
    with foreground(environ, log) as process:
        await wait_until(lambda: b"registry-quota runs" in log.read_bytes(), 60)
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 7) == 0
