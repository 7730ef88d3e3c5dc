"""What a manifest names is what its media type and storage say, on real registries of both majors.

An index may name blobs (BuildKit's cache is one of layers), anything may be called a manifest, and what
has `urls` is stored or not.
"""

import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from consumer.confirming import SizeConfirmer
from consumer.metrics import ConsumerMetrics
from consumer.sizes import SizeResolver
from devstack.ports import free_port
from devstack.registry import configuration
from ledger import verify
from ledger.facts import BlobStored, Content, ManifestDeleted, ManifestPushed
from ledger.record import Recorder
from quota.reconcile import Reconciler, Report
from registry.client import RegistryClient
from registry.errors import RegistryRefused
from registry.media_types import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from registry.names import format_digest, parse_digest
from registry.push import (
    OCI_LAYER,
    Blob,
    Image,
    build_image,
    build_layer,
    push_image,
    push_manifest,
    upload_blob,
)
from registry.workspaces import WorkspaceRule
from runtime.lifecycle import Stopping
from runtime.postgres import Pool
from tests.integration.quota.conftest import Service, service_of
from tests.integration.quota.grpc.conftest import serving_door
from tests.support import ledgers
from tests.support.backends import RegistryHandle
from tests.support.live_api import LiveApi, live_api
from tests.support.registries import answering, program_or_skip, running_configured
from tests.support.registry_proxy import in_front_of
from tests.support.waiting import wait_until

ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
CONFIGS = {OCI_MANIFEST: OCI_CONFIG, DOCKER_MANIFEST: DOCKER_CONFIG}
NOBODY_KNOWS = "application/vnd.example.thing.v7"
REPOSITORY = "acme/api"


def blob(media_type: str, size: int = 400_000) -> Blob:
    return Blob(build_layer(uuid.uuid4().hex, size).content, media_type)


def index_of(*named: Blob, **document: Any) -> Blob:
    whole = {"schemaVersion": 2, "mediaType": OCI_INDEX, **document}
    return Blob(
        msgspec.json.encode(whole | {"manifests": [b.descriptor for b in named]}), OCI_INDEX
    )


def weight(*blobs: Blob) -> int:
    return sum({item.digest: len(item.content) for item in blobs}.values())


def whole(image: Image) -> tuple[Blob, ...]:
    return (image.manifest, *image.blobs)


def reconciler(pool: Pool, recorder: Recorder, client: RegistryClient) -> Reconciler:
    return Reconciler(
        pool=pool,
        recorder=recorder,
        client=client,
        rule=WorkspaceRule(ledgers.PATTERN),
        clock=lambda: datetime.now(UTC),
        in_flight=0.0,
    )


