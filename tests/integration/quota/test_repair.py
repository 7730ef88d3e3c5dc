"""A push that a DELETE has hit is put back from the kept bytes, as soon as the events tell of it."""

import time
import uuid

import pytest

from ledger.facts import ManifestDeleted, TagRemoved
from ledger.fold import RACE_NS
from quota.metrics import QuotaMetrics
from quota.repair import Repairer
from quota.snapshot import Incoming
from registry.push import build_image, build_index, build_layer, push_image, push_manifest
from tests.integration.quota.test_cleanup import two_with_one_signature
from tests.support import ledgers


def repairer(service) -> Repairer:
    return Repairer(service.cleaner.tools, QuotaMetrics().put_back)


async def lost_race(service, monkeypatch, victim, *, tag):
    """While a cleanup deletes `victim` somebody pushes it again under `tag`; the events come later."""
    delete, told = service.registry.delete_manifest, []

    async def push_then_delete(repository, digest):
        if digest == victim.digest:
            await push_manifest(service.registry, repository, victim.manifest, tag)
            told.append(time.time_ns())
        answer = await delete(repository, digest)
        if digest == victim.digest:
            told.append(time.time_ns())
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(service.registry, "delete_manifest", push_then_delete)
        task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
        await task
    assert f"sha256:{victim.digest.hex()}" in [image.digest for image in outcome.images]
    pushed_ns, deleted_ns = told
    await service.tell(
        "acme/api", tag, victim.manifest.content, victim.manifest.media_type, at_ns=pushed_ns
    )
    stamp = (deleted_ns, uuid.uuid4().bytes)
    await service.recorder.record(
        [
            ManifestDeleted("default", "acme/api", victim.digest, stamp),
            TagRemoved("default", "acme/api", tag, stamp),
        ],
        now=service.cleaner.tools.clock(),
    )
    return pushed_ns


async def full(service):
    await service.configure("acme", 1_000_000)
    return [await service.push("acme/api", f"1.{number}", 100_000) for number in range(8)]


async def test_a_push_before_the_delete_is_put_back_under_its_tag(service, monkeypatch):
    victim = (await full(service))[0]
    pushed_ns = await lost_race(service, monkeypatch, victim, tag="new")
    assert "new" not in await service.tags("acme/api")
    assert await repairer(service).sweep() == 1
    state = await service.registry.tag_digest("acme/api", "new")
    assert state.digest == victim.digest
    assert "1.0" not in await service.tags("acme/api")
    assert (await ledgers.tags(service.pool))["acme/api"]["new"] == victim.digest
    assert await service.pool.fetchval(
        "SELECT push_ns FROM manifests WHERE present AND digest = $1", victim.digest
    ) == pushed_ns  # fmt: skip
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)
    assert await repairer(service).sweep() == 0


@pytest.mark.parametrize("deleted_again", [False, True])
async def test_a_tag_that_was_hit_comes_back_though_its_image_was_pushed_again_without_it(
    service, monkeypatch, deleted_again
):
    """As the child of an index, after the DELETE; a cleanup then finds it untagged: ours took the tag."""
    victim = (await full(service))[0]
    await lost_race(service, monkeypatch, victim, tag="new")
    gone_ns = await service.pool.fetchval(
        "SELECT gone_ns FROM cleanup_items WHERE digest = $1", victim.digest
    )
    await push_image(service.registry, "acme/api", victim)
    manifest = victim.manifest
    await service.tell("acme/api", None, manifest.content, manifest.media_type, at_ns=gone_ns + 1)
    if deleted_again:
        await service.configure("acme", 500_000, untagged_grace=0, max_ratio_per_run=1)
        task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
        await task
        assert f"sha256:{victim.digest.hex()}" in [image.digest for image in outcome.images]
    await repairer(service).sweep()
    state = await service.registry.tag_digest("acme/api", "new")
    assert state.digest == victim.digest


async def test_a_tag_that_was_moved_since_is_not_taken_back(service, monkeypatch):
    victim = (await full(service))[0]
    await lost_race(service, monkeypatch, victim, tag="new")
    other = await service.push("acme/api", "new", 1000)
    await repairer(service).sweep()
    assert (await service.registry.tag_digest("acme/api", "new")).digest == other.digest


