"""Parts are started in order, kept alive and ended in time."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import psutil
import pytest

from devstack import leftovers
from devstack.errors import AbsentError, StackError
from devstack.processes import PART_MARK, RUN_DIR_MARK
from devstack.rundir import RunDir
from tests.support.dummies import ENDS_WELL, STUBBORN, WAITS, Dummy, Lines, supervised
from tests.support.waiting import wait_until


def pid_of(run_dir: RunDir, name: str) -> int:
    return int((run_dir.pids / f"{name}.pid").read_text())


def another_pid(run_dir: RunDir, old: int) -> bool:
    return pid_of(run_dir, "part") != old


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def python(code: str, **marks: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **marks})


@pytest.fixture
def say():
    return Lines()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "run"


async def test_a_part_is_started_when_what_it_needs_answers(tmp_path, root, say):
    order = []
    parts = [
        Dummy("top", tmp_path / "t", needs=("task",), on_prepare=lambda: order.append("top")),
        Dummy(
            "task",
            tmp_path / "m",
            program=ENDS_WELL,
            needs=("base",),
            once=True,
            on_prepare=lambda: order.append("task"),
        ),
        Dummy("base", tmp_path / "b", on_prepare=lambda: order.append("base")),
    ]
    async with supervised(parts, root, say) as (supervisor, run_dir):
        assert order == ["base", "task", "top"]
        assert pid_of(run_dir, "top") == supervisor["top"].pid
        assert [line.split()[0] for line in say] == ["base", "task", "top"]
        assert not (run_dir.pids / "task.pid").exists()
    assert list(run_dir.pids.iterdir()) == []


@pytest.mark.alone
async def test_a_killed_part_is_started_again_within_three_seconds_and_a_line_says_so(
    tmp_path, root, say
):
    async with supervised([Dummy("part", tmp_path / "p")], root, say) as (_, run_dir):
        for _ in range(4):
            pid = pid_of(run_dir, "part")
            say.clear()
            os.kill(pid, signal.SIGKILL)
            await wait_until(partial(another_pid, run_dir, pid), 3)
            await wait_until(lambda: len(say) == 2, 5)
            assert say[0] == "part ended (SIGKILL), starting it again"
            assert f"pid {pid_of(run_dir, 'part')}" in say[1]


async def test_a_part_that_does_not_start_shows_why_and_nothing_stays(tmp_path, root, say):
    steady = Dummy("steady", tmp_path / "s")
    broken = Dummy(
        "broken", tmp_path / "b", program="raise SystemExit('no disk')", needs=("steady",)
    )

    with pytest.raises(StackError, match=r"broken does not start \(exit code 1\)[\s\S]*no disk"):
        async with supervised([steady, broken], root, say):
            pass

    assert leftovers.find(root) == []
    assert list((root / "pids").iterdir()) == []


async def test_a_task_that_fails_stops_what_needs_it(tmp_path, root, say):
    parts = [
        Dummy("task", tmp_path / "t", program="raise SystemExit(3)", once=True),
        Dummy("role", tmp_path / "r", needs=("task",), on_prepare=lambda: pytest.fail("started")),
    ]
    with pytest.raises(StackError, match=r"task does not start \(exit code 3\)"):
        async with supervised(parts, root, say):
            pass


async def test_a_program_that_is_not_there_is_a_sentence(tmp_path, root, say, monkeypatch):
    monkeypatch.setattr("devstack.processes._setpriv", lambda: None)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StackError, match="part cannot be started: /nowhere/python: No such file"):
        async with supervised([Dummy("part", tmp_path / "p")], root, say):
            pass


async def test_an_absent_part_is_left_out_with_a_line(tmp_path, root, say):
    def absent():
        raise AbsentError("no registry here")

    parts = [Dummy("registry", tmp_path / "r", on_prepare=absent), Dummy("other", tmp_path / "o")]
    async with supervised(parts, root, say) as (supervisor, _):
        assert supervisor["registry"].pid is None
        assert supervisor["other"].pid
        assert say[0] == "no registry here"


async def test_what_needs_or_feeds_others_ends_first(tmp_path, root, say):
    log = tmp_path / "order"

    def part(name: str, needs: tuple[str, ...] = (), feeds: tuple[str, ...] = ()) -> Dummy:
        says_when = (
            "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: "
            f"(open({str(log)!r}, 'a').write('{name} '), sys.exit()));"
        )
        return Dummy(name, tmp_path / name, says_when + WAITS, needs, feeds)

    parts = [part("base"), part("source", feeds=("top",)), part("top", needs=("base",))]
    async with supervised(parts, root, say):
        pass
    assert log.read_text() == "source top base "


@pytest.mark.alone
async def test_one_that_hangs_leaves_the_others_their_time(tmp_path, root, say):
    slow = (
        "import signal, sys, time; "
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit()));"
    )
    parts = [
        Dummy("base", tmp_path / "b", program=slow + WAITS),
        Dummy("task", tmp_path / "t", program=ENDS_WELL, needs=("base",), once=True),
        Dummy("role", tmp_path / "r", program=slow + WAITS, needs=("task",)),
        Dummy("source", tmp_path / "s", program=STUBBORN, feeds=("role",)),
    ]
    async with supervised(parts, root, say) as (supervisor, _):
        say.clear()
        await supervisor.end(within=4)
    assert say == ["source did not end by itself and was killed"]


@pytest.mark.alone
async def test_stubborn_parts_are_killed_in_time_with_what_they_started(tmp_path, root, say):
    starts_a_child = (
        "import subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "open('child', 'w').write(str(child.pid)); "
    )
    parts = [
        Dummy("base", tmp_path / "b"),
        Dummy("top", tmp_path / "t", program=starts_a_child + STUBBORN, needs=("base",)),
    ]
    async with supervised(parts, root, say) as (supervisor, _):
        child = int((tmp_path / "t" / "child").read_text())
        began = time.monotonic()
        await supervisor.end(within=2)
        took = time.monotonic() - began

    assert took < 2.5
    assert say[-1] == "top did not end by itself and was killed"
    await wait_until(lambda: gone(child))


async def test_a_part_that_is_ended_stays_away_until_it_is_brought_up(tmp_path, root, say):
    async with supervised([Dummy("part", tmp_path / "p")], root, say) as (supervisor, run_dir):
        await supervisor["part"].end(within=3)
        assert supervisor["part"].pid is None
        assert not (run_dir.pids / "part.pid").exists()

        await supervisor["part"].bring_up()
        assert supervisor["part"].pid == pid_of(run_dir, "part")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
async def test_parts_die_with_a_killed_supervisor(tmp_path, root):
    script = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from tests.support.dummies import STUBBORN, Dummy, Lines, supervised

        async def main():
            part = Dummy("part", Path({str(tmp_path / "p")!r}), program=STUBBORN)
            async with supervised([part], Path({str(root)!r}), Lines()):
                await asyncio.sleep(600)

        asyncio.run(main())
    """)
    with python(script) as supervisor:
        await wait_until((tmp_path / "p" / "ready").exists, 20)
        pid = pid_of(RunDir(root), "part")
        assert not gone(pid)
        supervisor.kill()
    await wait_until(lambda: gone(pid), 3)


async def test_what_an_earlier_run_left_is_ended_with_a_line(tmp_path, root, say):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    ours, foreign = {RUN_DIR_MARK: str(root), PART_MARK: "kafka"}, {RUN_DIR_MARK: "/x"}
    with python(code, **ours) as left, python(code, **foreign) as other:
        try:
            await wait_until(lambda: leftovers.find(root))
            leftovers.end(root, say)
            assert left.poll() is not None
            assert other.poll() is None
            assert say == [
                f"an earlier run was killed; ending what it left: kafka (pid {left.pid})"
            ]
        finally:
            left.kill()
            other.kill()
