"""The client against a real registry."""

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.client import RegistryClient
from registry.errors import (
    DeletesDisabled,
    NotFound,
    RegistryDenied,
    RegistryRefused,
    RegistryUnavailable,
    TooLarge,
)
from registry.manifests import parse_config_created, parse_manifest
from registry.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from registry.names import InvalidName, format_digest
from registry.push import (
    build_image,
    build_index,
    build_layer,
    build_referrer,
    mount_blob,
    push_image,
    push_index,
    push_manifest,
    upload_blob,
)
from registry.transport import Retries
from tests.support.registries import answering, running_registry

IMAGE = build_image([build_layer("base", 3_000), build_layer("app", 1_500)])
UNKNOWN = hashlib.sha256(b"nobody pushed this").digest()


def recent(date: datetime | None) -> bool:
    return date is not None and abs(datetime.now(UTC) - date) < timedelta(minutes=5)


async def test_a_registry_tells_its_clock(client):
    assert recent(await client.ping())


async def test_a_pushed_image_is_read_back_by_digest(client, repository):
    await push_image(client, repository, IMAGE, "1")
    fetched = await client.get_manifest(repository, IMAGE.digest)
    assert (fetched.body, fetched.media_type) == (IMAGE.manifest.content, OCI_MANIFEST)
    assert recent(fetched.date)
    parsed = parse_manifest(fetched.body, fetched.media_type)
    for descriptor in parsed.references:
        assert await client.head_blob(repository, descriptor.digest) == descriptor.size
    assert parsed.config is not None
    config = await client.get_blob(repository, parsed.config.digest, 1_000_000)
    assert parse_config_created(config, datetime.now(UTC)) == datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_docker_image_comes_unchanged_by_tag_and_by_digest(client, repository):
    await push_image(client, repository, IMAGE)
    document = json.loads(IMAGE.manifest.content) | {"mediaType": DOCKER_MANIFEST}
    body = json.dumps(document).encode()
    digest = hashlib.sha256(body).digest()
    await client.put_manifest(repository, "docker", body, DOCKER_MANIFEST)
    by_tag = await client.head_manifest(repository, "docker")
    assert (by_tag.exists, by_tag.digest, by_tag.media_type) == (True, digest, DOCKER_MANIFEST)
    assert by_tag.size == len(body)
    assert (await client.get_manifest(repository, digest)).body == body


async def test_an_index_and_its_children_are_there(client, repository):
    index = build_index(
        {"amd64": IMAGE, "arm64": build_image([build_layer("arm", 900)], architecture="arm64")}
    )
    await push_index(client, repository, index, "multi", "latest")
    fetched = await client.get_manifest(repository, index.digest)
    assert fetched.media_type == OCI_INDEX
    for child in parse_manifest(fetched.body, fetched.media_type).children:
        head = await client.head_manifest(repository, child.digest)
        assert (head.exists, head.size) == (True, child.size)


async def test_a_referrer_names_its_subject(client, repository):
    await push_image(client, repository, IMAGE, "1")
    bill = build_referrer(IMAGE.manifest, content=b'{"spdxVersion": "SPDX-2.3"}')
    await push_image(client, repository, bill)
    fetched = await client.get_manifest(repository, bill.digest)
    assert parse_manifest(fetched.body, fetched.media_type).subject == IMAGE.digest


async def test_a_tag_is_asked_quietly_whether_it_still_points_there(client, repository):
    other = build_image(IMAGE.layers, label="other")
    await push_image(client, repository, IMAGE, "moving")
    unchanged = await client.tag_digest(repository, "moving", IMAGE.digest)
    assert (unchanged.digest, recent(unchanged.date)) == (IMAGE.digest, True)
    await push_image(client, repository, other, "moving")
    assert (await client.tag_digest(repository, "moving", IMAGE.digest)).digest == other.digest
    assert (await client.tag_digest(repository, "moving")).digest == other.digest
    assert (await client.tag_digest(repository, "gone", IMAGE.digest)).digest is None


