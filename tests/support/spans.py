"""Traces that stay in memory, for tests within one process."""

from typing import Any


class Recorded:
    """A span in memory."""

    def __init__(self, number: int, name: str, parent: str | None) -> None:
        self.name = name
        self.parent = parent
        self.traceparent = f"00-{1:032x}-{number:016x}-01"
        self.noted: dict[str, Any] = {}
        self.why: str | None = None
        self.ended = False

    def note(self, attributes: Any) -> None:
        self.noted |= attributes

    def failed(self, reason: str) -> None:
        self.why = reason

    def forget(self) -> None:
        raise AssertionError("nothing here is forgotten")

    def end(self) -> None:
        self.ended = True


class Recording:
    """Traces in memory: all of one trace."""

    def __init__(self) -> None:
        self.spans: list[Recorded] = []

    def start(
        self,
        name: str,
        *,
        kind: str = "internal",
        parent: str | None = None,
        links: Any = (),
        attributes: Any = None,
    ) -> Recorded:
        span = Recorded(len(self.spans) + 1, name, parent)
        span.noted |= {"kind": kind, "links": links, **(attributes or {})}
        self.spans.append(span)
        return span

    def named(self, name: str) -> list[Recorded]:
        return [span for span in self.spans if span.name == name]
