"""A delivery too large for one piece → its events, while it arrives (pure).

`registry.notifications` reads an envelope that is all there. Here only the bounds of its events are
looked for, by regular expressions on bytes: every event is handed on as the registry sent it, unless
it is longer than a record may be. Such a one is handed on without its long members: a registry tells
digest, repository and tag before `references`, and what those say is in the manifest, too.

What is held is bounded by one event, and the work by what arrived. A parser of values (ijson was tried)
fits neither: it tells no bounds, builds every string whole, and takes ten seconds for the 12 MB that an
annotation of 2 MB becomes, because it begins a string anew with every piece that arrives.
"""

import re
from collections.abc import Generator
from typing import Final, TypeVar

import msgspec

from registry.notifications import MAX_EVENTS, BadEnvelope, TooManyEvents

LONGEST_MEMBER: Final = 16 * 1024
"""Bytes of a member that an event is not shortened by: what is read of an event is far below."""
EXCERPT_BYTES: Final = 64 * 1024
"""Bytes that are kept of what is longer than a record and no object."""

_MOST_KEPT: Final = 256 * 1024
_LONGEST_NAME: Final = 64 * 1024
_DEEPEST: Final = 1_000
_MOST_MEMBERS: Final = 1_000
_LEAST_STEPS: Final = 10_000
_SHORTEST_STEP: Final = 24
_SHORTEST_EVENT: Final = 200
"""Bytes, by far: below them are braces, brackets and events that no registry sends, and each costs time."""

_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_INSIDE: Final = rb'[^"{}\[\]]++|' + _STRING


def _containers(levels: int) -> bytes:
    """An object or list that is all there, with so many levels of them inside."""
    inside = _INSIDE if levels == 0 else _INSIDE + b"|" + _containers(levels - 1)
    return rb"[{\[](?:" + inside + rb")*+[}\]]"


_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_NAME: Final = re.compile(_STRING, re.DOTALL)
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_SCALAR: Final = re.compile(rb'[^\s"{}\[\],:]*+')
_CONTAINER: Final = re.compile(_containers(5), re.DOTALL)
_RUN: Final = re.compile(rb"(?:" + _INSIDE + b"|" + _containers(2) + rb")*+", re.DOTALL)

_QUOTE, _COMMA, _COLON, _ESCAPE = b'",:\\'
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = b"{}[]"

_T = TypeVar("_T")
_Steps = Generator[None, bytes, _T]


class StreamedEvent(msgspec.Struct, frozen=True):
    """An event: its bytes as they were sent, or (`shortened`) an object of its short members."""

    raw: bytes
    shortened: bool = False