@dataclass
class Place:
    """A registry of one major, and everything of ours that looks at it."""

    pool: Pool
    registry: RegistryHandle | None
    client: RegistryClient
    api: LiveApi
    service: Service

    async def upload(self, *blobs: Blob, told: bool = True) -> None:
        for item in blobs:
            await upload_blob(self.client, REPOSITORY, item.content)
        if told:
            await self.record(*(BlobStored(item.digest, len(item.content)) for item in blobs))

    async def record(self, *facts: Any) -> None:
        await self.service.recorder.record(list(facts), now=datetime.now(UTC))

    async def push(
        self, manifest: Blob, tag: str, *, told: bool = True, references: bool = True
    ) -> None:
        await push_manifest(self.client, REPOSITORY, manifest, tag)
        body, kind = manifest.content, manifest.media_type
        if told and references:
            await self.service.tell(REPOSITORY, tag, body, kind)
        elif told:
            here = ("default", REPOSITORY, manifest.digest)
            stamp = (time.time_ns(), uuid.uuid4().bytes)
            await self.record(ManifestPushed(*here, stamp, kind, len(body), tag))

    async def push_image(self, image: Image, *tags: str) -> None:
        await push_image(self.client, REPOSITORY, image, *tags)
        for tag in tags or (None,):
            body = image.manifest.content
            await self.service.tell(REPOSITORY, tag, body, image.manifest.media_type)

    async def confirm(self) -> None:
        """Storage is asked in the background for what nobody told."""
        confirming = SizeConfirmer(
            pool=self.pool,
            recorder=self.service.recorder,
            client=self.client,
            metrics=ConsumerMetrics(),
            stopping=Stopping(),
            clock=lambda: datetime.now(UTC) + timedelta(seconds=11),
        )
        while await confirming.confirm_due():
            pass
        assert await self.pool.fetchval("SELECT count(*) FROM size_checks") == 0

    async def resolve(self) -> SizeResolver:
        resolver = SizeResolver(
            pool=self.pool,
            recorder=self.service.recorder,
            client=self.client,
            metrics=ConsumerMetrics(),
            stopping=Stopping(),
            clock=lambda: datetime.now(UTC),
        )
        await resolver.resolve_due()
        return resolver

    async def reconcile(self) -> Report:
        report = await reconciler(self.pool, self.service.recorder, self.client).run()
        assert report is not None
        assert report.problems == []
        return report

    async def usage(self) -> int:
        """By the counter, which a recount of every kind confirms."""
        found = await ledgers.usage(self.pool)
        assert found == await ledgers.recount(self.pool)
        assert await ledgers.references_agree(self.pool)
        async with self.pool.acquire() as connection:
            assert all([item.exact async for item in verify.verify(connection)])
        return found.get("acme", 0)

    async def images(self) -> dict[str, dict[str, Any]]:
        """By digest."""
        _status, page = await self.api.call("GET", "/v1/workspaces/acme/images?limit=1000")
        return {item["digest"]: item for item in page["items"]}

    async def delete(self, digest: bytes) -> None:
        await self.client.delete_manifest(REPOSITORY, digest)
        stamp = (time.time_ns(), uuid.uuid4().bytes)
        await self.record(ManifestDeleted("default", REPOSITORY, digest, stamp))

    async def collect_garbage(self) -> None:
        assert self.registry is not None
        await self.registry.collect_garbage()

    async def verified(self) -> tuple[int, int]:
        """Bytes that a collection was to free, and those that it has."""
        _status, begun = await self.api.call("POST", "/v1/gc/verifications", {})

        async def over() -> dict[str, Any] | None:
            _status, seen = await self.api.call("GET", f"/v1/gc/verifications/{begun['id']}")
            return seen if seen["state"] != "running" else None

        seen = await wait_until(over, 20, what="the end of the verification")
        return seen["predicted_bytes"], seen["collected_bytes"]

    async def awaiting(self) -> int:
        _status, usage = await self.api.call("GET", "/v1/workspaces/acme/usage")
        return int(usage["awaiting_gc_bytes"])

    async def mismatches(self) -> int:
        kind = "io.registryquota.size.mismatch.v1"
        found: int = await self.pool.fetchval("SELECT count(*) FROM outbox WHERE type = $1", kind)
        return found


@pytest_asyncio.fixture(params=["2", "3"])
async def place(request: pytest.FixtureRequest, pool: Pool, backend: Any) -> AsyncIterator[Place]:
    async with (
        backend.registry(request.param) as registry,
        RegistryClient(registry.url) as client,
        live_api(pool, registry.url) as api,
    ):
        yield Place(pool, registry, client, api, service_of(pool, client))


@pytest_asyncio.fixture(params=["2", "3"])
async def trusting(
    request: pytest.FixtureRequest, pool: Pool, tmp_path: Path
) -> AsyncIterator[Place]:
    """A registry that lets layers have any `urls`."""
    program, port = program_or_skip(request.param), free_port()
    config = configuration(
        data=tmp_path / "storage",
        port=port,
        secret="s",
        notification_url=None,
        token="",
    )
    config["validation"] = {"manifests": {"urls": {"allow": ["^https?://"]}}}
    url = f"http://127.0.0.1:{port}"
    with running_configured(tmp_path, json.dumps(config), program=program):
        await answering(url)
        async with RegistryClient(url) as client, live_api(pool, url) as api:
            yield Place(pool, None, client, api, service_of(pool, client))


@asynccontextmanager
async def watched(place: Place) -> AsyncIterator[list[tuple[str, str]]]:
    """Methods and paths of what is asked meanwhile."""
    direct = place.client
    async with in_front_of(str(direct.base)) as proxy, RegistryClient(proxy.url) as through:
        place.client = through
        try:
            yield proxy.asked
        finally:
            place.client = direct


def manifests_asked(asked: list[tuple[str, str]]) -> Counter[bytes]:
    """How often each digest was asked for as a manifest."""
    names = [path.rpartition("/manifests/")[2] for _method, path in asked]
    return Counter(parse_digest(name) for name in names if name.startswith("sha256:"))


def a_cache(kind: str = OCI_LAYER) -> tuple[list[Blob], Blob]:
    """BuildKit's, as it is before 0.21: (three layers and their list, the index)."""
    blobs = [*(blob(kind) for _ in range(3)), blob(CACHE_CONFIG, 700)]
    return blobs, index_of(*blobs)


