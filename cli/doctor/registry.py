"""The registry: does it answer, let us in, delete, and share our clock."""

import asyncio
from typing import Final

from cli.doctor.clocks import Clock, now, skew
from cli.doctor.findings import Finding, failed, ok, skipped
from registry.client import RegistryClient
from registry.connect import registry_client
from registry.errors import BadRegistryUrl, NotFound, RegistryDenied, RegistryError
from runtime.settings import Settings, SettingsError

PROBE_REPOSITORY: Final = "registry-quota/doctor"
"""Where the manifest that cannot exist is deleted; no such repository appears by it."""

_PATIENCE: Final = 20.0


async def check(settings: Settings, *, clock: Clock = now) -> list[Finding]:
    """Findings `registry`, `clock`, `lists` and `deletes`."""
    try:
        client = registry_client(settings)
    except (SettingsError, BadRegistryUrl) as error:
        found, _, mend = str(error).partition("; ")
        mend = mend or "correct RQ_REGISTRY_URL (with or without scheme)"
        return [failed("registry", found, mend)]
    try:
        async with asyncio.timeout(_PATIENCE), client:
            return await _ask(client, clock)
    except TimeoutError:
        return [_unreachable(client, f"no answer within {_PATIENCE:g} s")]


async def _ask(client: RegistryClient, clock: Clock) -> list[Finding]:
    before = clock()
    try:
        date = await client.ping()
    except RegistryDenied as error:
        mend = (
            "set RQ_REGISTRY_USERNAME and RQ_REGISTRY_PASSWORD to an account that may read and delete; "
            "a token service on another host must be named in RQ_REGISTRY_TOKEN_HOSTS"
        )
        return [failed("registry", f"{client.base} refuses us: {error}", mend)]
    except RegistryError as error:
        return [_unreachable(client, str(error))]
    answers = ok("registry", f"{client.base} answers and lets us in")
    return [
        answers,
        skew("the registry's", date, before, clock()),
        await _lists(client),
        await _deletes(client),
    ]


def _unreachable(client: RegistryClient, why: str) -> Finding:
    mend = "check RQ_REGISTRY_URL (scheme, host, port) and that the registry runs"
    return failed("registry", f"{client.base} does not answer as a registry: {why}", mend)


async def _lists(client: RegistryClient) -> Finding:
    """Whether repositories and their tags can be listed: reconciliation walks through both."""
    try:
        async for repository in client.catalog():
            try:
                async for _tag in client.list_tags(repository):
                    break
            except NotFound:
                continue  # an emptied repository stays in the catalog
            return ok("lists", f"repositories and tags can be listed (tried {repository})")
    except RegistryDenied as error:
        mend = "give RQ_REGISTRY_USERNAME the right to list everything (`registry:catalog:*`)"
        return failed("lists", f"refused: {error}", mend)
    except RegistryError as error:
        mend = "reconcile needs `_catalog` and `tags/list`: let the proxy before the registry pass them"
        return failed("lists", f"do not come: {error}", mend)
    return ok("lists", "can be listed; the registry holds no repository yet")


async def _deletes(client: RegistryClient) -> Finding:
    """Found by deleting the manifest sha256:000…, which cannot exist: nothing is changed."""
    try:
        if await client.deletes_enabled(PROBE_REPOSITORY):
            return ok("deletes", "enabled")
    except RegistryDenied as error:
        mend = "give RQ_REGISTRY_USERNAME the right to delete in every repository"
        return failed("deletes", f"refused: {error}", mend)
    except RegistryError as error:
        return skipped("deletes", f"could not be found out: {error}")
    mend = (
        "set `storage.delete.enabled: true` in the registry's configuration "
        "(or REGISTRY_STORAGE_DELETE_ENABLED=true) and restart it; "
        "a pull-through cache and a registry in read-only mode never delete"
    )
    return failed("deletes", "disabled: cleanup cannot free anything", mend)