async def test_what_is_not_there_is_told_as_such_with_the_registrys_clock(client, repository):
    for name in (repository, "tests/nobody/pushed/here"):
        head = await client.head_manifest(name, UNKNOWN)
        assert (head.exists, recent(head.date)) == (False, True)
        with pytest.raises(NotFound) as caught:
            await client.get_manifest(name, UNKNOWN)
        assert recent(caught.value.date)
        with pytest.raises(NotFound):
            await client.head_blob(name, UNKNOWN)
        with pytest.raises(NotFound):
            await client.get_blob(name, UNKNOWN, 100)


async def test_tags_are_listed_and_an_emptied_or_unknown_repository_has_none(client, repository):
    assert [tag async for tag in client.list_tags(repository)] == []
    tags = {f"t{number:02}" for number in range(12)}
    await push_image(client, repository, IMAGE, *tags)
    assert {tag async for tag in client.list_tags(repository)} == tags
    await client.delete_manifest(repository, IMAGE.digest)
    assert [tag async for tag in client.list_tags(repository)] == []


async def test_the_catalog_is_followed_over_its_pages(client, repository, monkeypatch):
    names = {f"{repository}/tags/list", f"{repository}/manifests/x", f"{repository}/z"}
    for name in names:
        await push_image(client, name, IMAGE, "1")
    monkeypatch.setattr("registry.client.PAGE_SIZE", 1)
    listed = [name async for name in client.catalog()]
    assert names <= set(listed)
    assert len(listed) == len(set(listed))


async def test_deleting_takes_every_tag_and_twice_is_as_good_as_once(client, repository):
    await push_image(client, repository, IMAGE, "1", "2")
    first = await client.delete_manifest(repository, IMAGE.digest)
    assert (first.existed, recent(first.date)) == (True, True)
    again = await client.delete_manifest(repository, IMAGE.digest)
    assert (again.existed, recent(again.date)) == (False, True)
    assert not (await client.head_manifest(repository, "1")).exists
    assert not (await client.head_manifest(repository, IMAGE.digest)).exists
    assert not (await client.delete_manifest("tests/never/seen", IMAGE.digest)).existed


async def test_kept_bytes_put_back_undo_a_delete(client, repository):
    await push_image(client, repository, IMAGE, "1")
    kept = await client.get_manifest(repository, IMAGE.digest)
    await client.delete_manifest(repository, IMAGE.digest)
    for reference in (kept.digest, "1"):
        date = await client.put_manifest(repository, reference, kept.body, kept.media_type)
        assert recent(date)
    assert (await client.tag_digest(repository, "1")).digest == IMAGE.digest


async def test_a_manifest_whose_blobs_are_gone_cannot_be_put_back(client, repository):
    with pytest.raises(RegistryRefused, match="BLOB_UNKNOWN"):
        await client.put_manifest(repository, "1", IMAGE.manifest.content, OCI_MANIFEST)


async def test_a_registry_before_v3_removes_no_single_tag_and_says_so(client, repository):
    await push_image(client, repository, IMAGE, "1", "2")
    try:
        await client.delete_tag(repository, "1")
    except RegistryRefused:
        expected = {"1", "2"}  # v2.8
    else:
        expected = {"2"}
    assert {tag async for tag in client.list_tags(repository)} == expected
    assert (await client.head_manifest(repository, IMAGE.digest)).exists


async def test_blobs_are_mounted_from_another_repository(client, repository):
    await upload_blob(client, f"{repository}/from", b"some bytes")
    digest = hashlib.sha256(b"some bytes").digest()
    assert await mount_blob(client, f"{repository}/to", digest, f"{repository}/from")
    assert await client.head_blob(f"{repository}/to", digest) == 10
    assert not await mount_blob(client, f"{repository}/to", UNKNOWN, f"{repository}/from")
    await push_image(client, f"{repository}/from", IMAGE, "1")
    await push_image(client, f"{repository}/to", IMAGE, "1", source=f"{repository}/from")
    assert (await client.get_manifest(f"{repository}/to", IMAGE.digest)).body