async def test_what_was_pushed_after_the_delete_needs_no_repair(service):
    victim = (await full(service))[0]
    task, _outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await task
    await service.push_built("acme/api", "new", victim)
    assert await repairer(service).sweep() == 0
    assert (await service.registry.tag_digest("acme/api", "new")).digest == victim.digest


async def test_what_a_later_cleanup_deleted_knowing_of_the_push_stays_deleted(service):
    """The push lies within the second of the first delete, whose time the registry told roughly."""
    images = await full(service)
    task, _outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await task
    await service.push_built("acme/api", "again", images[0])
    for number in range(7):
        await service.push("acme/api", f"2.{number}", 100_000)
    await service.configure("acme", 1_000_000, max_ratio_per_run=1)
    task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await task
    assert f"sha256:{images[0].digest.hex()}" in [image.digest for image in outcome.images]
    assert await repairer(service).sweep() == 0
    assert not (await service.registry.head_manifest("acme/api", images[0].digest)).exists


async def test_what_somebody_deletes_after_a_cleanup_stays_deleted(service):
    """The push lies within the second of our DELETE, whose time the registry told roughly."""
    victim = (await full(service))[0]
    task, _outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await task
    gone_ns = await service.pool.fetchval(
        "SELECT gone_ns FROM cleanup_items WHERE digest = $1", victim.digest
    )
    await service.push_built("acme/api", "new", victim, told=False)
    manifest = victim.manifest
    await service.tell("acme/api", "new", manifest.content, manifest.media_type, at_ns=gone_ns - 1)
    await service.registry.delete_manifest("acme/api", victim.digest)
    stamp = (gone_ns + RACE_NS + 1, uuid.uuid4().bytes)
    await service.recorder.record(
        [ManifestDeleted("default", "acme/api", victim.digest, stamp)],
        now=service.cleaner.tools.clock(),
    )
    assert await repairer(service).sweep() == 0
    assert not (await service.registry.head_manifest("acme/api", victim.digest)).exists


@pytest.mark.parametrize("told", ["at once", "twice"])
async def test_an_index_that_needs_what_was_deleted_gets_it_back(service, monkeypatch, told):
    """A client that finds the child there does not push it: only the index tells."""
    images = await full(service)
    victim = images[0]
    index = build_index({"amd64": victim, "arm64": images[7]})
    delete = service.registry.delete_manifest

    async def push_then_delete(repository, digest):
        if digest == victim.digest:
            await push_manifest(service.registry, repository, index.manifest, "both")
        return await delete(repository, digest)

    with monkeypatch.context() as patch:
        patch.setattr(service.registry, "delete_manifest", push_then_delete)
        task, _outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
        await task
    assert not (await service.registry.head_manifest("acme/api", victim.digest)).exists
    for _ in range(2 if told == "twice" else 1):
        manifest = index.manifest
        await service.tell("acme/api", "both", manifest.content, manifest.media_type)
    assert await repairer(service).sweep() == 1
    assert (await service.registry.head_manifest("acme/api", victim.digest)).exists
    assert ("acme/api", victim.digest) in await ledgers.manifests(service.pool)
    assert await repairer(service).sweep() == 0


async def test_an_index_that_was_hit_comes_back_with_its_children(service, monkeypatch):
    await service.configure("acme", 1_000_000)
    index = build_index(
        {name: build_image([build_layer(f"hit {name}", 200_000)]) for name in ("amd64", "arm64")}
    )
    await service.push_index("acme/api", "old", index)
    for number in range(4):
        await service.push("acme/api", f"1.{number}", 120_000)
    await lost_race(service, monkeypatch, index, tag="again")
    assert await repairer(service).sweep() == 3
    for digest in (index.digest, *(image.digest for image in index.images)):
        assert (await service.registry.get_manifest("acme/api", digest)).digest == digest
    assert (await service.registry.tag_digest("acme/api", "again")).digest == index.digest


async def test_an_image_that_was_hit_comes_back_with_a_signature_that_went_with_another(
    service, monkeypatch
):
    signed, signature = await two_with_one_signature(service)
    await lost_race(service, monkeypatch, signed[0], tag="again")
    assert not (await service.registry.head_manifest("acme/api", signature.digest)).exists
    assert await repairer(service).sweep() == 2
    for digest in (signed[0].digest, signature.digest):
        assert (await service.registry.get_manifest("acme/api", digest)).digest == digest
    assert not (await service.registry.head_manifest("acme/api", signed[1].digest)).exists
