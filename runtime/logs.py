"""Structured logs: one line an outcome; JSON for machines, short and coloured on a terminal.

Text from outside cannot end a line, begin another or steer a terminal: whatever does not show is
escaped. Secrets of the settings, and tokens that were created, never show.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import SecretStr
from structlog.dev import (
    Column,
    ConsoleRenderer,
    KeyValueColumnFormatter,
    LogLevelColumnFormatter,
)
from structlog.typing import EventDict, Processor, WrappedLogger

from runtime.settings import Settings

_SHORTEST_SECRET: Final = 8
"""Shorter ones cannot be told from words."""
_OUR_TOKEN: Final = re.compile(r"\b(rq_[0-9a-f]{16}_)[A-Za-z0-9_-]{16,}")
_DIGEST: Final = re.compile(r"\b(sha256:[0-9a-f]{12})[0-9a-f]{52}\b")
# What is not seen, or changes what is seen beside it: controls, directions, no-width, surrogates.
_UNSEEN: Final = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def configure_logs(settings: Settings, *, process: str) -> None:
    """Send this process's logs to standard error, `process` named in every line of JSON."""
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True)
        if as_json
        else structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level.lower()),
        cache_logger_on_first_use=True,
    )
    mask = masking(settings)
    handler = _Handler(process, as_json=as_json, mask=mask)
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    handler.setFormatter(
        _Formatter(
            mask,
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([_json] if as_json else [_for_people, _console(colours=colours)]),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for chatty in ("asyncio", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # They tell every failed attempt of an outage, with a traceback: our lines tell the outage.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncpg").setLevel(logging.ERROR)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    structlog.contextvars.bind_contextvars(process=process)


def _is_ours(record: logging.LogRecord) -> bool:
    """What is no HTTP is answered 400 and is its sender's affair: anybody could fill the log with it."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


# -- what is written ------------------------------------------------------------------------------


def _json(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    return seen(structlog.processors.JSONRenderer(ensure_ascii=False)(None, "", line))  # type: ignore[arg-type]


def seen(text: str) -> str:
    """JSON in which everything shows: the same document, escaped where eyes or terminals would err."""
    if text.isascii() and "\x7f" not in text:
        return text
    return _UNSEEN.sub(_utf16, text)


def _utf16(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def visible(text: str) -> str:
    """A text on one line, everything in it to be seen."""
    return text if text.isprintable() else repr(text)[1:-1]


def _value(value: object) -> str:
    if not isinstance(value, str):
        return visible(repr(value))
    plain = value.isprintable() and not set(value) & set(" =\"'") and bool(value)
    return value if plain else repr(value)


def _for_people(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Shorter: without what the terminal's owner knows; nothing behind the first line looks like one."""
    line.pop("process", None)
    for key, value in line.items():
        if isinstance(value, str) and key not in ("event", "exception"):
            line[key] = _DIGEST.sub("\\1…", value)
    if isinstance(trace := line.get("exception"), str):
        line["exception"] = "\n".join(f"    {visible(part)}" for part in trace.splitlines())
    return line


def _console(*, colours: bool) -> Processor:
    styles = ConsoleRenderer.get_default_level_styles(colors=colours)
    dim, bold, cyan, reset = (
        ("\x1b[2m", "\x1b[1m", "\x1b[36m", "\x1b[0m") if colours else ("", "", "", "")
    )

    def column(
        key: str | None, style: str, value: Callable[[object], str]
    ) -> KeyValueColumnFormatter:
        return KeyValueColumnFormatter(
            key_style=None if key is None else key,
            value_style=style,
            reset_style=reset,
            value_repr=value,
        )

    return ConsoleRenderer(
        columns=[
            Column("timestamp", column(None, dim, str)),
            Column("level", LogLevelColumnFormatter(styles, reset_style=reset, width=8)),
            Column("event", column(None, bold, lambda event: visible(str(event)))),
            Column("", column(cyan, "", _value)),
        ],
        sort_keys=False,
    )


# -- what is not ----------------------------------------------------------------------------------


def masking(settings: Settings) -> Callable[[str], str]:
    """Text → the same without the settings' secrets, and without tokens that were created."""
    secrets = sorted(set(_secrets(settings)), key=len, reverse=True)

    def mask(text: str) -> str:
        for secret in secrets:
            if secret in text:
                text = text.replace(secret, "********")
        return _OUR_TOKEN.sub(r"\1********", text) if "rq_" in text else text

    return mask


def _secrets(settings: Settings) -> Iterator[str]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if not isinstance(value, SecretStr):
            continue
        text = value.get_secret_value().strip()
        found = {text, *re.split(r"[,\s]+", text)}
        found |= {part.partition("=")[2] for part in found}
        if "://" in text:
            try:
                password = urlsplit(text).password or ""
            except ValueError:
                password = ""
            found |= {password, unquote(password)}
        for secret in found:
            if len(secret) >= _SHORTEST_SECRET:
                yield secret
                # As it stands in JSON, and in a repr.
                yield msgspec.json.encode(secret).decode()[1:-1]
                yield repr(secret)[1:-1]


class _Formatter(structlog.stdlib.ProcessorFormatter):
    def __init__(self, mask: Callable[[str], str], **options: Any) -> None:
        super().__init__(**options)
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        return self._mask(super().format(record))


# -- writing --------------------------------------------------------------------------------------


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A structured logger named after its module."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


class _Handler(logging.StreamHandler[Any]):
    """Ours, so that many lines can be written at once."""

    def __init__(self, process: str, *, as_json: bool, mask: Callable[[str], str]) -> None:
        super().__init__(sys.stderr)
        self.process = process
        self.as_json = as_json
        self.mask = mask


class Outcomes:
    """Lines about outcomes of one kind, many at a time.

    A line through structlog costs tens of microseconds, ten times what recording an event may; as
    JSON they are encoded and written together. Nothing is written before `configure_logs`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._log = get_logger(name)
        self._root = logging.getLogger()

    def wants(self, level: int = logging.INFO) -> bool:
        """Whether a line of this level would be written."""
        return self._root.isEnabledFor(level)

    def write(self, lines: Sequence[dict[str, Any]], *, level: str = "info") -> None:
        """Write lines; what stands in them has names of its own, beside event, level and process.

        They carry the `trace_id` around, like all others, unless they have one of their own.
        """
        number = logging.getLevelNamesMapping()[level.upper()]
        handler = next((item for item in self._root.handlers if isinstance(item, _Handler)), None)
        if handler is None or not lines or not self.wants(number):
            return
        if not handler.as_json:
            for line in lines:
                self._log.log(number, self._name, **line)
            return
        frame = {
            "event": self._name,
            "level": level,
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "process": handler.process,
        }
        around = structlog.contextvars.get_contextvars()
        text = b"\n".join([msgspec.json.encode({**around, **line, **frame}) for line in lines])
        shown = handler.mask(seen(text.decode()))
        handler.acquire()
        try:
            handler.stream.write(f"{shown}\n")
            handler.flush()
        finally:
            handler.release()


class Sparingly:
    """A line that somebody outside could have written as often as they like: with how many times."""

    def __init__(
        self,
        log: structlog.stdlib.BoundLogger,
        event: str,
        *,
        pause: float = 10.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most one line in `pause` seconds."""
        self._log = log
        self._event = event
        self._pause = pause
        self._now = now
        self._told_at = -pause
        self._times = 0

    def tell(self, **about: Any) -> None:
        """Write the line about this time and those since the last one; or count it."""
        self._times += 1
        now = self._now()
        if now - self._told_at >= self._pause:
            self._log.warning(self._event, times=self._times, **about)
            self._told_at, self._times = now, 0