async def test_a_registry_stores_impossible_sizes_and_odd_spelling_and_we_read_them(
    client, repository
):
    await push_image(client, repository, IMAGE)
    document = json.loads(IMAGE.manifest.content)
    document["layers"][0]["size"] = -5
    document["Layers"] = document.pop("layers")
    body = json.dumps(document).encode()
    await client.put_manifest(repository, "odd", body, OCI_MANIFEST)
    fetched = await client.get_manifest(repository, hashlib.sha256(body).digest())
    parsed = parse_manifest(fetched.body, fetched.media_type)
    assert [layer.digest for layer in parsed.layers] == [layer.digest for layer in IMAGE.layers]
    assert parsed.layers[0].size == 0
    assert await client.head_blob(repository, parsed.layers[0].digest) == len(
        IMAGE.layers[0].content
    )


async def test_a_blob_larger_than_wanted_is_not_read(client, repository):
    await upload_blob(client, repository, bytes(200_000))
    with pytest.raises(TooLarge):
        await client.get_blob(repository, hashlib.sha256(bytes(200_000)).digest(), 100_000)


@pytest.mark.parametrize("name", ["../x", "a/../../b", "a//b", "a%2fb", "a?b", "a#b", "A", ""])
async def test_a_name_outside_the_grammar_never_becomes_a_url(client, name):
    for call in (
        client.get_manifest(name, UNKNOWN),
        client.head_manifest(name, "1"),
        client.head_blob(name, UNKNOWN),
        client.delete_manifest(name, UNKNOWN),
        client.head_manifest("fine", name + "/"),
        client.tag_digest("fine", name + "/"),
        client.delete_tag("fine", name + "/"),
        anext(aiter(client.list_tags(name))),
    ):
        with pytest.raises(InvalidName):
            await call


async def test_disabled_deletes_are_found_out(tmp_path: Path):
    with running_registry(tmp_path, deletes=False) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            await push_image(client, "a/b", IMAGE, "1")
            assert not await client.deletes_enabled("a/b")
            with pytest.raises(DeletesDisabled, match=r"storage\.delete\.enabled"):
                await client.delete_manifest("a/b", IMAGE.digest)


async def test_enabled_deletes_are_found_out_without_deleting(client, repository):
    assert await client.deletes_enabled(repository)


async def test_a_read_only_registry_says_no_to_changes(tmp_path: Path):
    with running_registry(tmp_path, read_only=True) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            with pytest.raises(DeletesDisabled):
                await client.delete_manifest("a/b", IMAGE.digest)
            with pytest.raises(RegistryDenied, match="read-only"):
                await client.put_manifest("a/b", "1", IMAGE.manifest.content, OCI_MANIFEST)


async def test_a_registry_with_passwords_lets_in_who_knows_one(tmp_path: Path):
    with running_registry(tmp_path, htpasswd=True) as url:
        await answering(url)
        async with RegistryClient(url, username="tester", password="throw-away") as client:
            await push_image(client, "a/b", IMAGE, "1")
            assert [name async for name in client.catalog()] == ["a/b"]
            assert (await client.delete_manifest("a/b", IMAGE.digest)).existed
        async with RegistryClient(url, username="tester", password="wrong") as client:
            with pytest.raises(RegistryDenied, match="401"):
                await client.head_manifest("a/b", "1")
        async with RegistryClient(url) as client:
            with pytest.raises(RegistryDenied, match="RQ_REGISTRY_USERNAME"):
                await client.ping()


async def test_a_registry_that_is_not_there_is_unavailable():
    async with RegistryClient("127.0.0.1:1", retries=Retries(2, 0.01, 0.01)) as client:
        with pytest.raises(RegistryUnavailable, match="no answer"):
            await client.ping()


async def test_many_tasks_share_one_client(client, repository):
    images = [build_image(IMAGE.layers, label=str(number)) for number in range(40)]
    await push_image(client, repository, IMAGE)
    await asyncio.gather(
        *(push_image(client, repository, image, f"t{n}") for n, image in enumerate(images))
    )
    heads = await asyncio.gather(
        *(client.head_manifest(repository, image.digest) for image in images)
    )
    assert all(head.exists for head in heads)
    for number, image in enumerate(images):
        assert (await client.tag_digest(repository, f"t{number}")).digest == image.digest, (
            format_digest(image.digest)
        )
    await push_manifest(client, repository, IMAGE.manifest, "last")