async def test_a_cache_of_layers_counts_whole(place):
    expected = 0
    for kind, told, references in product((OCI_LAYER, ZSTD), (True, False), (True, False)):
        blobs, index = a_cache(kind)
        await place.upload(*blobs, told=told)
        await place.push(index, uuid.uuid4().hex, references=references)
        await place.resolve()
        expected += weight(index, *blobs)
        assert await place.usage() == expected, (kind, told, references)
        item = (await place.images())[format_digest(index.digest)]
        assert item["size_bytes"] == weight(*blobs)
        assert item["unique_bytes"] == weight(index, *blobs)
    await place.confirm()
    assert await place.usage() == expected
    assert (await place.reconcile()).drift == []
    assert await place.mismatches() == 0


async def test_a_cache_from_before_the_installation_is_taken_in(place):
    blobs, index = a_cache()
    await place.upload(*blobs, told=False)
    await place.push(index, "cache", told=False)
    async with watched(place) as asked:
        [drift] = (await place.reconcile()).drift
    assert (drift.found, drift.drift_bytes) == (1, weight(index, *blobs))
    layers = {item.digest for item in blobs}
    assert not layers & manifests_asked(asked).keys(), "no layer is asked for as a manifest"
    await place.confirm()
    assert (await place.reconcile()).drift == []
    assert await place.usage() == weight(index, *blobs)


async def test_a_build_that_pushed_a_cache_is_told_its_size(place):
    blobs, index = a_cache()
    await place.upload(*blobs, told=False)
    await place.push(index, "cache", told=False)
    async with serving_door(place.service) as door:
        answer = await door.track(digest=format_digest(index.digest), tag="cache")
    assert not answer.error
    assert answer.size_bytes == weight(*blobs)
    assert answer.new_total_usage == await place.usage() == weight(index, *blobs)


async def test_an_index_may_hold_manifests_and_blobs_and_others(place):
    """Nested, with a type that nobody knows, and layers that are called manifests."""
    (blobs, cache), image = a_cache(), build_image([build_layer(uuid.uuid4().hex, 30_000)])
    odd, liar = blob(NOBODY_KNOWS), blob(OCI_MANIFEST)
    mixed = index_of(image.manifest, cache, blobs[0], odd, liar)
    everything = (*whole(image), *blobs, odd, liar, cache, mixed)
    await place.upload(*blobs, odd, liar, told=False)
    await place.push_image(image)
    await place.push(cache, "cache")
    await place.push(mixed, "mixed")
    assert await place.usage() == weight(*everything) - weight(odd, liar)
    await place.confirm()
    assert await place.usage() == weight(*everything), "storage has the last word"
    items = await place.images()
    assert items[format_digest(mixed.digest)]["size_bytes"] == weight(
        *image.blobs, *blobs, odd, liar
    )
    unique = {digest: item["unique_bytes"] for digest, item in items.items()}
    assert unique == {
        format_digest(image.digest): weight(*whole(image)),
        format_digest(cache.digest): weight(cache, *blobs[1:]),
        format_digest(mixed.digest): weight(mixed, odd, liar),
    }
    assert (await place.reconcile()).drift == []
    assert await place.mismatches() == 0

    # A child that is gone does not count through an index that names it.
    await place.delete(image.digest)
    assert await place.usage() == weight(*everything) - weight(*whole(image))
    # Unless storage has its bytes as a blob, too.
    await place.upload(image.manifest)
    assert await place.usage() == weight(*everything) - weight(*image.blobs)


@pytest.mark.parametrize("way", ["reconcile", "track", "events"])
async def test_storage_tells_what_a_name_that_nobody_knows_stands_for(place, way):
    odd, liar, image = (
        blob(NOBODY_KNOWS),
        blob(OCI_MANIFEST),
        build_image([build_layer("x", 9_000)]),
    )
    named = Blob(image.manifest.content, NOBODY_KNOWS)
    index = index_of(odd, liar, named)
    await place.upload(odd, liar, told=way == "events")
    await push_image(place.client, REPOSITORY, image)
    if way == "events":
        await place.push_image(image)
    await place.push(index, "odd", told=way == "events")
    if way == "reconcile":
        async with watched(place) as asked:
            [drift] = (await place.reconcile()).drift
        assert drift.found == 2, "the index, and the manifest under the unknown name"
        assert manifests_asked(asked)[odd.digest] == 1
        assert manifests_asked(asked)[liar.digest] <= 2, "as an entry, and as a part: never again"
    elif way == "track":
        async with serving_door(place.service) as door:
            answer = await door.track(digest=format_digest(index.digest), tag="odd")
            assert answer.size_bytes == weight(odd, liar, *image.blobs), answer.error
    assert await place.usage() == weight(index, odd, liar, *whole(image))
    if way == "reconcile":
        async with watched(place) as asked:
            assert (await place.reconcile()).drift == []
        assert manifests_asked(asked)[odd.digest] == 0, "what storage told is not asked again"
        assert manifests_asked(asked)[liar.digest] <= 1
        assert not await place.pool.fetch("SELECT FROM unreadable_images"), "it can be pulled"
        kinds = await place.pool.fetch("SELECT kind FROM observations WHERE kind = 'BlobStored'")
        assert len(kinds) == 2


