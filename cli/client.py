"""The command line's way to the API, and to the environment of a stack that runs in this folder."""

import os
import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from cli.console import CommandError, errors, plain
from registry_quota.client import RegistryQuota, workspace_path
from registry_quota.errors import RefusedError, RegistryQuotaError
from runtime.settings import Settings, SettingsError
from runtime.tls import advice, client_context

__all__ = ["ApiClient", "api_client", "near_names", "settings_here", "workspace_path"]

_LONGEST = 650.0
"""Seconds: the longest time-out that a call can be given, and its way."""

_WORKSPACES: Final = "/v1/workspaces/"
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_MOST_NAMES: Final = 10_000
"""How many workspaces' names are compared with one that is not there."""


def settings_here() -> Settings:
    """The environment's settings; what is unset there comes from `.run/env` of this folder."""
    for line in run_environment():
        name, separator, value = line.partition("=")
        if separator and name.startswith("RQ_"):
            os.environ.setdefault(name, value)
    return Settings.load()


def run_environment() -> list[str]:
    """Lines of `.run/env`, when nobody else can have written it.

    Commands are called in folders that came from elsewhere, a checkout in CI: an address in there would
    get the tokens of the environment. `make run` writes the file with mode 600, which git keeps none of.
    """
    path = Path(os.environ.get("RQ_RUN_DIR", ".run")) / "env"
    try:
        with path.open(encoding="utf-8") as file:
            kept = os.fstat(file.fileno())
            if kept.st_uid != os.geteuid() or stat.S_IMODE(kept.st_mode) & 0o077:
                errors.print(
                    f"[yellow]{plain(path)} is left alone:[/] it is not yours alone (`make run` writes it "
                    "with mode 600)",
                    soft_wrap=True,
                )
                return []
            return file.read().splitlines()
    except (OSError, ValueError):
        return []


class ApiError(CommandError):
    """The API answered with an error; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiClient(RegistryQuota):
    """The API's client; an error answer becomes one sentence that says what to do next."""

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """The answer's JSON. Raises ApiError with what the API says, CommandError without an answer."""
        try:
            return await super().call(method, path, **options)
        except RefusedError as error:
            mend = await self._mend(error, path)
            raise ApiError(error.status, f"{error}{mend}") from error
        except RegistryQuotaError as error:
            mend = advice(error) or "check RQ_API_URL, and that `registry-quota serve api` runs"
            raise CommandError(f"{error}; {mend}") from error

    async def _mend(self, error: RefusedError, path: str) -> str:
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
        workspace = path.removeprefix(_WORKSPACES).partition("/")[0]
        if (
            error.status == _NOT_FOUND
            and path.startswith(_WORKSPACES)
            and str(error).startswith("there is no workspace")
        ):
            return await self._near(unquote(workspace))
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
    by_folded = {name.casefold(): name for name in names}
    near = get_close_matches(wanted.casefold(), by_folded, n=3, cutoff=0.6)
    near += [name for name in by_folded if name.startswith(wanted.casefold()) and name not in near]
    if near:
        return f"; did you mean {' or '.join(by_folded[name] for name in near[:3])}?"
    return "; `registry-quota workspaces list` shows all that there are"


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
