"""`TrackImage`: what a build pushed is in the books before the answer, whatever the events do."""

import time
import uuid
from datetime import UTC, datetime

import pytest

from ledger.facts import ManifestDeleted
from registry.names import format_digest
from registry.push import build_image, build_index, build_layer, push_image, push_index
from tests.support import ledgers


def blobs_of(*images):
    return sum(
        {blob.digest: len(blob.content) for image in images for blob in image.blobs}.values()
    )


async def test_an_image_counts_from_the_answer_on(door):
    image = await door.behind.push("acme/api", "v1", 30_000, 20_000, told=False)
    answer = await door.track(digest=format_digest(image.digest))
    assert not answer.error
    assert answer.size_bytes == blobs_of(image)
    assert answer.new_total_usage == blobs_of(image) + len(image.manifest.content)
    assert await door.behind.usage("acme") == answer.new_total_usage
    assert (await ledgers.tags(door.behind.pool))["acme/api"] == {"v1": image.digest}


async def test_an_index_has_the_distinct_blobs_of_all_its_children(door):
    shared = build_layer("shared", 40_000)
    images = [build_image([shared, build_layer(arch, 10_000)], architecture=arch) for arch in "ab"]
    index = build_index({"amd64": images[0], "arm64": images[1]})
    await push_index(door.behind.registry, "acme/api", index, "v1")
    answer = await door.track(digest=format_digest(index.digest))
    assert answer.size_bytes == blobs_of(*images)
    documents = len(index.manifest.content) + sum(len(item.manifest.content) for item in images)
    assert answer.new_total_usage == answer.size_bytes + documents
    assert {digest for _name, digest in await ledgers.manifests(door.behind.pool)} == {
        index.digest,
        *(image.digest for image in images),
    }


async def test_without_a_digest_the_tag_says_it(door):
    image = await door.behind.push("acme/api", "v1", 10_000, told=False)
    assert (await door.track()).size_bytes == blobs_of(image)


@pytest.mark.parametrize("event", ["before", "after"])
async def test_it_agrees_with_the_event_of_the_same_push(door, event):
    images = [build_image([build_layer(arch, 9_000)], architecture=arch) for arch in "ab"]
    index = build_index({"amd64": images[0], "arm64": images[1]})

    async def tell():
        for image in images:
            await door.behind.tell(
                "acme/api", None, image.manifest.content, image.manifest.media_type
            )
        await door.behind.tell("acme/api", "v1", index.manifest.content, index.manifest.media_type)

    await push_index(door.behind.registry, "acme/api", index, "v1")
    if event == "before":
        await tell()
    answer = await door.track(digest=format_digest(index.digest))
    if event == "after":
        await tell()
    pool = door.behind.pool
    assert await ledgers.usage(pool) == await ledgers.recount(pool)
    assert await ledgers.references_agree(pool)
    assert await door.behind.usage("acme") == answer.new_total_usage
    assert (await ledgers.tags(pool))["acme/api"] == {"v1": index.digest}
    announced = await pool.fetch("SELECT type FROM outbox WHERE type LIKE '%image.recorded%'")
    assert len(announced) == 3


async def test_repeating_it_changes_nothing(door):
    image = await door.behind.push("acme/api", "v1", 10_000, told=False)
    first = await door.track(digest=format_digest(image.digest))
    assert await door.track(digest=format_digest(image.digest)) == first


async def test_an_image_that_was_deleted_and_pushed_again_within_the_second_is_tracked(door):
    """The registry's clock on answers has whole seconds, the one on events is exact."""
    image = await door.behind.push("acme/api", "v1", 10_000)
    end_of_this_second = (time.time_ns() // 10**9 + 1) * 10**9 - 1
    deleted = ManifestDeleted(
        "default", "acme/api", image.digest, (end_of_this_second, uuid.uuid4().bytes)
    )
    await door.behind.recorder.record([deleted], now=datetime.now(UTC))
    answer = await door.track(digest=format_digest(image.digest))
    assert (answer.error, answer.size_bytes) == ("", blobs_of(image))
    assert answer.new_total_usage == await door.behind.usage("acme") > answer.size_bytes
    assert (await ledgers.tags(door.behind.pool))["acme/api"] == {"v1": image.digest}


async def test_a_tag_that_moved_on_is_not_moved_back(door):
    old = await door.behind.push("acme/api", "v1", 10_000)
    new = await door.behind.push("acme/api", "v1", 12_000)
    answer = await door.track(digest=format_digest(old.digest))
    assert answer.size_bytes == blobs_of(old)
    assert (await ledgers.tags(door.behind.pool))["acme/api"] == {"v1": new.digest}


async def test_the_repository_is_mapped_to_the_workspace_and_app_with_what_it_has(door):
    first = await door.behind.push("team/thing", "v0", 10_000)
    image = await door.behind.push("team/thing", "v1", 10_000, told=False)
    answer = await door.track(
        workspace_id="acme", app_id="shop", repository="team/thing", digest=""
    )
    both = [first, image]
    documents = sum(len(item.manifest.content) for item in both)
    assert answer.new_total_usage == blobs_of(*both) + documents
    assert await ledgers.usage(door.behind.pool) == {"acme": answer.new_total_usage}
    placed = await door.behind.pool.fetchrow("SELECT app, mapped FROM repositories")
    assert tuple(placed) == ("shop", True)


async def test_a_registry_url_is_never_asked(door):
    image = await door.behind.push("acme/api", "v1", 10_000, told=False)
    answer = await door.track(registry_url="http://127.0.0.1:1/evil")
    assert answer.size_bytes == blobs_of(image)


async def test_what_the_registry_does_not_have_is_told_and_changes_nothing(door):
    await door.behind.push("acme/api", "v1", 10_000)
    before = await ledgers.rows(door.behind.pool)
    missing = await door.track(repository="team/thing", digest="sha256:" + "0" * 64)
    assert "the registry does not have it" in missing.error
    no_tag = await door.track(tag="v2")
    assert "the registry does not have it" in no_tag.error
    image = build_image([build_layer("untagged", 1_000)])
    await push_image(door.behind.registry, "acme/api", image)
    named = await door.track(tag="v2", digest=format_digest(image.digest))
    assert "no tag 'v2'" in named.error
    assert await ledgers.rows(door.behind.pool) == before
    assert not await door.behind.pool.fetch("SELECT FROM repositories WHERE name = 'team/thing'")
