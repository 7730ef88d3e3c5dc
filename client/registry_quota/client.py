"""The client: a method a question. `call` is there for what has no method of its own."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import UUID

import aiohttp
import msgspec

from registry_quota.errors import RefusedError, RegistryQuotaError, UnreachableError
from registry_quota.models import (
    Enforcement,
    HookAnswer,
    Image,
    Mapped,
    Reservation,
    StartedCleanup,
    Usage,
    Workspace,
)

Model = TypeVar("Model")

_PAGE = 1000
_ON_THE_WAY = 5.0
"""Seconds that an answer may need on its way beyond the time that the API was given."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 10.0
"""Seconds between two questions while there is no answer."""
_MOST_SHOWN = 200


class RegistryQuota:
    """Talks to one API with one token. Use as an async context manager; safe to share between tasks."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        session: aiohttp.ClientSession | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`url` is the API's base address. Seconds. A `session` that is given stays the caller's.

        `tls` says whom to trust behind https, for an authority of one's own:
        `ssl.create_default_context(cafile="ca.pem")`.
        """
        self.base = url.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._session = session
        self._tls = tls
        self._owned = session is None

    async def __aenter__(self) -> Self:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._tls or True)
            self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._owned and self._session is not None:
            await self._session.close()
            self._session = None

    # -- the hook --------------------------------------------------------------------------------

    async def pre_build(
        self,
        workspace: str,
        *,
        app: str | None = None,
        build_id: str | None = None,
        incoming_bytes: int | None = None,
        layers: Sequence[tuple[str, int]] | None = None,
        dry_run: bool = False,
        timeout_s: float = 60.0,
        wait_s: float = 0.0,
    ) -> HookAnswer:
        """Is there room for a build? If not, some is made. Answers within about `timeout_s` seconds.

        `layers` are (digest, bytes) of the image, better than `incoming_bytes`. With a `build_id` the
        incoming bytes are reserved for an hour. Needs the scope `hook`. While there is no answer it is
        asked again for `wait_s` seconds; the last of them may take `timeout_s` longer.
        """
        body: dict[str, Any] = {"workspace": workspace, "dry_run": dry_run, "timeout_s": timeout_s}
        given = {"app": app, "build_id": build_id, "incoming_bytes": incoming_bytes}
        body |= {name: value for name, value in given.items() if value is not None}
        if layers is not None:
            body["layers"] = [{"digest": digest, "size": size} for digest, size in layers]
        clock = asyncio.get_running_loop().time
        end, pause = clock() + wait_s, _FIRST_PAUSE
        while True:
            try:
                answer = await self.call(
                    "POST", "/v1/hooks/pre-build", body=body, timeout_s=timeout_s + _ON_THE_WAY
                )
                return _read(answer, HookAnswer)
            except RegistryQuotaError as error:
                left = end - clock()
                if left <= 0 or (isinstance(error, RefusedError) and not error.retriable):
                    raise
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    # -- workspaces ------------------------------------------------------------------------------

    async def workspaces(self) -> AsyncIterator[Workspace]:
        """The workspaces that the token may see, by name. Scope `read`."""
        async for item in self._items("/v1/workspaces"):
            yield _read(item, Workspace)

    async def workspace(self, name: str) -> Workspace:
        """One workspace's settings and account. Scope `read`."""
        return _read(await self.call("GET", workspace_path(name)), Workspace)

    async def configure(
        self,
        name: str,
        *,
        quota_bytes: int | None = None,
        enforcement: Enforcement | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> Workspace:
        """Change settings; what is not given stays. The workspace may be new. Scope `admin`."""
        given = {"quota_bytes": quota_bytes, "enforcement": enforcement, "policy": policy}
        body = {name: value for name, value in given.items() if value is not None}
        return _read(await self.call("PATCH", workspace_path(name), body=body), Workspace)

    async def usage(self, workspace: str) -> Usage:
        """What a workspace stores. Scope `read`."""
        return _read(await self.call("GET", workspace_path(workspace, "usage")), Usage)

    async def images(
        self, workspace: str, *, app: str | None = None, tag: str | None = None
    ) -> AsyncIterator[Image]:
        """Images, newest push first. Scope `read`."""
        async for item in self._items(workspace_path(workspace, "images"), app=app, tag=tag):
            yield _read(item, Image)

    async def clean(self, workspace: str, *, timeout_s: float = 60.0) -> StartedCleanup:
        """Clean a workspace towards its target now. Scope `write`."""
        answer = await self.call(
            "POST",
            workspace_path(workspace, "cleanups"),
            body={"timeout_s": timeout_s},
            timeout_s=timeout_s + _ON_THE_WAY,
        )
        return _read(answer, StartedCleanup)

    # -- reservations and repositories -----------------------------------------------------------

    async def reserve(
        self,
        workspace: str,
        build_id: str,
        size: int,
        *,
        app: str | None = None,
        ttl_s: int = 3600,
    ) -> Reservation:
        """Set bytes aside for a build; the same build's are replaced. Scope `hook`."""
        body: dict[str, Any] = {"build_id": build_id, "bytes": size, "ttl_s": ttl_s}
        if app is not None:
            body["app"] = app
        answer = await self.call("POST", workspace_path(workspace, "reservations"), body=body)
        return _read(answer, Reservation)

    async def release(self, workspace: str, reservation: UUID | str) -> None:
        """Give a reservation back. Scope `hook`."""
        await self.call("DELETE", workspace_path(workspace, "reservations", str(reservation)))

    async def map_repository(
        self, repository: str, workspace: str, *, app: str | None = None, registry: str = "default"
    ) -> Mapped:
        """Give a repository and what it stores to another workspace. Scope `admin` on both."""
        body = {"workspace": workspace} if app is None else {"workspace": workspace, "app": app}
        path = f"/v1/repositories/{quote(registry, safe='')}/{quote(repository)}"
        return _read(await self.call("PUT", path, body=body), Mapped)

    # -- everything else -------------------------------------------------------------------------

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """The JSON of an answer, None of an empty one. Raises UnreachableError, RefusedError."""
        if self._session is None:
            raise RuntimeError("use it as an async context manager: `async with RegistryQuota(…)`")
        params = {key: str(value) for key, value in (query or {}).items() if value is not None}
        try:
            async with self._session.request(
                method,
                f"{self.base}{path}",
                data=None if body is None else msgspec.json.encode(body),
                params=params,
                headers={
                    "Authorization": f"Bearer {self._token}",
                    "Content-Type": "application/json",
                },
                timeout=aiohttp.ClientTimeout(
                    total=timeout_s or self._timeout, connect=self._connect_timeout
                ),
                allow_redirects=False,
            ) as response:
                return _document(response.status, await response.read(), self.base)
        except TimeoutError as error:
            raise UnreachableError(f"the API at {self.base} did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            hint = ""
            if (
                self.base.startswith("http://")
                and isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
                and not isinstance(error, aiohttp.ClientConnectorError)
            ):
                hint = "; if it speaks TLS, its address begins with https://"
            raise UnreachableError(
                f"the API at {self.base} does not answer as it should ({_reason(error)}{hint})"
            ) from error

    async def items(self, path: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
        """Every item of a list that comes in pages, as JSON."""
        async for item in self._items(path, **query):
            yield item

    async def _items(self, path: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
        cursor: str | int | None = None
        while True:
            page = await self.call("GET", path, query={"limit": _PAGE, "cursor": cursor, **query})
            for item in page["items"]:
                yield item
            cursor = page["next_cursor"]
            if cursor is None:
                return


def workspace_path(workspace: str, *rest: str) -> str:
    """`/v1/workspaces/…` with names made safe."""
    return "/".join(("/v1/workspaces", *(quote(part, safe="") for part in (workspace, *rest))))


def _reason(error: Exception) -> str:
    """Why there was no answer, in words: not how a library keeps its connections."""
    reason = getattr(error, "os_error", error)  # aiohttp's
    if isinstance(reason, ConnectionError) and reason.errno:
        return os.strerror(reason.errno)
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(error).__name__


def _document(status: int, raw: bytes, base: str) -> Any:
    if 200 <= status < 300 and not raw:
        return None
    try:
        document = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        document = None
    if 200 <= status < 300 and document is not None:
        return document
    if status >= 400 and isinstance(document, dict) and isinstance(document.get("detail"), str):
        errors = document.get("errors")
        raise RefusedError(status, document["detail"], errors if isinstance(errors, list) else [])
    shown = raw[:_MOST_SHOWN].decode(errors="replace")
    raise UnreachableError(f"something other than the API answers at {base}: {status} {shown!r}")


def _read(document: Any, kind: type[Model]) -> Model:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise UnreachableError(f"the API answered something else than expected: {error}") from error
