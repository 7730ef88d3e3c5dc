"""Starts parts in the order of their needs, keeps them alive, ends them in time."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable

from devstack.errors import AbsentError, StackError
from devstack.parts import Part, Say
from devstack.processes import (
    PART_MARK,
    RUN_DIR_MARK,
    Launch,
    ended,
    exit_text,
    last_lines,
    start,
)
from devstack.rundir import RunDir

FIRST_ANSWER_SECONDS = 90.0
"""How long a part may take until it answers for the first time (a slow, busy machine)."""

STOP_SECONDS = 5.5
"""From the stop signal to the last SIGKILL; what remains to 6 s is for our own end."""

LAST_LEVEL_SECONDS = 1.2
"""Of that, what is kept for the parts that nothing else needs any more (broker, database)."""

RESTART_DELAYS = (0.1, 0.5, 1.0, 2.0)
"""Seconds between an end and the next start, by the number of ends in a row; the last one stays."""

STEADY_SECONDS = 20.0
"""A part that lived this long starts again with the first delay."""

_PROBE_SECONDS = 0.1
_PROBE_TIMEOUT = 5.0


class Keeper:
    """One part's process: started, watched, started again, ended."""

    def __init__(self, part: Part, run_dir: RunDir, say: Say) -> None:
        self.part = part
        self.answered = asyncio.Event()
        self._run_dir = run_dir
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._launch: Launch | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The part's name."""
        return self.part.name

    @property
    def pid(self) -> int | None:
        """Process id, None while it does not run."""
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process and alive else None

    @property
    def may_run(self) -> bool:
        """Whether there is a process to end; of a part that is kept alive there may be at any time."""
        return self.pid is not None or not self.part.once

    async def bring_up(self) -> None:
        """Set the part up, start it and return when it answers (or, `once`, has ended well).

        A part that is absent on this machine is left out, with a line that says so.
        Raises StackError with the end of its log when it does not come up.
        """
        try:
            await self.part.prepare(self._say)
        except AbsentError as error:
            self._say(str(error))
            return
        except OSError as error:
            raise StackError(f"{self.name} cannot be set up: {error}") from error
        for attempt in range(1, self.part.first_tries + 1):
            process = self._spawn()
            code = await self._first_answer(process)
            if code is None:
                self.answered.set()
                self._watch = asyncio.create_task(self._keep(), name=f"keep {self.name}")
                return
            if self.part.once and code == 0:
                self._run_dir.remove_pid(self.name)
                self.answered.set()
                return
            if attempt < self.part.first_tries:
                await asyncio.sleep(_delay(attempt))
        raise StackError(f"{self.name} does not start ({exit_text(code or 0)}); {self._log_tail()}")

    async def _first_answer(self, process: subprocess.Popen[bytes]) -> int | None:
        """None once the part answers, its return code when it ended before."""
        end = asyncio.create_task(ended(process))
        waits = {end}
        if not self.part.once:
            waits.add(asyncio.create_task(self._until_answers()))
        try:
            done, _ = await asyncio.wait(
                waits, timeout=FIRST_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise StackError(
                    f"{self.name} did not answer within {FIRST_ANSWER_SECONDS:.0f} s; "
                    + self._log_tail()
                )
            return end.result() if end in done else None
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _until_answers(self) -> int:
        while True:
            # Not `asyncio.wait_for`, which loses a cancellation that comes with the answer (Python 3.11).
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_PROBE_TIMEOUT):
                    await self.part.answers()
                return 0
            await asyncio.sleep(_PROBE_SECONDS)

    def _spawn(self) -> subprocess.Popen[bytes]:
        launch = self.part.launch()
        output = self._run_dir.open_log(self.name)
        marks = {RUN_DIR_MARK: str(self._run_dir.root), PART_MARK: self.name}
        try:
            self._process = start(launch, output=output, env=marks)
        except OSError as error:
            raise StackError(
                f"{self.name} cannot be started: {launch.argv[0]}: {error.strerror}"
            ) from error
        finally:
            os.close(output)
        self._launch = launch
        self._run_dir.write_pid(self.name, self._process.pid)
        return self._process

    async def _keep(self) -> None:
        """Start the part again whenever it ends, until cancelled."""
        ends_in_a_row = 0
        probe: asyncio.Task[None] | None = None
        try:
            while self._process is not None:
                since = time.monotonic()
                how = exit_text(await ended(self._process))
                if probe:
                    probe.cancel()
                self.answered.clear()
                steady = time.monotonic() - since > STEADY_SECONDS
                ends_in_a_row = 1 if steady else ends_in_a_row + 1
                delay = _delay(ends_in_a_row)
                self._say(f"{self.name} ended ({how}), starting it again")
                await asyncio.sleep(delay)
                process = await self._spawn_again()
                probe = asyncio.create_task(self._announce(process.pid))
        finally:
            if probe:
                probe.cancel()
                await asyncio.gather(probe, return_exceptions=True)

    async def _spawn_again(self) -> subprocess.Popen[bytes]:
        while True:
            try:
                return self._spawn()
            except (StackError, OSError) as error:  # such as a full disk: it may pass
                self._say(f"{self.name} cannot be started again yet: {error}")
                await asyncio.sleep(RESTART_DELAYS[-1])

    async def _announce(self, pid: int) -> None:
        began = time.monotonic()
        await self._until_answers()
        self.answered.set()
        self._say(f"{self.name} answers again after {time.monotonic() - began:.1f} s (pid {pid})")

    def _log_tail(self) -> str:
        path = self._run_dir.log(self.name)
        text = path.read_text(errors="replace")[-8000:] if path.exists() else ""
        return f"its log ({path}) ends with:\n    {last_lines(text, 8)}"

    async def end(self, *, within: float) -> bool:
        """Ask the part to end, and end it after `within` seconds; False when that was needed."""
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        process, self.answered = self._process, asyncio.Event()
        if process is None:
            return True
        willing = True
        if process.poll() is None and self._launch is not None:
            process.send_signal(self._launch.stop_signal)
            try:
                await asyncio.wait_for(ended(process), within)
            except TimeoutError:
                willing = False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Also what it started itself, and has left behind.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._run_dir.remove_pid(self.name)
        self._process = None
        return willing

    def kill(self) -> None:
        """SIGKILL its process (for tests); the keeper starts it again."""
        if self._process:
            self._process.kill()


