"""The command line's way to the API, and to the environment of a stack that runs in this folder."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from cli.console import CommandError, errors, plain
from devstack.config import default_cache_dir
from devstack.rundir import announced
from registry_quota.client import RegistryQuota, workspace_path
from registry_quota.errors import RefusedError, RegistryQuotaError
from runtime.settings import Settings, SettingsError
from runtime.tls import advice, client_context

__all__ = [
    "ApiClient",
    "api_client",
    "near_names",
    "settings_here",
    "warn_of_unknown",
    "workspace_path",
]

_LONGEST = 650.0
"""Seconds: the longest time-out that a call can be given, and its way."""

_WARNING_SECONDS: Final = 3.0
"""A note is not worth waiting longer for."""
_WORKSPACES: Final = "/v1/workspaces/"
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_MOST_NAMES: Final = 10_000
"""How many workspaces' names are compared with one that is not there."""


def settings_here() -> Settings:
    """The environment's settings; what is unset there comes from `.run/env` of this folder."""
    for name, value in run_environment().items():
        if name.startswith("RQ_"):
            os.environ.setdefault(name, value)
    return Settings.load()


def run_environment() -> Mapping[str, str]:
    """What `.run/env` says, when a stack of this user's on this machine has written it.

    Commands are called in folders that came from elsewhere, a checkout in CI: an address in there would
    get the tokens of the environment.
    """
    path = Path(os.environ.get("RQ_RUN_DIR", ".run")) / "env"
    try:
        values = announced(path, default_cache_dir(os.environ))
    except (OSError, ValueError):
        return {}
    if values is None:
        errors.print(
            f"[yellow]{plain(path)} is left alone:[/] no `make run` of yours on this machine has written it",
            soft_wrap=True,
        )
        return {}
    return values


class ApiError(CommandError):
    """The API answered with an error; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiClient(RegistryQuota):
    """The API's client; an error answer becomes one sentence that says what to do next."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._told: set[str] = set()

    async def call(self, method: str, path: str, *, tell: bool = True, **options: Any) -> Any:
        """The answer's JSON. Raises ApiError with what the API says, CommandError without an answer.

        `tell` False: whoever waits for a name to become known knows that it is not yet.
        """
        try:
            answer = await super().call(method, path, **options)
        except RefusedError as error:
            mend = await self._mend(error, path, options.get("body"))
            raise ApiError(error.status, f"{error}{mend}") from error
        except RegistryQuotaError as error:
            mend = advice(error) or "check RQ_API_URL, and that `registry-quota serve api` runs"
            raise CommandError(f"{error}; {mend}") from error
        if tell:
            self._tell_unknown(answer)
        return answer

    def _tell_unknown(self, answer: Any) -> None:
        """Whatever the API does not know by the name that was written, on standard error, once."""
        warnings = answer.get("warnings") if isinstance(answer, dict) else None
        for warning in warnings or ():
            code, _, sentence = str(warning).partition(": ")
            if code.startswith("unknown_") and warning not in self._told:
                self._told.add(warning)
                _warn(sentence)

    async def _mend(self, error: RefusedError, path: str, body: Any) -> str:
        """What to do about a refusal, where the API cannot know how it was called."""
        if error.status == _UNAUTHORIZED:
            return (
                f"; set RQ_API_TOKEN to a token of the API at {self.base} "
                "(its operator's, or one of `registry-quota tokens create`)"
            )
        if error.status == _FORBIDDEN:
            return (
                "; set RQ_API_TOKEN to one that has it (`registry-quota tokens list` shows which)"
            )
        if error.status == _NOT_FOUND and str(error).startswith("there is no workspace"):
            if path.startswith(_WORKSPACES):
                return await self._near(unquote(path.removeprefix(_WORKSPACES).partition("/")[0]))
            if isinstance(body, dict) and isinstance(body.get("workspace"), str):
                return await self._near(body["workspace"])
        return ""

    async def _near(self, wanted: str) -> str:
        names: list[str] = []
        try:
            async for item in self.items("/v1/workspaces"):
                names.append(item["workspace"])
                if len(names) == _MOST_NAMES:
                    break
        except CommandError:
            return ""
        return near_names(wanted, names)


def near_names(wanted: str, names: Iterable[str]) -> str:
    """`; did you mean acme or acme-2?`, or where all of them are shown. PURE."""
    from quota.near import did_you_mean

    return (
        did_you_mean(wanted, names) or "; `registry-quota workspaces list` shows all that there are"
    )


async def warn_of_unknown(workspaces: Iterable[str]) -> None:
    """Say which of these the API does not know; nothing where it does not tell at once."""
    wanted = list(workspaces)
    if not wanted:
        return
    with contextlib.suppress(CommandError, SettingsError, TimeoutError):
        async with asyncio.timeout(_WARNING_SECONDS), api_client() as api:
            for name in wanted:
                try:
                    await api.call("GET", workspace_path(name))
                except ApiError as error:
                    if error.status == _NOT_FOUND:
                        _warn(f"{name} is unknown here: {error}")


def _warn(text: str) -> None:
    errors.print(f"[yellow]note:[/] {plain(text)}", soft_wrap=True)


@asynccontextmanager
async def api_client() -> AsyncIterator[ApiClient]:
    """A client of `RQ_API_URL` with `RQ_API_TOKEN`. Raises CommandError."""
    settings = settings_here()
    base = settings.api_address()
    try:
        token = settings.required_api_token()
    except SettingsError as error:
        raise CommandError(
            "RQ_API_TOKEN is not set: export a token of the API (and RQ_API_URL where it is not "
            f"{base}), or call this in the folder of a running `make run`, whose .run/env is read"
        ) from error
    tls = client_context(settings)
    try:
        async with ApiClient(base, token, timeout=_LONGEST, tls=tls) as client:
            yield client
    except RegistryQuotaError as error:
        raise CommandError(str(error)) from error