KINDS = (
    FOREIGN,
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar",
    OCI_LAYER,
    ZSTD,
)


async def test_a_layer_with_urls_counts_when_storage_has_it(trusting):
    expected, taken = 0, 0
    for outer, kind, stored, told in product(CONFIGS, KINDS, (True, False), (True, False)):
        layer, config = blob(kind, 20_000), Blob(uuid.uuid4().bytes, CONFIGS[outer])
        elsewhere = layer.descriptor | {"urls": ["https://elsewhere.example/layer"]}
        document = {"schemaVersion": 2, "mediaType": outer, "config": config.descriptor}
        image = Blob(msgspec.json.encode(document | {"layers": [elsewhere]}), outer)
        await trusting.upload(config, *([layer] if stored else []), told=told)
        tag = uuid.uuid4().hex
        try:
            await trusting.push(image, tag, references=told)
        except RegistryRefused:
            assert not stored, "this registry wants the layer to be there"
            await trusting.record(
                *([BlobStored(config.digest, len(config.content))] if told else [])
            )
            continue
        taken += not stored
        await trusting.resolve()
        await trusting.confirm()
        there = [layer] if stored else []
        expected += weight(image, config, *there)
        assert await trusting.usage() == expected, (kind, stored, told)
        item = (await trusting.images())[format_digest(image.digest)]
        assert item["size_bytes"] == weight(config, *there)
        assert item["unique_bytes"] == weight(image, config, *there)
    assert taken >= 4, "some layers are taken unseen"
    assert (await trusting.reconcile()).drift == []
    assert await trusting.mismatches() == 0


async def test_a_build_is_told_the_size_of_layers_with_urls_that_are_here(trusting):
    here, away = blob(FOREIGN, 20_000), blob(FOREIGN, 30_000)
    config = Blob(uuid.uuid4().bytes, DOCKER_CONFIG)
    layers = [item.descriptor | {"urls": ["https://elsewhere.example/"]} for item in (here, away)]
    document = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config.descriptor}
    image = Blob(msgspec.json.encode(document | {"layers": layers}), DOCKER_MANIFEST)
    await trusting.upload(config, here, told=False)
    await trusting.push(image, "1", told=False)
    async with serving_door(trusting.service) as door:
        answer = await door.track(digest=format_digest(image.digest), tag="1")
    assert not answer.error
    assert answer.size_bytes == weight(config, here)
    assert await trusting.usage() == weight(config, here, image)


def with_layers_elsewhere(*layers: Blob) -> tuple[Blob, Blob]:
    """(config, manifest) of an image whose layers have `urls`."""
    config = Blob(uuid.uuid4().bytes, DOCKER_CONFIG)
    named = [item.descriptor | {"urls": ["https://elsewhere.example/"]} for item in layers]
    document = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config.descriptor}
    return config, Blob(msgspec.json.encode(document | {"layers": named}), DOCKER_MANIFEST)


async def test_a_pass_finds_layers_with_urls_whose_event_was_lost(trusting):
    late, never = blob(FOREIGN, 20_000), blob(FOREIGN, 30_000)
    config, image = with_layers_elsewhere(late, never)
    await trusting.upload(config)
    await trusting.push(image, "1")
    await trusting.push(image, "2")
    await trusting.confirm()
    assert (await trusting.reconcile()).equal, "what is not stored is no problem"
    assert await trusting.usage() == weight(config, image)

    await trusting.upload(late, told=False)
    report = await trusting.reconcile()
    [drift] = report.drift
    assert not report.equal
    assert (drift.found, drift.corrected, drift.drift_bytes) == (0, 1, weight(late))
    assert await trusting.usage() == weight(config, image, late)
    observed = "SELECT count(*) FROM observations WHERE kind = 'BlobStored'"
    assert await trusting.pool.fetchval(observed) == 1

    async with watched(trusting) as asked:
        assert (await trusting.reconcile()).equal
    heads = [path for method, path in asked if method == "HEAD" and "/blobs/" in path]
    assert heads == [f"/v2/{REPOSITORY}/blobs/{format_digest(never.digest)}"], "once, and no other"


