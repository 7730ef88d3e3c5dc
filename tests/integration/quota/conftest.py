"""Cleanup and hook in this process, on a real registry and a real ledger."""

import hashlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest_asyncio

from ledger.contents import content_of_manifest
from ledger.facts import ManifestPushed
from ledger.record import Recorder
from ledger.workspaces import Settings as WorkspaceSettings
from quota.accounts import Accounts
from quota.builds import PreBuild
from quota.cleanup import Cleaner
from quota.hook import PreBuildHook
from quota.levels import level
from quota.metrics import QuotaMetrics
from quota.policy import parse_policy, policy_document
from registry.client import RegistryClient
from registry.manifests import parse_manifest
from registry.push import Image, Index, build_image, build_layer, push_image, push_index
from runtime.postgres import Pool
from tests.support import ledgers

DEFAULT_QUOTA = 10 * 1024**3


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Service:
    """What a test does: push (and tell the ledger, or not), ask the hook, look."""

    pool: Pool
    registry: RegistryClient
    recorder: Recorder
    cleaner: Cleaner
    hook: PreBuildHook
    accounts: Accounts

    async def configure(self, workspace: str, quota_bytes: int, **policy: object) -> None:
        await self.accounts.configure(
            workspace,
            WorkspaceSettings(
                quota_bytes=quota_bytes, policy=policy_document(parse_policy(policy))
            ),
        )

    async def push(self, repository: str, tag: str, *sizes: int, told: bool = True) -> Image:
        """An image of fresh layers."""
        image = build_image([build_layer(uuid.uuid4().hex, size) for size in sizes])
        await self.push_built(repository, tag, image, told=told)
        return image

    async def push_built(
        self, repository: str, tag: str, image: Image, *, told: bool = True
    ) -> None:
        await push_image(self.registry, repository, image, tag)
        if told:
            await self.tell(repository, tag, image.manifest.content, image.manifest.media_type)

    async def push_index(self, repository: str, tag: str, index: Index) -> None:
        await push_index(self.registry, repository, index, tag)
        for image in index.images:
            await self.tell(repository, None, image.manifest.content, image.manifest.media_type)
        await self.tell(repository, tag, index.manifest.content, index.manifest.media_type)

    async def tell(
        self,
        repository: str,
        tag: str | None,
        body: bytes,
        media_type: str,
        *,
        at_ns: int | None = None,
    ) -> None:
        """What the registry's notification would have told the ledger."""
        parsed = parse_manifest(body, media_type)
        await self.recorder.record(
            [
                ManifestPushed(
                    "default",
                    repository,
                    hashlib.sha256(body).digest(),
                    (at_ns or time.time_ns(), uuid.uuid4().bytes),
                    media_type,
                    len(body),
                    tag,
                    content_of_manifest(parsed),
                )
            ],
            now=utc_now(),
        )

    async def ask(self, workspace: str, **build: Any):
        return await self.hook.check(PreBuild(workspace=workspace, **build))

    async def usage(self, workspace: str) -> int:
        return (await ledgers.usage(self.pool)).get(workspace, 0)

    async def tags(self, repository: str) -> set[str]:
        """In the registry, not in the ledger."""
        return {tag async for tag in self.registry.list_tags(repository)}


@pytest_asyncio.fixture
async def service(pool: Pool, backend) -> AsyncIterator[Service]:
    async with (
        backend.registry("any", notification_url="http://127.0.0.1:9/none", token="t") as registry,
        RegistryClient(registry.url) as client,
    ):
        yield service_of(pool, client)


def service_of(pool: Pool, client: RegistryClient) -> Service:
    recorder, metrics = ledgers.recorder(pool), QuotaMetrics()
    cleaner = Cleaner(
        pool=pool, recorder=recorder, client=client, clock=utc_now, owner="test", metrics=metrics
    )
    return Service(
        pool=pool,
        registry=client,
        recorder=recorder,
        cleaner=cleaner,
        hook=PreBuildHook(
            pool, cleaner, default_quota_bytes=DEFAULT_QUOTA, clock=utc_now, metrics=metrics
        ),
        accounts=Accounts(pool, default_quota_bytes=DEFAULT_QUOTA, level_of=level, clock=utc_now),
    )
