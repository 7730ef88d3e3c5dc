"""The newest warnings and errors of this process, for those who look at a page and not at logs."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

_KEPT: Final = 20
_LONGEST: Final = 300
_DETAILS: Final = ("reason", "workspace", "repository", "path", "part")


class Complaint(msgspec.Struct, frozen=True):
    """A kind of log line: how often it came, and how it read the last time."""

    at: datetime
    """The last time (UTC)."""
    level: Literal["warning", "error"]
    what: str
    times: int = 1


class Complaints(logging.Handler):
    """Takes what is logged; the last of each kind is kept, and not more kinds than fit a screen."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kinds: OrderedDict[str, Complaint] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line. Text from outside is in it: whoever shows it escapes it."""
        kind, text = _read(record)
        before = self._kinds.pop(kind, None)
        self._kinds[kind] = Complaint(
            datetime.fromtimestamp(record.created, UTC),
            "error" if record.levelno >= logging.ERROR else "warning",
            text[:_LONGEST],
            1 if before is None else before.times + 1,
        )
        while len(self._kinds) > _KEPT:
            self._kinds.popitem(last=False)

    def since(self, moment: datetime) -> list[Complaint]:
        """Those that came again after a moment, the newest first."""
        return [item for item in reversed(self._kinds.values()) if item.at >= moment]


def _read(record: logging.LogRecord) -> tuple[str, str]:
    """What kind of line it is, and its text."""
    if not isinstance(record.msg, Mapping):
        return f"{record.name} {record.msg}", record.getMessage()
    event = str(record.msg.get("event", ""))
    details = [f"{name} {record.msg[name]}" for name in _DETAILS if record.msg.get(name)]
    return event, f"{event.replace('_', ' ')}{': ' if details else ''}{', '.join(details)}"
