"""The command line's way to the API, and to the environment of a stack that runs in this folder."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cli.console import CommandError
from registry_quota.client import RegistryQuota, workspace_path
from registry_quota.errors import RefusedError, RegistryQuotaError
from runtime.settings import Settings

__all__ = ["ApiClient", "api_client", "settings_here", "workspace_path"]

_LONGEST = 650.0
"""Seconds: the longest time-out that a call can be given, and its way."""


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


class ApiClient(RegistryQuota):
    """The API's client; an error answer becomes one sentence."""

    async def call(self, *arguments: Any, **options: Any) -> Any:
        """The answer's JSON. Raises ApiError with what the API says, CommandError without an answer."""
        try:
            return await super().call(*arguments, **options)
        except RefusedError as error:
            raise ApiError(error.status, str(error)) from error
        except RegistryQuotaError as error:
            raise CommandError(
                f"{error}; check RQ_API_URL, and that `registry-quota serve api` runs"
            ) from error


@asynccontextmanager
async def api_client() -> AsyncIterator[ApiClient]:
    """A client of `RQ_API_URL` with `RQ_API_TOKEN`. Raises SettingsError when they are unset."""
    settings = settings_here()
    base = settings.api_url or f"http://{settings.host}:{settings.api_port}"
    token = settings.required_api_token()
    try:
        async with ApiClient(base, token, timeout=_LONGEST) as client:
            yield client
    except RegistryQuotaError as error:
        raise CommandError(str(error)) from error
