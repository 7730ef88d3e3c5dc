"""Structured logs: one line an outcome; JSON for machines, readable on a terminal."""

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from structlog.typing import Processor

from runtime.settings import Settings


def configure_logs(settings: Settings, *, process: str) -> None:
    """Send this process's logs to standard error, `process` named in every line.

    Text from outside is escaped by the renderers (JSON, or repr on a terminal).
    """
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(pad_event_to=0)
    )
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level.lower()),
        cache_logger_on_first_use=True,
    )
    handler = _Handler(process, as_json=as_json)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for chatty in ("asyncio", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It tells every failed attempt of an outage as an error of its own: our lines tell the outage.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    structlog.contextvars.bind_contextvars(process=process)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A structured logger named after its module."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


class _Handler(logging.StreamHandler[Any]):
    """Ours, so that many lines can be written at once."""

    def __init__(self, process: str, *, as_json: bool) -> None:
        super().__init__(sys.stderr)
        self.process = process
        self.as_json = as_json


class Outcomes:
    """Lines about outcomes of one kind, many at a time.

    A line through structlog costs tens of microseconds, ten times what recording an event may; as
    JSON they are encoded and written together. Nothing is written before `configure_logs`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._log = get_logger(name)
        self._root = logging.getLogger()

    def wants(self, *, telling: bool) -> bool:
        """Whether a line would be written: a `telling` one at level info, others at debug."""
        return self._root.isEnabledFor(logging.INFO if telling else logging.DEBUG)

    def write(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write lines; what stands in them has names of its own, beside event, level and process."""
        handler = next((item for item in self._root.handlers if isinstance(item, _Handler)), None)
        if handler is None or not lines:
            return
        if not handler.as_json:
            for line in lines:
                self._log.info(self._name, **line)
            return
        frame = {
            "event": self._name,
            "level": "info",
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "process": handler.process,
        }
        text = b"\n".join([msgspec.json.encode({**line, **frame}) for line in lines]).decode()
        handler.acquire()
        try:
            handler.stream.write(f"{text}\n")
            handler.flush()
        finally:
            handler.release()