async def test_an_image_that_a_pass_finds_counts_its_layers_with_urls_at_once(trusting):
    here, away = blob(FOREIGN, 20_000), blob(FOREIGN, 30_000)
    config, image = with_layers_elsewhere(here, away)
    await trusting.upload(config, here, told=False)
    await trusting.push(image, "1", told=False)
    [drift] = (await trusting.reconcile()).drift
    assert (drift.found, drift.corrected) == (1, 0)
    assert drift.drift_bytes == weight(config, image, here) == await trusting.usage()
    assert (await trusting.reconcile()).equal


@pytest.mark.parametrize("obstacle", [{"stores_at": "localhost"}, {"refuses": "/blobs/"}])
async def test_where_storage_does_not_tell_of_a_layer_with_urls_nothing_is_equal(
    trusting, obstacle
):
    late = blob(FOREIGN, 20_000)
    config, image = with_layers_elsewhere(late)
    await trusting.upload(config)
    await trusting.push(image, "1")
    await trusting.upload(late, told=False)
    async with (
        in_front_of(str(trusting.client.base), **obstacle) as proxy,
        RegistryClient(proxy.url) as through,
    ):
        report = await reconciler(trusting.pool, trusting.service.recorder, through).run()
    assert report is not None
    assert not report.equal
    assert any(REPOSITORY in problem for problem in report.problems)
    assert await trusting.usage() == weight(config, image)


async def test_where_storage_does_not_tell_of_an_entry_of_an_index_nothing_is_equal(place):
    odd = blob(NOBODY_KNOWS)
    index = index_of(odd)
    await place.upload(odd, told=False)
    await place.push(index, "odd")
    async with (
        in_front_of(str(place.client.base), stores_at="localhost") as proxy,
        RegistryClient(proxy.url) as through,
    ):
        report = await reconciler(place.pool, place.service.recorder, through).run()
    assert report is not None
    assert not report.equal
    assert "RQ_REGISTRY_REDIRECT_HOSTS" in report.problems[0]
    assert (await place.reconcile()).drift[0].drift_bytes == weight(odd)


async def test_what_a_cache_holds_is_never_announced_as_awaiting_collection(place):
    """Plan, delete, collection and restore of images that share layers with a cache."""
    (blobs, cache) = a_cache()
    image = build_image([blobs[0], blobs[1]])
    await place.upload(*blobs)
    await place.push(cache, "cache")
    await place.push_image(image, "1")
    both = weight(*whole(image), *blobs, cache)
    assert await place.usage() == both
    own = weight(image.manifest, image.config)
    assert (await place.images())[format_digest(image.digest)]["unique_bytes"] == own

    await place.service.push_built(REPOSITORY, "2", build_image([build_layer("newer", 9_000)]))
    policy = {
        "keep_newest": 1,
        "keep_at_least": 1,
        "keep_tags": ["cache"],
        "max_ratio_per_run": 1.0,
    }
    before = await place.usage()
    await place.service.configure("acme", before, **policy)
    status, plan = await place.api.call("POST", "/v1/workspaces/acme/cleanup-plans", {})
    assert status == 200, plan
    going = [item for item in plan["images"] if item["action"] == "delete"]
    assert [item["digest"] for item in going] == [format_digest(image.digest)]
    assert plan["freed_bytes"] == own
    status, run = await place.api.call("POST", "/v1/workspaces/acme/cleanups", {"plan": plan["id"]})
    assert status == 200, run
    assert run["freed_bytes"] == own
    assert await place.usage() == before - own
    assert await place.awaiting() == own, "the cache still holds the layers"
    status, restored = await place.api.call(
        "POST", "/v1/workspaces/acme/restores", {"run": run["run_id"]}
    )
    assert (status, restored["restored"]) == (200, 1), restored
    assert (await place.usage(), await place.awaiting()) == (before, 0)


