"""The command line's way to the API, and to the environment of a stack that runs in this folder."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from cli.console import CommandError
from runtime.settings import Settings


def settings_here() -> Settings:
    """The environment's settings; what is unset there comes from `.run/env` of this folder."""
    for line in _run_environment():
        name, separator, value = line.partition("=")
        if separator and name.startswith("RQ_"):
            os.environ.setdefault(name, value)
    return Settings.load()


def _run_environment() -> list[str]:
    path = Path(os.environ.get("RQ_RUN_DIR", ".run")) / "env"
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


class ApiError(CommandError):
    """The API answered with an error; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiClient:
    """Calls the API; an error answer becomes one sentence."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base.rstrip("/")

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
    ) -> Any:
        """The answer's JSON. Raises ApiError with what the API says, CommandError without an answer."""
        params = {key: str(value) for key, value in (query or {}).items() if value is not None}
        try:
            async with self._session.request(
                method, f"{self._base}{path}", json=body, params=params
            ) as response:
                document = await response.json(content_type=None)
                if response.status >= 400:
                    detail = document.get("detail") if isinstance(document, dict) else None
                    message = str(detail or f"the API answered {response.status}")
                    raise ApiError(response.status, message)
                return document
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise CommandError(
                f"the API at {self._base} does not answer as it should ({type(error).__name__}: {error}); "
                "check RQ_API_URL, and that `registry-quota serve api` runs"
            ) from error


def workspace_path(workspace: str, *rest: str) -> str:
    """`/v1/workspaces/…` with names made safe."""
    return "/".join(("/v1/workspaces", quote(workspace, safe=""), *rest))


@asynccontextmanager
async def api_client() -> AsyncIterator[ApiClient]:
    """A client of `RQ_API_URL` with `RQ_API_TOKEN`. Raises SettingsError when they are unset."""
    settings = settings_here()
    base = settings.api_url or f"http://{settings.host}:{settings.api_port}"
    headers = {"Authorization": f"Bearer {settings.required_api_token()}"}
    timeout = aiohttp.ClientTimeout(total=650, connect=5)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield ApiClient(session, base)
