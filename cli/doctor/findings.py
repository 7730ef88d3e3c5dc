"""What a check found, and what to do about it. PURE."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's answer. `mend` says what to do; empty when there is nothing to do."""

    check: str
    state: State
    found: str
    mend: str = ""


def ok(check: str, found: str) -> Finding:
    """As it should be."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, mend: str) -> Finding:
    """It works, and something of it will hurt one day."""
    return Finding(check, "warning", found, mend)


def failed(check: str, found: str, mend: str) -> Finding:
    """The system cannot do its work like this."""
    return Finding(check, "failed", found, mend)


def skipped(check: str, why: str) -> Finding:
    """Not asked, because what it needs does not answer."""
    return Finding(check, "skipped", why)


def all_fine(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed (warnings and skipped checks do not count)."""
    return not any(finding.state == "failed" for finding in findings)


def age(seconds: float) -> str:
    """A length of time as people say it: `4 s`, `12 min`, `3 h`, `2 days`."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    if seconds < 3600:
        return f"{int(seconds / 60)} min"
    if seconds < 2 * 86_400:
        return f"{int(seconds / 3600)} h"
    return f"{int(seconds / 86_400)} days"