async def test_a_collection_leaves_what_a_cache_holds_and_takes_it_with_the_cache(place):
    (blobs, cache) = a_cache()
    image = build_image([blobs[0], blobs[1]])
    await place.upload(*blobs)
    await place.push(cache, "cache")
    await place.push_image(image, "1")
    own = weight(image.manifest, image.config)
    await place.delete(image.digest)
    assert (await place.usage(), await place.awaiting()) == (weight(*blobs, cache), own)
    await place.collect_garbage()
    assert await place.verified() == (own, own)
    assert await place.awaiting() == 0
    for item in blobs:
        assert await place.client.has_blob(REPOSITORY, item.digest)

    await place.delete(cache.digest)
    assert (await place.usage(), await place.awaiting()) == (0, weight(*blobs, cache))
    await place.collect_garbage()
    assert await place.verified() == (weight(*blobs, cache),) * 2
    assert await place.awaiting() == 0


async def test_a_cache_that_was_cleaned_comes_back_with_its_layers(place):
    blobs, cache = a_cache()
    await place.upload(*blobs)
    await place.push(cache, "cache")
    for number in range(3):
        layer = build_layer(f"later {number}", 9_000)
        await place.push_image(build_image([layer]), f"1.{number}")
    before = await place.usage()
    await place.service.configure(
        "acme", before, keep_newest=2, keep_at_least=2, max_ratio_per_run=1.0
    )
    outcome = await place.service.ask("acme", app="api", incoming_bytes=0)
    cleaned = outcome.outcome
    assert [item.digest for item in cleaned.images] == [format_digest(cache.digest)]
    assert await place.usage() == before - weight(cache, *blobs)
    assert await place.awaiting() == weight(cache, *blobs)
    run = {"run": str(cleaned.run_id)}
    status, restored = await place.api.call("POST", "/v1/workspaces/acme/restores", run)
    assert (status, restored["restored"]) == (200, 1), restored
    assert (await place.usage(), await place.awaiting()) == (before, 0)


async def test_a_layer_in_use_keeps_the_cache_that_holds_it(place):
    blobs, cache = a_cache()
    await place.upload(*blobs)
    await place.push(cache, "cache")
    await place.push_image(build_image([build_layer("later", 9_000)]), "1")
    await place.push_image(build_image([build_layer("latest", 9_000)]), "2")
    before = await place.usage()
    await place.service.configure("acme", before, keep_newest=1, keep_at_least=1)
    lease = {"source": "prod", "digests": [format_digest(blobs[0].digest)], "ttl_s": 600}
    status, answer = await place.api.call("POST", "/v1/workspaces/acme/leases", lease)
    assert status in (200, 201), answer
    item = (await place.images())[format_digest(cache.digest)]
    assert "lease:prod" in item["protected_by"]
    _status, plan = await place.api.call("POST", "/v1/workspaces/acme/cleanup-plans", {})
    kept = {image["digest"]: image["code"] for image in plan["images"] if image["action"] == "keep"}
    assert kept[format_digest(cache.digest)] == "in_use"
    layers = tuple((item.digest, len(item.content)) for item in blobs)
    outcome = await place.service.ask("acme", app="api", layers=layers, dry_run=True)
    assert outcome.figures.incoming_bytes == 0, "what the cache holds costs a build nothing"


async def test_what_an_earlier_release_read_is_read_again_and_only_news_are_recorded(place):
    (blobs, cache), image = a_cache(), build_image([build_layer("old", 9_000)])
    await place.upload(*blobs, told=False)
    await place.push(cache, "cache", told=False)
    await push_image(place.client, REPOSITORY, image, "1")
    was_read = {
        cache.digest: Content(children=tuple(item.digest for item in blobs)),
        image.digest: Content(
            blobs=tuple((item.digest, len(item.content)) for item in image.blobs),
            config_media_type=OCI_CONFIG,
        ),
        bytes(32): Content(children=(image.digest,)),
    }
    for manifest in (cache, image.manifest, Blob(b"{}", OCI_INDEX)):
        digest = manifest.digest if manifest.digest in was_read else bytes(32)
        stamp, size = (time.time_ns(), uuid.uuid4().bytes), len(manifest.content)
        here = ("default", REPOSITORY, digest, stamp, manifest.media_type, size)
        await place.record(ManifestPushed(*here, content=was_read[digest]))
    assert await place.usage() == weight(cache, *whole(image)) + 2

    resolver = await place.resolve()
    assert await resolver.read_again() == 3
    assert await place.usage() == weight(cache, *blobs, *whole(image)) + 2
    assert await place.pool.fetchval("SELECT count(*) FROM observations") == 1
    assert await resolver.read_again() == 0, "also what the registry has no more is done with"
