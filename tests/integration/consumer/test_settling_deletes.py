"""A delete's event does not say whether a manifest or a blob of the same bytes went: the registry does."""

import time
import uuid
from datetime import timedelta
from itertools import permutations

import pytest
import pytest_asyncio

from ledger.facts import BlobStored, Content, DigestDeleted, ManifestDeleted, ManifestPushed
from registry.client import RegistryClient
from registry.media_types import OCI_MANIFEST
from registry.names import format_digest
from registry.push import Image, build_image, build_layer, push_image, upload_blob
from registry.transport import Request, Retries
from tests.support import ledgers
from tests.support.fake_registry import NOT_THERE, says, serving_fake
from tests.support.settling import Clock, worker

SECOND = 10**9
REPOSITORY = "acme/api"


@pytest_asyncio.fixture(params=["2", "3"])
async def client(backend, request):
    """A real registry; its own events go nowhere."""
    async with (
        backend.registry(request.param) as registry,
        RegistryClient(registry.url, retries=Retries(attempts=1)) as client,
    ):
        yield client


class Told:
    """What the events of a registry tell, some seconds ago."""

    def __init__(self, image: Image, *, blobs: bool = True, ago: float = 60.0) -> None:
        self.image = image
        self.blobs = blobs
        self.moment = time.time_ns() - int(ago * SECOND)

    def _stamp(self, seconds: int):
        return (self.moment + seconds * SECOND, uuid.uuid4().bytes)

    def pushed(self, tag="1", at=0):
        content = Content(
            blobs=tuple((blob.digest, len(blob.content)) for blob in self.image.blobs)
        )
        size = len(self.image.manifest.content)
        return ManifestPushed(
            "default", REPOSITORY, self.image.digest, self._stamp(at), OCI_MANIFEST, size, tag, content
        )  # fmt: skip

    def uploaded(self):
        where = ("default", REPOSITORY) if self.blobs else ()
        return BlobStored(self.image.digest, len(self.image.manifest.content), *where)

    def deleted(self, at=2):
        return DigestDeleted("default", REPOSITORY, self.image.digest, self._stamp(at))


def an_image(name: str) -> Image:
    return build_image([build_layer(name, 300)], label=name)


def bytes_of(image: Image) -> int:
    return sum(len(blob.content) for blob in (*image.blobs, image.manifest))


async def delete_blob(client, digest: bytes) -> None:
    answer = await client.transport.send(
        Request(
            method="DELETE",
            url=client.url(f"/v2/{REPOSITORY}/blobs/{format_digest(digest)}"),
            scope=f"repository:{REPOSITORY}:delete",
        )
    )
    assert answer.status == 202


async def record(pool, clock, *facts) -> None:
    for fact in facts:
        await ledgers.recorder(pool).record([fact], now=clock())


async def settle(pool, client, clock) -> None:
    settling = worker(pool, client, clock)
    clock.now += timedelta(seconds=2)
    await settling.settle_deletes()
    await settling.settle_due()


async def waiting(pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM manifest_checks"))


@pytest.mark.parametrize("blobs", [True, False], ids=["with blob events", "without blob events"])
async def test_deleting_a_blob_of_the_same_bytes_changes_no_usage(pool, client, blobs):
    """Whatever is heard first, and where the registry tells of no blobs at all."""
    for number, order in enumerate(permutations(range(3))):
        await ledgers.empty(pool)
        clock, image = Clock(), an_image(f"twin {number}")
        await push_image(client, REPOSITORY, image, "1")
        await upload_blob(client, REPOSITORY, image.manifest.content)
        await delete_blob(client, image.digest)
        assert (await client.head_manifest(REPOSITORY, image.digest)).exists
        told = Told(image, blobs=blobs)
        facts = [told.pushed(), told.uploaded(), told.deleted()]
        await record(pool, clock, *(facts[place] for place in order))
        if blobs:
            assert await ledgers.usage(pool) == {"acme": bytes_of(image)}
        await settle(pool, client, clock)
        assert await ledgers.usage(pool) == {"acme": bytes_of(image)}
        assert await ledgers.tags(pool) == {REPOSITORY: {"1": image.digest}}
        assert await waiting(pool) == 0
        # What is deleted in earnest is gone then.
        await client.delete_manifest(REPOSITORY, image.digest)
        clock.now += timedelta(seconds=2)
        await record(pool, clock, told.deleted(at=120))
        await settle(pool, client, clock)
        assert await ledgers.usage(pool) == {}
        assert await waiting(pool) == 0
        assert await ledgers.recount(pool) == await ledgers.usage(pool)


async def test_an_untagged_manifest_that_an_earlier_release_took_for_deleted_comes_back(
    pool, client
):
    clock, image, other = Clock(), an_image("untagged"), an_image("gone")
    await push_image(client, REPOSITORY, image)
    for told in (Told(image), Told(other)):
        await record(pool, clock, told.pushed(tag=None), told.deleted())
    # As that release left them, and as the migration asks about them.
    await pool.execute(
        """UPDATE manifests SET heard_ns = NULL, heard_id = NULL, sure_ns = NULL, sure_id = NULL;
        UPDATE manifest_checks SET due_at = now();
        UPDATE repositories SET unsure_ns = (extract(epoch FROM now()) * 1000000000)::int8"""
    )
    assert await ledgers.usage(pool) == {}
    await settle(pool, client, clock)
    assert await ledgers.usage(pool) == {"acme": bytes_of(image)}
    assert await waiting(pool) == 0
    # There, any digest may be a blob's: what an event tells is asked for before it counts.
    await record(pool, clock, Told(image, ago=-1).deleted())
    assert await ledgers.usage(pool) == {"acme": bytes_of(image)}
    await client.delete_manifest(REPOSITORY, image.digest)
    await settle(pool, client, clock)
    assert await ledgers.usage(pool) == {}


async def test_while_the_registry_does_not_tell_the_manifest_counts_and_is_asked_for_again(pool):
    clock, image = Clock(), an_image("away")
    told = Told(image)
    await record(pool, clock, told.pushed(), told.uploaded(), told.deleted())
    async with serving_fake() as fake, RegistryClient(fake.url, retries=Retries(1)) as client:
        fake.script = [says(500)] * 40
        for _ in range(20):
            clock.now += timedelta(hours=1)
            await worker(pool, client, clock).settle_deletes()
            assert await ledgers.usage(pool) == {"acme": bytes_of(image)}
        assert await waiting(pool) == 1
        fake.script = [NOT_THERE] * 3
        clock.now += timedelta(hours=1)
        await worker(pool, client, clock).settle_deletes()
    assert await ledgers.usage(pool) == {}
    assert await waiting(pool) == 0


async def test_the_event_of_our_own_delete_is_no_question(pool, client):
    clock, image = Clock(), an_image("ours")
    told = Told(image)
    push = told.pushed()
    await record(pool, clock, push, told.uploaded())
    own = ManifestDeleted("default", REPOSITORY, image.digest, (push.stamp[0] + 1, b""))
    await ledgers.recorder(pool).record([own], now=clock(), source="cleanup")
    await record(pool, clock, told.deleted())
    assert await ledgers.usage(pool) == {}
    assert await waiting(pool) == 0
