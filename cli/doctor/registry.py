"""The registry: does it answer, let us in, delete, and share our clock."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from cli.doctor.clocks import Clock, now, skew
from cli.doctor.findings import Finding, failed, ok, skipped, warning
from registry.client import PROBE_REPOSITORY, RegistryClient
from registry.connect import registry_client
from registry.errors import (
    BadRegistryUrl,
    NotFound,
    RegistryDenied,
    RegistryError,
    SentElsewhere,
    WrongRealm,
)
from registry.manifests import ManifestError, parse_manifest
from runtime.settings import Settings, SettingsError

_PATIENCE: Final = 20.0
_MOST_CONFIG_BYTES: Final = 4 * 1024 * 1024
_MOST_REPOSITORIES: Final = 20
_MOST_TAGS: Final = 5
"""Of a repository: an index or an artifact has no config to read."""
_MOST_DAMAGED: Final = 2
"""A registry is asked four times for what it fails to answer."""


async def check(settings: Settings, *, clock: Clock = now) -> list[Finding]:
    """Findings `registry`, `clock`, `lists`, `blobs` and `deletes`; of a cache `cache` instead."""
    try:
        client = registry_client(settings)
    except (SettingsError, BadRegistryUrl) as error:
        found, _, mend = str(error).partition("; ")
        mend = mend or "correct RQ_REGISTRY_URL (with or without scheme)"
        return [failed("registry", found, mend)]
    try:
        async with asyncio.timeout(_PATIENCE), client:
            return await _ask(client, clock, known_cache=settings.registry_pull_through)
    except TimeoutError:
        return [_unreachable(client, f"no answer within {_PATIENCE:g} s")]


async def _ask(client: RegistryClient, clock: Clock, *, known_cache: bool | None) -> list[Finding]:
    before = clock()
    try:
        date = await client.ping()
    except WrongRealm as error:
        found, _, mend = str(error).rpartition("; ")
        return [failed("registry", f"{client.base} refuses us: {found}", mend)]
    except RegistryDenied as error:
        mend = (
            "set RQ_REGISTRY_USERNAME and RQ_REGISTRY_PASSWORD to an account that may read and delete; "
            "a token service on another host must be named in RQ_REGISTRY_TOKEN_HOSTS"
        )
        return [failed("registry", f"{client.base} refuses us: {error}", mend)]
    except RegistryError as error:
        return [_unreachable(client, str(error))]
    answers = ok("registry", f"{client.base} answers and lets us in")
    fine = [answers, skew("the registry's", date, before, clock())]
    is_cache = await _is_cache(client)
    if is_cache or known_cache:
        return [*fine, _cache(is_cache=bool(is_cache), known=bool(known_cache))]
    if is_cache is None and known_cache is None:
        # No blob is asked for: a cache would download the image.
        return [*fine, await _lists(client), _perhaps_a_cache(), await _deletes(client)]
    return [
        *fine,
        await _lists(client),
        *await _blobs(client),
        await _deletes(client),
    ]


async def _is_cache(client: RegistryClient) -> bool | None:
    try:
        return await client.is_pull_through_cache(PROBE_REPOSITORY)
    except RegistryError:
        return False  # what is wrong, the other findings say


def _cache(*, is_cache: bool, known: bool) -> Finding:
    if not is_cache:
        found = "RQ_REGISTRY_PULL_THROUGH is true, and this registry does not answer as a cache"
        mend = "unset it: without it nothing is reconciled and no size is confirmed"
        return warning("cache", found, mend)
    found = (
        "this is a pull-through cache: a look at anything in it downloads that from its upstream"
    )
    if known:
        found += "; so nothing of it is reconciled or cleaned, and what its clients pull counts"
        return ok("cache", found)
    mend = (
        "set RQ_REGISTRY_PULL_THROUGH=true for consumer and API: what is pulled counts then, and nothing "
        "is asked for; what a cache holds it forgets by itself (`proxy.ttl`), and deletes for nobody"
    )
    return warning("cache", found, mend)


def _perhaps_a_cache() -> Finding:
    found = (
        "whether this is a pull-through cache, which downloads all that is looked at, cannot be found out: "
        f"the account may neither delete nor push in {PROBE_REPOSITORY}; until a push is heard of, nothing "
        "is reconciled"
    )
    mend = (
        "give it these rights, or set RQ_REGISTRY_PULL_THROUGH to false (or to true, if it is one)"
    )
    return warning("cache", found, mend)


async def _blobs(client: RegistryClient) -> list[Finding]:
    """Whether blobs can be read: a registry on object storage sends its readers there.

    A tag, a repository or an image that is damaged says nothing of the others.
    """
    failure: Finding | None = None
    tried = 0
    try:
        async for repository, tag in _some_tags(client):
            try:
                fetched = await client.get_manifest(repository, tag)
                config = parse_manifest(fetched.body, fetched.media_type).config
                if config is None:
                    continue
                await client.get_blob(repository, config.digest, _MOST_CONFIG_BYTES)
                return [ok("blobs", f"can be read (tried the config of {repository}:{tag})")]
            except SentElsewhere:
                raise
            except (RegistryError, ManifestError) as error:
                mend = "see the registry's log; pushing that tag again, or deleting it, mends it"
                failure = warning(
                    "blobs", f"of {repository}:{tag} one could not be read: {error}", mend
                )
                tried += not isinstance(error, NotFound)
                if tried >= _MOST_DAMAGED:
                    break
    except SentElsewhere as error:
        found = (
            f"the registry sends who reads a blob to {error.host}, which is not allowed: nothing is cleaned "
            "(whether what stays can be pulled is not known), no image that a pass found has an age, and no "
            "size is confirmed"
        )
        mend = f"set RQ_REGISTRY_REDIRECT_HOSTS={error.host}"
        return [failed("blobs", found, mend)]
    except RegistryError:
        return [failure or skipped("blobs", "none was tried: repositories or tags do not come")]
    return [] if failure is None else [failure]


async def _some_tags(client: RegistryClient) -> AsyncIterator[tuple[str, str]]:
    """Some tags of some repositories."""
    looked = 0
    async for repository in client.catalog():
        of_this = 0
        async for tag in client.list_tags(repository):
            yield repository, tag
            of_this += 1
            if of_this >= _MOST_TAGS:
                break
        looked += 1
        if looked >= _MOST_REPOSITORIES:
            return


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
