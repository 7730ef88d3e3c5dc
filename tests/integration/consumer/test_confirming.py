"""Declared sizes are confirmed by storage once, and nothing is asked that storage has told."""

import time
import uuid
from datetime import timedelta
from typing import Any

import msgspec
import pytest_asyncio

from consumer.confirming import AT_ONCE, SizeConfirmer, wait_before
from consumer.metrics import ConsumerMetrics
from ledger.facts import BlobStored, Content, ManifestPushed
from registry.client import RegistryClient
from registry.media_types import OCI_MANIFEST
from registry.push import Image, build_image, build_layer, push_image
from runtime.lifecycle import Stopping
from tests.support import ledgers
from tests.support.fake_registry import says, serving_fake
from tests.support.settling import Clock


@pytest_asyncio.fixture
async def client(backend):
    """A real registry; its own events go nowhere."""
    async with (
        backend.registry("any", notification_url="http://127.0.0.1:9/none", token="t") as registry,
        RegistryClient(registry.url) as client,
    ):
        yield client


def confirmer(pool, client, clock):
    return SizeConfirmer(
        pool=pool,
        recorder=ledgers.recorder(pool),
        client=client,
        metrics=ConsumerMetrics(),
        stopping=Stopping(),
        clock=clock,
    )


def pushed(repository: str, image: Image, *, lie: int = 0) -> ManifestPushed:
    """A push whose layers are declared `lie` bytes smaller than they are."""
    blobs = tuple((blob.digest, len(blob.content) - lie) for blob in image.blobs)
    return ManifestPushed(
        "default",
        repository,
        image.digest,
        (time.time_ns(), uuid.uuid4().bytes),
        OCI_MANIFEST,
        len(image.manifest.content),
        "1",
        Content(blobs=blobs),
    )


def whole(image: Image) -> int:
    return sum(len(blob.content) for blob in (image.manifest, *image.blobs))


async def record(pool, clock, *facts) -> None:
    await ledgers.recorder(pool).record(list(facts), now=clock())


async def mismatches(pool) -> list[dict[str, Any]]:
    rows = await pool.fetch(
        "SELECT workspace, data FROM outbox WHERE type = 'io.registryquota.size.mismatch.v1'"
    )
    return [{"workspace": row["workspace"], **msgspec.json.decode(row["data"])} for row in rows]


async def test_sizes_that_a_tenant_lied_about_are_corrected(pool, client):
    clock, image = Clock(), build_image([build_layer("lied", 5000)])
    await push_image(client, "acme/api", image, "1")
    await record(
        pool, clock, pushed("acme/api", image, lie=100), pushed("other/api", image, lie=50)
    )
    assert await ledgers.usage(pool) == {"acme": whole(image) - 200, "other": whole(image) - 100}
    confirming = confirmer(pool, client, clock)
    assert not await confirming.confirm_due(), "blob push events have a while to come"
    clock.now += timedelta(seconds=10)
    assert await confirming.confirm_due()
    assert await ledgers.usage(pool) == {"acme": whole(image), "other": whole(image)}
    assert await ledgers.usage(pool) == await ledgers.recount(pool)
    told = await mismatches(pool)
    assert len(told) == 4
    assert all(item["stored_bytes"] > item["declared_bytes"] for item in told)
    assert not await confirming.confirm_due()


async def test_what_blob_events_told_is_not_queued(pool):
    clock, image = Clock(), build_image([build_layer("told", 5000)])
    blobs = [BlobStored(blob.digest, len(blob.content)) for blob in image.blobs]
    await record(pool, clock, *blobs, pushed("acme/api", image))
    assert await pool.fetchval("SELECT count(*) FROM size_checks") == 0


async def test_what_blob_events_told_meanwhile_is_not_asked_for(pool):
    clock, image = Clock(), build_image([build_layer("told", 5000)])
    await record(pool, clock, pushed("acme/api", image))
    await record(pool, clock, *(BlobStored(blob.digest, len(blob.content)) for blob in image.blobs))
    async with serving_fake() as fake, fake.client() as client:
        clock.now += timedelta(seconds=10)
        assert await confirmer(pool, client, clock).confirm_due()
        assert fake.requests == []
    assert await pool.fetchval("SELECT count(*) FROM size_checks") == 0


async def test_a_404_leaves_what_was_declared(pool, client):
    clock, image = Clock(), build_image([build_layer("gone", 5000)])
    await record(pool, clock, pushed("acme/api", image, lie=7))
    clock.now += timedelta(seconds=10)
    assert await confirmer(pool, client, clock).confirm_due()
    assert await ledgers.usage(pool) == {"acme": whole(image) - 14}
    assert await pool.fetchval("SELECT count(*) FROM size_checks") == 0


async def test_a_registry_that_is_away_is_asked_again_later(pool):
    clock, image = Clock(), build_image([build_layer("later", 5000)])
    await record(pool, clock, pushed("acme/api", image))
    async with serving_fake() as fake, fake.client() as client:
        fake.script = [says(503)]
        clock.now += timedelta(seconds=10)
        confirming = confirmer(pool, client, clock)
        assert not await confirming.confirm_due()
        asked = len(fake.requests)
        assert not await confirming.confirm_due()
        assert len(fake.requests) == asked, "not before its time"
        fake.script = [says(200, b"x" * 5)]
        clock.now += wait_before(0)
        assert await confirming.confirm_due()
    assert await ledgers.usage(pool) == {"acme": len(image.manifest.content) + 10}
    assert await pool.fetchval("SELECT count(*) FROM size_checks") == 0


async def test_while_a_registry_is_away_few_blobs_of_a_check_are_asked_for(pool):
    """Thousands of pushes are one check: each in vain would take a good part of the consumer."""
    clock = Clock()
    images = [build_image([build_layer(f"away {number}", 5000)]) for number in range(30)]
    await record(pool, clock, *(pushed("acme/api", image) for image in images))
    async with serving_fake() as fake, fake.client() as client:
        fake.script = [says(503)]
        clock.now += timedelta(seconds=10)
        confirming = confirmer(pool, client, clock)
        assert not await confirming.confirm_due()
        assert len({request.path for request in fake.requests}) == AT_ONCE
        fake.script = [says(200, b"x" * 5)]
        clock.now += wait_before(0)
        assert await confirming.confirm_due()
    documents = sum(len(image.manifest.content) for image in images)
    layers = {blob.digest for image in images for blob in image.blobs}
    assert await ledgers.usage(pool) == {"acme": documents + 5 * len(layers)}
    assert await pool.fetchval("SELECT count(*) FROM size_checks") == 0


async def test_a_batch_of_many_pushes_is_one_row(pool):
    clock = Clock()
    images = [build_image([build_layer(f"many {number}", 5000)]) for number in range(30)]
    await record(pool, clock, *(pushed("acme/api", image) for image in images))
    assert await pool.fetchval("SELECT count(*) FROM size_checks") == 1


def test_waiting_grows_to_hours_and_no_further():
    waits = [wait_before(attempts) for attempts in range(30)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (timedelta(minutes=1), timedelta(hours=6))
