"""How the receiver is, as it says itself: for the status, which is another process's."""

import time
from collections import deque
from typing import Final, Literal, NamedTuple

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from runtime.errors import text_of
from runtime.settings import Settings
from runtime.tls import advice, client_context

_PATIENCE: Final = aiohttp.ClientTimeout(total=2.0)
_FRESH: Final = 1.0
"""Seconds for which an answer is told again."""
_LATELY: Final = 300.0
"""Seconds that count as "the last minutes"."""
_REQUESTS: Final = "registry_quota_receiver_requests"
_STARTED: Final = "registry_quota_receiver_start_time_seconds"
_ACCEPTED, _UNAUTHORIZED, _UNAVAILABLE = "202", "401", "503"


class Receiver(msgspec.Struct, frozen=True):
    """Counters are of the process that answered, since it started."""

    url: str
    state: Literal["up", "not ready", "down", "unknown"]
    reason: str = ""
    """Why it is not up."""
    accepted: int = 0
    refused: int = 0
    """Everything that was not answered 202; the registry sends all of it again."""
    unavailable_lately: int = 0
    """Answered 503 in the last minutes: Kafka did not take it in time."""
    unauthorized_lately: int = 0
    """Answered 401 in the last minutes."""


class ReceiverWatch:
    """Asks the receiver's `/readyz` and `/metrics`. A client session of its own; close it."""

    def __init__(self, settings: Settings) -> None:
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
        self._told = settings.receiver_url is not None
        scheme = "http" if settings.tls_cert is None else "https"
        self._base = (
            URL(settings.receiver_url)
            if settings.receiver_url
            else URL.build(scheme=scheme, host=host, port=settings.receiver_port)
        )
        self._tls = client_context(settings)
        self._session: aiohttp.ClientSession | None = None
        self._known: tuple[float, Receiver] | None = None
        self._looks: dict[float, deque[tuple[float, dict[str, int]]]] = {}

    async def close(self) -> None:
        """Hang up."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def look(self) -> Receiver:
        """How it is now, or was a moment ago."""
        now = time.monotonic()
        if self._known is None or now - self._known[0] > _FRESH:
            self._known = (now, await self._ask(now))
        return self._known[1]

    async def _ask(self, now: float) -> Receiver:
        url = str(self._base)
        try:
            if self._session is None:
                connector = aiohttp.TCPConnector(ssl=self._tls)
                self._session = aiohttp.ClientSession(timeout=_PATIENCE, connector=connector)
            async with self._session.get(self._base / "readyz") as response:
                ready = response.status == 200
                answer = await response.json(content_type=None)
            async with self._session.get(self._base / "metrics") as response:
                counted = _counted(await response.text())
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            why = advice(error) or text_of(error)
            silent = "in time" if isinstance(error, TimeoutError) else f"({why})"
            reason = f"does not answer {silent}"
            if not self._told:
                reason = f"nobody answers at {url}, and no other address is set"
            return Receiver(url, "down" if self._told else "unknown", reason)
        counts, lately = counted.answers, self._lately(now, counted)
        return Receiver(
            url,
            "up" if ready else "not ready",
            "" if ready else f"is not ready: {_reason(answer)}",
            accepted=counts.get(_ACCEPTED, 0),
            refused=sum(counts.values()) - counts.get(_ACCEPTED, 0),
            unavailable_lately=lately.get(_UNAVAILABLE, 0),
            unauthorized_lately=lately.get(_UNAUTHORIZED, 0),
        )

    def _lately(self, now: float, answer: "_Counted") -> dict[str, int]:
        """What that process has answered since the oldest look at it of the last minutes."""
        for started, looks in list(self._looks.items()):
            while looks and now - looks[0][0] > _LATELY:
                looks.popleft()
            if not looks:
                del self._looks[started]  # it is gone
        looks = self._looks.setdefault(answer.started, deque())
        looks.append((now, answer.answers))
        before = looks[0][1]
        return {status: count - before.get(status, 0) for status, count in answer.answers.items()}


class _Counted(NamedTuple):
    """What one process has counted. Behind one address there may be several: `started` tells which."""

    started: float
    answers: dict[str, int]
    """Status → deliveries that were answered so."""


def _counted(exposition: str) -> _Counted:
    started, answers = 0.0, {}
    for family in text_string_to_metric_families(exposition):
        if family.name == _STARTED:
            started = family.samples[0].value
        elif family.name == _REQUESTS:
            answers = {item.labels["status"]: int(item.value) for item in family.samples}
    return _Counted(started, answers)


def _reason(answer: object) -> str:
    return str(answer.get("reason", "")) if isinstance(answer, dict) else ""
