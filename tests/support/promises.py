"""What the system promises under faults, row by row, and what the tests measured of each.

A test that proves a row carries `@pytest.mark.promise("ROW")` and tells its figures to the fixture
`promise`. `make faults` runs all of them in their long form and writes the table into
docs/reliability.md; the short form runs with every other test.
"""

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

PROMISES: Final[Mapping[str, str]] = {
    "acknowledged": "2xx only after Kafka has it durably (`acks=all`), as an event or a dead letter",
    "in-time": "answers come inside the registry's second",
    "broker-away": "broker away: a fast 503, no hang, bounded memory, it recovers and stops by itself",
    "poison": "poison never blocks",
    "exactly-once": "duplicates, replays, kills and lost answers change nothing: exactly-once effect",
    "stale-owner": "a stale consumer cannot corrupt",
    "rebalance": "consumers may come and go",
    "published": "every quota event is published, in order per workspace",
    "deadlocks": "no unhandled deadlock",
    "log-breaks": "a log that was put back, cut or made anew is noticed, and nothing unseen is passed over",
    "database-away": "database away: nothing is lost, it catches up",
    "database-in-cleanup": "database cut off, killed or frozen in a cleanup: it is finished, no build stops",
    "older-database": "an older backup of the database deletes nothing on doubt, and catches up with the log",
    "two-registries": "what another registry holds is counted, and never cleaned or reconciled away",
    "half-open": "a connection that died without a word is noticed, and replaced",
    "full-disk": "a full disk loses nothing: 503 or waiting, until there is room again",
    "storm": "whatever comes together: when it is over, everything moves again by itself",
    "flaky-registry": "a flaky registry makes no size wrong and leaves none unknown",
    "safe-deletes": "deleting never removes what is protected or needed",
    "registry-loss": "what the registry itself lost is repaired",
    "hostile-input": "hostile input is answered, never believed",
    "tenants": "only those who may get in",
    "leaks": "nothing leaks",
    "watchdog": "what stalls is noticed, and ended with a reason",
    "back-pressure": "what cannot be taken is refused before memory grows",
    "floods": "floods of calls and of event streams keep nobody else's build waiting",
    "bad-release": "a release that reads nothing stops instead of dead-lettering the topic",
}
"""Row → the promise."""

_ROW: Final = "promise"
_FIGURE: Final = "promise's figure"

BEGIN: Final = "<!-- table: written by `make faults` -->"
END: Final = "<!-- end of table -->"


@dataclass(frozen=True)
class Scale:
    """How much a scenario does: `short` with every other test, `long` by `make faults`, or between."""

    form: str

    @property
    def long(self) -> bool:
        """Whether there is time for what takes minutes."""
        return self.form == "long"

    def pick(self, short: int, long: int) -> int:
        """The figure of this scale; `medium` is a quarter of the way."""
        if self.form == "medium":
            return short + (long - short) // 4
        return long if self.long else short


@dataclass
class Row:
    """What was measured of one promise."""

    tests: dict[str, str] = field(default_factory=dict)
    """Test → its outcome."""
    figures: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Label → value and unit, in the order of their first mention."""

    @property
    def verdict(self) -> str:
        """`holds`, `BROKEN`, or `not run`."""
        ran = [outcome for outcome in self.tests.values() if outcome != "skipped"]
        if not ran:
            return "not run"
        return "holds" if all(outcome == "passed" for outcome in ran) else "BROKEN"


class Report(Protocol):
    """What pytest tells of one phase of a test (also from another process)."""

    nodeid: str
    when: str | None
    outcome: str
    user_properties: list[tuple[str, Any]]


class Measured:
    """Every row of one test session: a plugin of pytest."""

    def __init__(self) -> None:
        self.rows = {row: Row() for row in PROMISES}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """A test's reports say which rows it proves."""
        for mark in item.iter_markers("promise"):
            if mark.args[0] not in PROMISES:
                raise pytest.UsageError(f"{item.nodeid}: no promise {mark.args[0]!r}")
            item.user_properties.append((_ROW, mark.args[0]))

    def pytest_runtest_logreport(self, report: Report) -> None:
        """Take what a phase of a test came to, and at its end what it measured."""
        said = report.user_properties
        if report.when == "call" or report.outcome != "passed":
            for row in [value for name, value in said if name == _ROW]:
                self._outcome(row, report.nodeid.split("[")[0], report.outcome)
        if report.when == "teardown":
            for row, kind, label, value, unit in [v for name, v in said if name == _FIGURE]:
                self._figure(row, kind, label, value, unit)

    def _outcome(self, row: str, test: str, outcome: str) -> None:
        """The worst outcome of a test's phases and parameters stays."""
        known = self.rows[row].tests.get(test)
        worst = ("skipped", "passed", "failed")
        if known is None or worst.index(outcome) > worst.index(known):
            self.rows[row].tests[test] = outcome

    def _figure(self, row: str, kind: str, label: str, value: float, unit: str) -> None:
        figures = self.rows[row].figures
        if label not in figures:
            figures[label] = (value, unit)
        elif kind == "sum":
            figures[label] = (figures[label][0] + value, unit)
        else:
            figures[label] = (max(figures[label][0], value), unit)


class Promise:
    """Where one test tells what it measured. Tests of one row share the row's figures."""

    def __init__(self, row: str, said: list[tuple[str, Any]]) -> None:
        self._row = row
        self._said = said

    def count(self, label: str, value: float, unit: str = "") -> None:
        """Add to a sum."""
        self._said.append((_FIGURE, (self._row, "sum", label, float(value), unit)))

    def worst(self, label: str, value: float, unit: str = "s") -> None:
        """Keep the largest."""
        self._said.append((_FIGURE, (self._row, "max", label, float(value), unit)))


def shown(value: float, unit: str) -> str:
    """A figure as a person reads it."""
    text = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    if unit == "s" and value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{text} {unit}".strip()


def table(measured: Measured, *, markdown: bool) -> list[str]:
    """Lines of the promise table."""
    lines = []
    if markdown:
        lines += ["| promise | measured | | proved by |", "|---|---|---|---|"]
    for name, promise in PROMISES.items():
        row = measured.rows[name]
        figures = ", ".join(f"{label} {shown(*it)}" for label, it in row.figures.items())
        files = sorted({test.split("::")[0] for test in row.tests})
        if markdown:
            links = " · ".join(f"[{Path(file).stem}](../{file})" for file in files)
            lines.append(f"| {promise} | {figures} | {row.verdict} | {links} |")
        elif row.tests:
            lines.append(f"{row.verdict:8} {promise}")
            lines.append(f"         {figures}" if figures else "         (no figures)")
    return lines


def machine() -> str:
    """What the figures were measured on, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {os.cpu_count()} cores, {memory} GiB, "
        f"Linux, Python {platform.python_version()}"
    )


def write_table(path: Path, measured: Measured, took: float, form: str) -> None:
    """Replace the table between the marks in a Markdown file. Raises ValueError without marks."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{path} lacks the marks of the table")
    head = f"Measured {machine()}; the {form} form, {took / 60:.0f} minutes."
    lines = [BEGIN, "", head, "", *table(measured, markdown=True), "", END]
    path.write_text(before + "\n".join(lines) + after)


def form_of(environ: Mapping[str, str]) -> str:
    """`RQ_FAULTS`: short (the default), medium or long. Raises ValueError for another value."""
    wanted = environ.get("RQ_FAULTS") or "short"
    if wanted not in ("short", "medium", "long"):
        raise ValueError(f"RQ_FAULTS must be short, medium or long, not {wanted!r}")
    return wanted
