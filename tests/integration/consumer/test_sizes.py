"""Sizes that no event told are fetched from the registry by digest, and never become 0 in silence."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from aiohttp import web

from consumer.metrics import ConsumerMetrics
from consumer.sizes import SizeResolver, wait_before
from ledger.facts import ManifestPushed
from registry.client import RegistryClient
from registry.media_types import DOCKER_SCHEMA1_SIGNED, OCI_INDEX, OCI_MANIFEST
from registry.push import build_image, build_index, build_layer, push_image, push_index
from runtime.lifecycle import Stopping
from tests.support import ledgers
from tests.support.fake_registry import REGISTRY, says, serving_fake, signed_schema1
from tests.support.histories import stamp

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest_asyncio.fixture
async def client(backend):
    """A real registry; its own events go nowhere."""
    async with (
        backend.registry("any", notification_url="http://127.0.0.1:9/none", token="t") as registry,
        RegistryClient(registry.url) as client,
    ):
        yield client


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


def resolver(pool, client, clock=None):
    return SizeResolver(
        pool=pool,
        recorder=ledgers.recorder(pool),
        client=client,
        metrics=ConsumerMetrics(),
        stopping=Stopping(),
        clock=clock or Clock(),
    )


def told_without_references(repository, digest, document, media_type, moment=1, tag="1"):
    return ManifestPushed(
        "default", repository, digest, stamp(moment), media_type, len(document), tag, content=None
    )


async def record(pool, *facts):
    await ledgers.recorder(pool).record(list(facts), now=NOW)


async def test_an_image_is_fetched_and_counted(pool, client):
    image = build_image([build_layer("a", 5000)])
    await push_image(client, "acme/api", image, "1")
    document = image.manifest.content
    await record(pool, told_without_references("acme/api", image.digest, document, OCI_MANIFEST))
    assert await ledgers.usage(pool) == {"acme": len(document)}
    assert await resolver(pool, client).resolve_due() == 1
    whole = len(document) + sum(len(blob.content) for blob in image.blobs)
    assert await ledgers.usage(pool) == {"acme": whole} == await ledgers.recount(pool)


async def test_an_index_and_its_children_are_fetched_whatever_comes_first(pool, client):
    images = {name: build_image([build_layer(name, 3000)]) for name in ("amd64", "arm64")}
    index = build_index(images)
    await push_index(client, "acme/web", index, "1")
    parts = [(item.digest, item.manifest.content, OCI_MANIFEST) for item in index.images]
    parts = [(index.digest, index.manifest.content, OCI_INDEX), *parts]
    await record(
        pool,
        *(
            told_without_references("acme/web", digest, document, media_type, moment)
            for moment, (digest, document, media_type) in enumerate(parts, 1)
        ),
    )
    assert await resolver(pool, client).resolve_due() == 3
    blobs = {blob.digest: len(blob.content) for item in index.images for blob in item.blobs}
    whole = sum(len(document) for _digest, document, _type in parts) + sum(blobs.values())
    assert await ledgers.usage(pool) == {"acme": whole} == await ledgers.recount(pool)


async def test_what_cannot_be_fetched_stays_pending_and_is_tried_again_later(pool, client):
    image = build_image([build_layer("late", 2000)])
    document = image.manifest.content
    await record(pool, told_without_references("acme/api", image.digest, document, OCI_MANIFEST))
    clock = Clock()
    waiting = resolver(pool, client, clock)
    assert await waiting.resolve_due() == 1
    assert await waiting.resolve_due() == 0, "it is left alone for a while"
    assert await pool.fetchval("SELECT count(*) FROM manifests WHERE blobs IS NULL") == 1
    await push_image(client, "acme/api", image, "1")
    clock.now += wait_before(0) + timedelta(seconds=1)
    assert await waiting.resolve_due() == 1
    whole = len(document) + sum(len(blob.content) for blob in image.blobs)
    assert await ledgers.usage(pool) == {"acme": whole}


async def test_a_format_that_is_not_understood_stays_pending(pool, client):
    document = json.dumps({"schemaVersion": 1}).encode()
    digest = hashlib.sha256(document).digest()
    await record(pool, told_without_references("acme/old", digest, document, DOCKER_SCHEMA1_SIGNED))
    assert await resolver(pool, client).resolve_due() == 1
    assert await pool.fetchval("SELECT fetch_attempts FROM manifests") == 1
    assert await ledgers.usage(pool) == {"acme": len(document)}


async def test_a_schema_1_image_counts_what_storage_says_of_its_layers(pool):
    layers = {"sha256:" + "ab" * 32: 7000, "sha256:" + "cd" * 32: 32}
    body, digest = signed_schema1(*layers, *layers)

    async def answer(request):
        found = request.path.rsplit("/", 1)[-1]
        if found in layers:
            return web.Response(body=b"x" * layers[found], headers=REGISTRY)
        named = {"Content-Type": DOCKER_SCHEMA1_SIGNED, "Docker-Content-Digest": found}
        return web.Response(body=body, headers={**REGISTRY, **named})

    async with serving_fake() as fake, fake.client() as client:
        fake.script = [answer]
        await record(pool, told_without_references("acme/old", digest, body, DOCKER_SCHEMA1_SIGNED))
        assert await ledgers.usage(pool) == {"acme": len(body)}
        assert await resolver(pool, client).resolve_due() == 1
    whole = len(body) + sum(layers.values())
    assert await ledgers.usage(pool) == {"acme": whole} == await ledgers.recount(pool)
    assert await pool.fetchval("SELECT count(*) FROM manifests WHERE blobs IS NULL") == 0


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream"])
async def test_a_server_that_knows_no_manifest_types_is_understood_by_the_events_word(
    pool, content_type
):
    image = build_image([build_layer("a", 5000)])
    document = json.loads(image.manifest.content)
    document.pop("mediaType", None)
    body = json.dumps(document).encode()
    digest = hashlib.sha256(body).digest()
    async with serving_fake() as fake, fake.client() as client:
        fake.script = [says(200, body, Content_Type=content_type)]
        await record(pool, told_without_references("acme/api", digest, body, OCI_MANIFEST))
        assert await resolver(pool, client).resolve_due() == 1
    whole = len(body) + sum(len(blob.content) for blob in image.blobs)
    assert await ledgers.usage(pool) == {"acme": whole}
    assert await pool.fetchval("SELECT media_type FROM manifests") == OCI_MANIFEST


def test_waiting_grows_to_an_hour_and_no_further():
    waits = [wait_before(attempts) for attempts in range(40)]
    assert waits == sorted(waits)
    assert waits[0] == timedelta(seconds=2)
    assert waits[-1] == timedelta(hours=1)
