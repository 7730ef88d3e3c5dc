"""What an error says, for people: one sentence, never an object's `repr`. PURE."""

import re
from typing import Final

_LIBRARY_OBJECT: Final = re.compile(r"<[\w.]+ (?:object )?at 0x[0-9a-f]+>")
_MOST: Final = 400


def text_of(error: BaseException) -> str:
    """What went wrong, in the error's own words; a name in words where it has none.

    Of what aiohttp says of a connection the reason is kept, not how the library keeps its connections;
    aiokafka puts its own class in front. Cut after 400 characters; one line.
    """
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    reason = getattr(error, "os_error", None)
    if isinstance(reason, OSError):
        where = f"{getattr(error, 'host', '')}:{getattr(error, 'port', '')}".strip(":")
        why = reason.strerror or str(reason) or "no connection"
        return f"cannot connect to {where}: {why}" if where else why
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = _LIBRARY_OBJECT.sub("", str(error)).strip()
    text = re.sub(rf"^{type(error).__name__}:\s*", "", text)
    text = " ".join(text.split())[:_MOST]
    return text or _words(type(error).__name__)


def _words(name: str) -> str:
    """`NodeNotReadyError` → `node not ready`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.removesuffix("Error")).lower() or "error"