class EventStream:
    """Takes an envelope in pieces, hands on its events; use once."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes`: an event longer than this is shortened."""
        self._most = most_bytes
        self._window = b""
        self._at = 0
        self._seen = 0
        self._steps = 0
        self._number = 0
        self._members_read = 0
        self._ready: list[StreamedEvent] = []
        self._event: bytearray | None = None  # None: between two
        self._shortened = False
        self._member: bytearray | None = None
        self._kept: list[tuple[bytes, bytes, bytes]] = []
        self._kept_bytes = 0
        self._reading = self._envelope()
        next(self._reading)

    @property
    def held(self) -> int:
        """Bytes that are held of an event that is not complete."""
        return len(self._event or b"")

    def feed(self, data: bytes) -> list[StreamedEvent]:
        """Take the next bytes; the events that they complete.

        The work holds up everything else: give pieces of some 64 KiB. Raises BadEnvelope for what is
        no envelope of events; nothing can be fed any more then.
        """
        self._seen += len(data)
        if data:
            self._reading.send(data)
        ready, self._ready = self._ready, []
        return ready

    def end(self) -> None:
        """There is no more. Raises BadEnvelope when there should be."""
        try:
            self._reading.send(b"")
        except StopIteration:
            return

    def shorten(self) -> None:
        """Hold nothing long of the event that is just arriving: it will be shortened."""
        if self._event is not None and not self._shortened:
            self._shortened = True
            del self._event[EXCERPT_BYTES:]

    # The window: what arrived and is not read yet

    def _more(self) -> _Steps[None]:
        data = yield
        if not data:
            raise BadEnvelope(f"not JSON: it ends at byte {self._seen}, before its end")
        self._window = self._window[self._at :] + data
        self._at = 0

    def _take(self, end: int) -> None:
        """Read on to `end`."""
        if self._event is not None:
            piece = self._window[self._at : end]
            if not self._shortened:
                self._event += piece
                if len(self._event) > self._most:
                    self.shorten()
            if self._member is not None and len(self._member) <= LONGEST_MEMBER:
                self._member += piece
        self._at = end

    def _next(self) -> _Steps[int]:
        """The next byte that is no space; it is not read yet."""
        while True:
            matched = _SPACE.match(self._window, self._at)
            self._take(matched.end() if matched else self._at)
            if self._at < len(self._window):
                return self._window[self._at]
            yield from self._more()

    def _one_of(self, *wanted: int) -> _Steps[int]:
        """Read one of these bytes."""
        found = yield from self._next()
        if found not in wanted:
            where = self._seen - len(self._window) + self._at
            raise BadEnvelope(f"not JSON: {chr(found)!a} at byte {where}")
        self._take(self._at + 1)
        return found

    # JSON, as far as it matters where something ends

    def _envelope(self) -> _Steps[None]:
        if (yield from self._next()) != _OPEN:
            raise BadEnvelope("not an envelope of events: no object")
        found = False
        self._take(self._at + 1)
        more = (yield from self._next()) != _CLOSE
        if not more:
            self._take(self._at + 1)
        while more:
            name = yield from self._name()
            yield from self._one_of(_COLON)
            if name == b'"events"':
                found = True
                yield from self._events()
            else:
                yield from self._value()
            more = (yield from self._one_of(_COMMA, _CLOSE)) == _COMMA
        if not found:
            raise BadEnvelope("not an envelope of events: no `events`")
        while True:
            matched = _SPACE.match(self._window, self._at)
            if matched is None or matched.end() < len(self._window):
                raise BadEnvelope("not JSON: it goes on behind its end")
            data = yield
            if not data:
                return
            self._window, self._at = data, 0

    def _events(self) -> _Steps[None]:
        if (yield from self._next()) != _OPEN_LIST:
            raise BadEnvelope("not an envelope of events: `events` is no list")
        self._take(self._at + 1)
        if (yield from self._next()) == _CLOSE_LIST:
            self._take(self._at + 1)
            return
        while True:
            yield from self._next()
            yield from self._one_event()
            if (yield from self._one_of(_COMMA, _CLOSE_LIST)) == _CLOSE_LIST:
                return

    def _one_event(self) -> _Steps[None]:
        self._number += 1
        if self._number > MAX_EVENTS + self._seen // _SHORTEST_EVENT:
            raise TooManyEvents(f"more than {self._number - 1} events in {self._seen} bytes")
        self._members_read = 0
        self._event, self._shortened = bytearray(), False
        self._kept, self._kept_bytes = [], 0
        is_object = self._window[self._at] == _OPEN
        whole = _CONTAINER.match(self._window, self._at) if is_object else None
        if whole is not None and whole.end() - self._at <= self._most:
            self._take(whole.end())
        elif is_object:
            yield from self._members(b"")
        else:
            yield from self._value()
        raw = self._of_short_members() if self._shortened and is_object else bytes(self._event)
        self._ready.append(StreamedEvent(raw, self._shortened))
        self._event, self._members_read = None, 0

    def _members(self, of: bytes) -> _Steps[None]:
        """Read an object; its short members are kept. `of` is its own name, in the event's object."""
        self._take(self._at + 1)
        if (yield from self._next()) == _CLOSE:
            self._keep(of, b"", b"")
            self._take(self._at + 1)
            return
        while True:
            name = yield from self._name()
            yield from self._one_of(_COLON)
            if (yield from self._next()) == _OPEN and not of:
                yield from self._members(name)
            else:
                self._member = bytearray()
                yield from self._value()
                if len(self._member) <= LONGEST_MEMBER:
                    self._keep(of, name, bytes(self._member))
                self._member = None
            if (yield from self._one_of(_COMMA, _CLOSE)) == _CLOSE:
                return

    def _keep(self, of: bytes, name: bytes, value: bytes) -> None:
        self._kept_bytes += len(of) + len(name) + len(value)
        if self._kept_bytes <= _MOST_KEPT:
            self._kept.append((of, name, value))

    def _of_short_members(self) -> bytes:
        """The event without what is long, and with every object that it has."""
        members: dict[bytes, bytes] = {}
        inner: dict[bytes, list[bytes]] = {}
        for of, name, value in self._kept:
            if not of:
                members[name] = value
            else:
                inner.setdefault(of, []).extend([b"%s:%s" % (name, value)] if name else [])
                members[of] = b"{%s}" % b",".join(inner[of])
        return b"{%s}" % b",".join(b"%s:%s" % member for member in members.items())

    def _name(self) -> _Steps[bytes]:
        self._members_read += 1
        if self._members_read > _MOST_MEMBERS:
            raise BadEnvelope(
                f"not an envelope of events: an object of over {_MOST_MEMBERS} members"
            )
        if (yield from self._next()) != _QUOTE:
            yield from self._one_of(_QUOTE)
        while (matched := _NAME.match(self._window, self._at)) is None:
            if len(self._window) - self._at > _LONGEST_NAME:
                raise BadEnvelope("not JSON that anybody needs: a name without an end")
            yield from self._more()
        self._take(matched.end())
        return matched[0]

    def _value(self) -> _Steps[None]:
        first = yield from self._next()
        if first == _QUOTE:
            yield from self._string()
        elif first in (_OPEN, _OPEN_LIST):
            yield from self._container()
        else:
            yield from self._scalar()

    def _scalar(self) -> _Steps[None]:
        empty = True
        while True:
            matched = _SCALAR.match(self._window, self._at)
            end = matched.end() if matched else self._at
            empty = empty and end == self._at
            self._take(end)
            if self._at < len(self._window):
                break
            yield from self._more()
        if empty:
            yield from self._one_of()

    def _string(self) -> _Steps[None]:
        self._take(self._at + 1)
        while True:
            self._take(self._string_until())
            if self._at < len(self._window) and self._window[self._at] == _QUOTE:
                self._take(self._at + 1)
                return
            yield from self._more()  # an escape may be cut in two

    def _string_until(self) -> int:
        r"""Where a string's quote is in the window, or where what there is of it ends.

        Looked for as no expression can: a registry waits a second for 24 MB of `\\u003c`.
        """
        quote = self._window.find(b'"', self._at)
        end = len(self._window) if quote < 0 else quote
        before = self._window[self._at : end]
        escapes = len(before) - len(before.rstrip(b"\\"))
        if escapes % 2 == 0:
            return end
        if quote < 0:
            return end - 1
        matched = _IN_STRING.match(self._window, self._at)
        return matched.end() if matched else self._at

    def _container(self) -> _Steps[None]:
        whole = _CONTAINER.match(self._window, self._at)
        if whole is not None:
            self._take(whole.end())
            return
        self._take(self._at + 1)
        depth = 1
        while depth:
            matched = _RUN.match(self._window, self._at)
            self._take(matched.end() if matched else self._at)
            if self._at == len(self._window):
                yield from self._more()
                continue
            found = self._window[self._at]
            if found == _QUOTE:
                yield from self._string()
                continue
            self._take(self._at + 1)
            depth += 1 if found in (_OPEN, _OPEN_LIST) else -1
            self._bound(depth)

    def _bound(self, depth: int) -> None:
        self._steps += 1
        if depth > _DEEPEST:
            raise BadEnvelope("not JSON that anybody needs: nested too deeply")
        if self._steps > _LEAST_STEPS + self._seen // _SHORTEST_STEP:
            raise BadEnvelope(
                "not an envelope of events: more of braces and brackets than of anything"
            )
