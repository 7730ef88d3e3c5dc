"""How the registry is, as the API process finds it: for the status and the metrics, never for a hook."""

import asyncio
import time
from typing import Final, Literal

import msgspec

from registry.client import RegistryClient
from registry.connect import registry_client
from registry.errors import BadRegistryUrl, RegistryDenied, RegistryError
from registry.transport import Retries
from runtime.settings import Settings, SettingsError

_PATIENCE: Final = 2.0
"""Seconds for its answer: the status must come while it is away."""
_FRESH: Final = 5.0
"""Seconds for which an answer is told again, however many ask."""
_ONCE: Final = Retries(attempts=1)


class RegistryState(msgspec.Struct, frozen=True):
    """Whether it answers and lets us in."""

    url: str
    state: Literal["up", "refuses", "down", "unknown"]
    reason: str = ""
    """Why it is not up."""


class RegistryWatch:
    """Asks the registry's `/v2/` with our own credentials, one request at a time. Close it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: RegistryClient | None = None
        self._known: tuple[float, RegistryState] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)

    async def look(self) -> RegistryState:
        """How it is now, or was a moment ago."""
        async with self._one_at_a_time:
            if self._known is None or time.monotonic() - self._known[0] > _FRESH:
                self._known = (time.monotonic(), await self._ask())
            return self._known[1]

    async def _ask(self) -> RegistryState:
        if self._client is None:
            try:
                client = registry_client(self._settings, concurrency=1, retries=_ONCE)
            except (SettingsError, BadRegistryUrl) as error:
                return RegistryState("", "unknown", str(error))
            self._client = await client.__aenter__()
        url = str(self._client.base)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._client.ping()
        except TimeoutError:
            return RegistryState(url, "down", f"no answer within {_PATIENCE:g} s")
        except RegistryDenied as error:
            return RegistryState(url, "refuses", str(error))
        except RegistryError as error:
            return RegistryState(url, "down", str(error))
        return RegistryState(url, "up")
