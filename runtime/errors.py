"""What an error says, for people: in its own words and in one line, never an object's `repr`. PURE."""

import os
import re
from typing import Final

# What libraries put into their texts for themselves.
_FOR_THEMSELVES: Final = (
    (re.compile(r"<[\w.]+ (?:object )?at 0x[0-9a-f]+>"), ""),
    (re.compile(r"Unable to bootstrap from \[.*\]"), "nobody answers there"),
    (re.compile(r"\[Errno -?\d+\] "), ""),
)
_MOST: Final = 400


def text_of(error: BaseException) -> str:
    """What went wrong; the error's name in words where it says nothing. One line, 400 characters at most.

    Of a connection that failed: where to, and why, not how the library keeps its connections.
    """
    reason = getattr(error, "os_error", None)  # aiohttp's
    if isinstance(reason, OSError):
        host, port = str(getattr(error, "host", "")), getattr(error, "port", "")
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}".strip(":")
        return f"no connection to {where}: {text_of(reason)}" if where else text_of(reason)
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    text = str(error)
    for pattern, instead in _FOR_THEMSELVES:
        text = pattern.sub(instead, text)
    name = type(error).__name__
    text = " ".join(text.removeprefix(f"{name}: ").split())
    if text and text != name:
        return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"
    return "no answer in time" if isinstance(error, TimeoutError) else _words(name)


def _words(name: str) -> str:
    """`ServerDisconnectedError` → `server disconnected`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.removesuffix("Error")).lower() or "error"
