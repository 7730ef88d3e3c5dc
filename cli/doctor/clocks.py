"""Do all machines keep the same time: grace periods, leases and the order of events rest on it. PURE.

Kafka tells nobody its time; the receiver's stamps are those that count there.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from cli.doctor.findings import Finding, failed, ok, warning

_TOLERABLE: Final = 5.0
"""Seconds. A `Date` header has whole seconds, and the answer was on its way for a while."""
_HARMFUL: Final = 60.0

Clock = Callable[[], datetime]


def now() -> datetime:
    """The clock of this command."""
    return datetime.now(UTC)


def of_header(text: str | None) -> datetime | None:
    """A `Date` header's moment."""
    try:
        return parsedate_to_datetime(text or "")
    except ValueError:
        return None


def skew(whose: str, date: datetime | None, before: datetime, after: datetime) -> Finding:
    """Whether a clock, told between two moments of ours, agrees with them. `whose`: `the registry's`."""
    if date is None:
        mend = "let the proxy in front of it pass the Date header on"
        return warning("clock", f"{whose} answers carry no Date", mend)
    apart = max((before - date).total_seconds() - 1, (date - after).total_seconds(), 0.0)
    if apart <= _TOLERABLE:
        return ok("clock", f"{whose} agrees with ours")
    behind = "behind" if date < before else "ahead of"
    found = f"{whose} is {apart:.0f} s {behind} ours: grace periods and ages are off by that"
    mend = "let both machines keep time by NTP"
    return (failed if apart > _HARMFUL else warning)("clock", found, mend)
