"""What a program cost while others ran: CPU seconds and memory of processes, and everybody else's CPU."""

import os
import statistics
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import psutil

MIB = 2**20


class Spread(msgspec.Struct, frozen=True):
    """Repetitions of one figure."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> "Spread":
        """Of one figure or more."""
        known = list(figures)
        return cls(statistics.median(known), min(known), max(known))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.min)} to {_short(self.max)})"


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def percentile(times: list[float], share: float) -> float:
    """The time below which `share` (0 to 1) of them are. Raises IndexError when there are none."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def spreads(runs: list[Mapping[str, float]]) -> dict[str, Spread]:
    """Figure → its spread over the runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: Spread.of([run[name] for run in runs if name in run]) for name in names}


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process, its children that live and those that ended; 0.0 for one that is gone."""
    try:
        times = process.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        return float(total + sum(cpu_seconds(child) for child in process.children()))
    except psutil.NoSuchProcess:
        return 0.0


def memory_mib(process: psutil.Process) -> float:
    """Unique memory of a process and its children: what would be free without them."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / MIB


class Meter:
    """Between its beginning and `stop`: wall time, CPU of named processes, foreign CPU and steal.

    Foreign is whatever ran on this machine and is none of the named processes nor this one, which is
    `load` (without its children: name those that count).
    """

    def __init__(self, processes: Mapping[str, psutil.Process]) -> None:
        self._processes = dict(processes)
        self._began = time.perf_counter()
        self._machine = psutil.cpu_times()
        self._cpu = self._read()

    def _read(self) -> dict[str, float]:
        own = os.times()
        return {
            **{name: cpu_seconds(one) for name, one in self._processes.items()},
            "load": own.user + own.system,
        }

    def stop(self) -> dict[str, Any]:
        """Figures: `seconds`, `cpu.NAME` in seconds, `foreign` and `steal` as shares of all cores."""
        seconds = time.perf_counter() - self._began
        now = psutil.cpu_times()
        cpu = {name: max(0.0, value - self._cpu[name]) for name, value in self._read().items()}
        cores = (os.cpu_count() or 1) * seconds
        busy = _busy(now) - _busy(self._machine)
        steal = getattr(now, "steal", 0.0) - getattr(self._machine, "steal", 0.0)
        return {
            "seconds": seconds,
            **{f"cpu.{name}": value for name, value in cpu.items()},
            "foreign": max(0.0, busy - sum(cpu.values())) / cores,
            "steal": steal / cores,
        }


def _busy(times: Any) -> float:
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "steal", 0.0)
    # `guest` stands in `user` already.
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guest)
