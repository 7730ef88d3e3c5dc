"""Storage is asked what it has under a digest: its own word, against which an event's counts for nothing."""

from collections.abc import Iterable

from ledger.contents import believable
from ledger.facts import BlobStored
from registry.client import RegistryClient
from registry.errors import NotFound
from registry.timestamps import to_ns


async def ask_storage(
    client: RegistryClient,
    repositories: Iterable[str],
    digest: bytes,
    *,
    or_manifest: bool = True,
) -> BlobStored | None:
    """What it says, in the first of these repositories that has it: as a blob, else as a manifest.

    None when none of them has it, or none tells. Raises RegistryError.
    """
    for repository in repositories:
        try:
            size, date = await client.stat_blob(repository, digest)
        except NotFound:
            if not or_manifest:
                continue
            try:
                fetched = await client.get_manifest(repository, digest)
            except NotFound:
                continue
            size, date = len(fetched.body), fetched.date
        if size is not None and believable(digest, size):
            return BlobStored(digest, size, asked_ns=-1 if date is None else to_ns(date))
    return None
