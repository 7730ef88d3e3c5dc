"""Pulls everything that a workspace has in the registry, and checks every byte."""

import asyncio
import hashlib
from collections.abc import Collection
from typing import Final

from cli.demo.check import ManifestName, Pulled, Stored, TagName
from registry.client import MAX_MANIFEST_BYTES, RegistryClient
from registry.errors import NotFound, RegistryError
from registry.manifests import parse_manifest
from registry.media_types import ACCEPTED
from registry.names import format_digest, parse_digest
from registry.transport import Request

_MAX_BLOB_BYTES: Final = 64 * 1024**2


async def pull_everything(
    client: RegistryClient, repositories: Collection[str], known: Collection[ManifestName]
) -> Pulled:
    """Pull every tag, every manifest and every blob of these repositories.

    `known` are manifests that were pushed once: no registry lists untagged ones, so each is asked
    for. Those that are not there any more are missing in the answer, which is no fault. What a tag
    or an index needs and does not get is one. Raises RegistryError when the registry fails.
    """
    puller = _Puller(client)
    for repository in sorted(repositories):
        async for tag in client.list_tags(repository):
            await puller.pull_tag(repository, tag)
    for repository, digest in sorted(known):
        await puller.pull_manifest(repository, digest)
    return Pulled(puller.tags, puller.manifests, puller.blobs, tuple(puller.faults))


class _Puller:
    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self.tags: dict[TagName, str] = {}
        self.manifests: dict[ManifestName, Stored] = {}
        self.blobs: dict[str, int] = {}
        self.faults: list[str] = []
        self._asked: set[tuple[str, str]] = set()

    async def pull_tag(self, repository: str, tag: str) -> None:
        """By tag as a build does, then by the digest of what came."""
        request = Request(
            method="GET",
            url=self._client.url(f"/v2/{repository}/manifests/{tag}"),
            scope=f"repository:{repository}:pull",
            headers={"Accept": ", ".join(ACCEPTED)},
            max_bytes=MAX_MANIFEST_BYTES,
        )
        answer = await self._client.transport.send(request)
        if answer.status != 200:
            self.faults.append(f"{repository}:{tag} cannot be pulled: {answer.status}")
            return
        digest = format_digest(hashlib.sha256(answer.body).digest())
        self.tags[repository, tag] = digest
        if not await self.pull_manifest(repository, digest):
            self.faults.append(f"{repository}:{tag} cannot be pulled by its digest {digest}")

    async def pull_manifest(self, repository: str, digest: str) -> bool:
        """With all that it needs. False when there is no such manifest."""
        if (repository, digest) in self.manifests:
            return True
        try:
            fetched = await self._client.get_manifest(repository, parse_digest(digest))
        except NotFound:
            return False
        parsed = parse_manifest(fetched.body, fetched.media_type)
        children = [format_digest(child.digest) for child in parsed.children]
        needed = () if parsed.kind == "index" else parsed.references
        blobs = tuple(format_digest(blob.digest) for blob in needed if not blob.has_urls)
        self.manifests[repository, digest] = Stored(len(fetched.body), blobs)
        for child in children:
            if not await self.pull_manifest(repository, child):
                self.faults.append(f"{repository}@{digest} needs {child}, which is not there")
        await asyncio.gather(*(self._pull_blob(repository, blob) for blob in blobs))
        return True

    async def _pull_blob(self, repository: str, digest: str) -> None:
        # Once for each repository: a registry may hold a blob in one and refuse it in another.
        if (repository, digest) in self._asked:
            return
        self._asked.add((repository, digest))
        try:
            content = await self._client.get_blob(repository, parse_digest(digest), _MAX_BLOB_BYTES)
        except RegistryError as error:
            self.faults.append(f"blob {digest} of {repository} cannot be pulled: {error}")
        else:
            self.blobs[digest] = len(content)