class Supervisor:
    """The parts of one stack. Create and use it in the main thread (see `processes.start`)."""

    def __init__(self, parts: Iterable[Part], run_dir: RunDir, say: Say) -> None:
        self._say = say
        self._keepers = {part.name: Keeper(part, run_dir, say) for part in parts}

    def __getitem__(self, name: str) -> Keeper:
        return self._keepers[name]

    async def bring_up(self) -> None:
        """Start every part, each as soon as what it needs answers.

        Raises the first StackError, after the others' starts were called off; `end` is still due.
        """
        began = time.monotonic()

        async def one(keeper: Keeper) -> None:
            for need in keeper.part.needs:
                if need in self._keepers:
                    await self._keepers[need].answered.wait()
            since = time.monotonic()
            await keeper.bring_up()
            took = time.monotonic() - since
            if keeper.part.once:
                done = "done"
            elif keeper.pid:
                done = f"answers (pid {keeper.pid})"
            else:
                return
            self._say(
                f"{keeper.name} {done} after {took:.1f} s, {time.monotonic() - began:.1f} s in all"
            )

        tasks = [asyncio.create_task(one(keeper)) for keeper in self._keepers.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def end(self, *, within: float = STOP_SECONDS) -> None:
        """End all parts within `within` seconds: those that need or feed others first, then the others."""
        until = time.monotonic() + within
        levels = self._levels()
        while levels:
            keepers = levels.pop(0)
            left = until - time.monotonic()
            # One that hangs may use up its own share only.
            shares = sum(
                any(keeper.may_run for keeper in level) for level in [keepers, *levels[:-1]]
            )
            share = (left - LAST_LEVEL_SECONDS) / max(shares, 1) if levels else left
            ends = await asyncio.gather(*(keeper.end(within=max(share, 0.1)) for keeper in keepers))
            for keeper, willing in zip(keepers, ends, strict=True):
                if not willing:
                    self._say(f"{keeper.name} did not end by itself and was killed")

    def _levels(self) -> list[list[Keeper]]:
        """The parts in the order of their end: nothing in a level is needed or fed by a later one."""
        depth: dict[str, int] = {}

        def depth_of(name: str) -> int:
            if name not in depth:
                part = self._keepers[name].part
                outlive = [other for other in (*part.needs, *part.feeds) if other in self._keepers]
                depth[name] = max((depth_of(other) + 1 for other in outlive), default=0)
            return depth[name]

        levels: dict[int, list[Keeper]] = {}
        for name, keeper in self._keepers.items():
            levels.setdefault(depth_of(name), []).append(keeper)
        return [levels[level] for level in sorted(levels, reverse=True)]


def _delay(ends_in_a_row: int) -> float:
    return RESTART_DELAYS[min(ends_in_a_row, len(RESTART_DELAYS)) - 1]
