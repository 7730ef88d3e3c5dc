"""One registry over HTTP: authentication, limits, retries. Knows no registry API.

Redirects are not followed, with one exception: a blob that lives in object storage, when its host
is allowed by the configuration. Nothing but the registry, its token realm and those hosts is ever
contacted.
"""

import asyncio
import io
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, Self

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from registry.address import host_allowed, named_url
from registry.auth import Authorizer
from registry.errors import (
    RegistryDenied,
    RegistryError,
    RegistryRefused,
    RegistryUnavailable,
    SentElsewhere,
    TooLarge,
    WrongContent,
)
from runtime.errors import text_of
from runtime.tls import advice
from runtime.tracing import part

MAX_ERROR_BYTES: Final = 64 * 1024
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how long to try again. Seconds.

    A registry that asks for more than `longest_wait` by Retry-After is not waited for.
    """

    attempts: int = 4
    first_wait: float = 0.2
    longest_wait: float = 10.0

    def wait(self, attempt: int, jitter: float) -> float:
        """Seconds before the try after `attempt` (0, 1, …): doubling, between half of it and it."""
        ceiling = min(self.first_wait * 2.0**attempt, self.longest_wait)
        return ceiling * (0.5 + jitter / 2)


@dataclass(frozen=True, slots=True)
class Answer:
    """A registry's answer, body read. `date` is the registry's own clock (aware, UTC)."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: URL
    date: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to ask. `scope` is the token scope it needs; `max_bytes` is the longest body accepted."""

    method: str
    url: URL
    scope: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    max_bytes: int = MAX_ERROR_BYTES


@dataclass(slots=True)
class Transport:
    """Requests to the registry at `base`, at most `concurrency` at a time.

    Use as an async context manager; it owns its connections. `timeout` is seconds for one try.
    `sleep` and `jitter` (0 to 1) are there for tests.
    """

    base: URL
    authorizer: Authorizer
    user_agent: str
    concurrency: int = 8
    timeout: float = 30.0
    retries: Retries = field(default_factory=Retries)
    redirect_hosts: frozenset[str] = frozenset()
    tls: ssl.SSLContext | None = None
    """Whom to trust behind https; None: whom the system trusts."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    _session: aiohttp.ClientSession | None = field(default=None, init=False)
    _quiet_until: float = field(default=0.0, init=False)
    """The event loop's time until which the registry asked to be left alone."""
    tried: int = field(default=0, init=False)
    """Requests that were tried, each try counted."""
    _slots: asyncio.Semaphore = field(init=False)
    _closing: AsyncExitStack = field(default_factory=AsyncExitStack, init=False)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.concurrency)

    async def __aenter__(self) -> Self:
        self._session = await self._closing.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self.tls or True),
                timeout=aiohttp.ClientTimeout(total=self.timeout, connect=min(5.0, self.timeout)),
                # Nothing is compressed or decompressed: digests are of what is on the wire, and a
                # small answer cannot become a large one.
                headers={"User-Agent": self.user_agent, "Accept-Encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()
        self._session = None

    async def send(
        self,
        request: Request,
        check: Callable[[Answer], None] = lambda _answer: None,
        *,
        again: bool = True,
    ) -> Answer:
        """Send a request, again while that may help; other answers of 300 and above are returned.

        `check` looks at an answer and raises a RegistryError to have it refused (and, when that is
        retriable, asked for again, unless `again` is False). Raises RegistryUnavailable for no answer, 5xx and 429,
        RegistryDenied for 401 and 403, TooLarge past `max_bytes`, WrongContent for a body cut short.
        """
        attempt = 0
        while True:
            try:
                async with self._slots:
                    if attempt == 0:
                        await self._keep_quiet()
                    self.tried += 1
                    answer = await self._traced(request)
                _check_status(request, answer)
                check(answer)
                return answer
            except RegistryError as error:
                attempt += 1
                if not again or not error.retriable or attempt >= self.retries.attempts:
                    raise
                asked = error.retry_after if isinstance(error, RegistryUnavailable) else None
                if asked is not None and asked > self.retries.longest_wait:
                    raise
                wait = max(self.retries.wait(attempt - 1, self.jitter()), asked or 0.0)
                if asked is not None:
                    now = asyncio.get_running_loop().time()
                    self._quiet_until = max(self._quiet_until, now + wait)
            await self.sleep(wait)

    async def _keep_quiet(self) -> None:
        """What one request was told by Retry-After holds for those that follow."""
        pause = self._quiet_until - asyncio.get_running_loop().time()
        if pause > 0:
            await self.sleep(pause)

    async def _traced(self, request: Request) -> Answer:
        path = request.url.raw_path
        with part(
            f"{request.method} registry",
            kind="client",
            attributes={"http.request.method": request.method, "url.path": path},
        ) as span:
            answer = await self._authorized(request)
            if span is not None:
                span.note({"http.response.status_code": answer.status})
        return answer

    async def _authorized(self, request: Request) -> Answer:
        if self._session is None:
            raise RuntimeError("the registry client is used outside of its `async with`")
        session = self._session
        known = self.authorizer.header(request.scope)
        answer = await _exchange(session, request, known)
        if answer.status == 401:
            challenges = answer.headers.getall("WWW-Authenticate", [])
            fresh = await self.authorizer.answer(session, request.scope, challenges)
            answer = await _exchange(session, request, fresh)
        if answer.status in REDIRECTS and request.method in ("GET", "HEAD"):
            target = _redirect_target(answer, self.redirect_hosts)
            if target is not None:
                # Our credentials are the registry's business, not the storage's.
                answer = await _exchange(session, replace(request, url=target), None)
        return answer


async def _exchange(
    session: aiohttp.ClientSession, request: Request, authorization: str | None
) -> Answer:
    headers = dict(request.headers)
    if authorization:
        headers["Authorization"] = authorization
    where = f"{request.method} {request.url.raw_path}"
    try:
        async with session.request(
            request.method,
            request.url,
            headers=headers,
            data=_sendable(request.body),
            allow_redirects=False,
        ) as response:
            body = await _read(response, request.max_bytes)
    except aiohttp.ClientPayloadError as error:
        raise WrongContent(f"the answer to {where} was cut short") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        mend = f" ({told})" if (told := advice(error)) else ""
        raise RegistryUnavailable(f"no answer to {where}: {text_of(error)}{mend}") from error
    date = http_date(response.headers.get("Date"))
    return Answer(response.status, response.headers, body, request.url, date)


@lru_cache(maxsize=64)  # the same for all answers of a second
def http_date(text: str | None) -> datetime | None:
    """An HTTP date (aware, UTC), None when there is none or it cannot be read."""
    try:
        return parsedate_to_datetime(text or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _sendable(body: bytes | None) -> io.BytesIO | None:
    """A body as aiohttp sends it piece by piece: bytes in one piece would hold up everything else."""
    return None if body is None else io.BytesIO(body)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    # An error's body is only ever quoted: what is beyond the limit is of no use.
    limit = max_bytes if response.status < 300 else MAX_ERROR_BYTES
    if response.method == "HEAD":
        return b""
    announced = response.content_length or 0
    parts: list[bytes] = []
    size = 0
    if announced <= limit or response.status >= 300:
        async for part in response.content.iter_chunked(65_536):
            size += len(part)
            if size > limit:
                break
            parts.append(part)
        else:
            return b"".join(parts)
    response.close()
    if response.status >= 300:
        return b"".join(parts)
    raise TooLarge(f"the answer is larger than {limit} bytes")


def _check_status(request: Request, answer: Answer) -> None:
    if answer.status == 429 or answer.status >= 500:
        raise RegistryUnavailable(
            describe(request, answer), date=answer.date, retry_after=_retry_after(answer)
        )
    if answer.status in (401, 403):
        raise RegistryDenied(describe(request, answer), date=answer.date)


def describe(request: Request, answer: Answer) -> str:
    """What was asked and answered, for a message: the registry's words escaped and short."""
    said = answer.body[:300].decode("utf-8", "replace").strip()
    where = f"{request.method} {request.url.raw_path} was answered {answer.status}"
    return f"{where}: {said!a}" if said else where


def sent_elsewhere(request: Request, answer: Answer) -> SentElsewhere:
    """A redirect that was not followed, as the error that says what allows it."""
    try:
        target = named_url(answer.headers.get("Location", ""), answer.url)
        host = (target.host or "").lower()
    except ValueError:
        host = ""
    where = f"{request.method} {request.url.raw_path} was answered {answer.status}"
    mend = f"set RQ_REGISTRY_REDIRECT_HOSTS={host} to follow it" if host else "to no address"
    if answer.url.scheme == "https" and host and target.scheme != "https":
        mend = f"from https to http at {host}, which is never followed"
    return SentElsewhere(f"{where}: {mend}", date=answer.date, host=host)


def _retry_after(answer: Answer) -> float | None:
    """Seconds, from `Retry-After` as seconds or as a date by the registry's own clock."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    until = http_date(text)
    if until is None or answer.date is None:
        return None
    return max((until - answer.date).total_seconds(), 0.0)


def _redirect_target(answer: Answer, allowed: frozenset[str]) -> URL | None:
    try:
        target = named_url(answer.headers.get("Location", ""), answer.url)
    except ValueError as error:
        raise RegistryRefused(f"the registry redirects to no address: {error}") from None
    if answer.url.scheme == "https" and target.scheme != "https":
        return None
    return target if host_allowed(target, allowed) else None
