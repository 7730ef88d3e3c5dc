"""Pushes that nobody told of: what is kept stays whole, and what was lost loses nothing, on real registries."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
import pytest_asyncio

from registry.client import RegistryClient
from registry.errors import NotFound
from registry.media_types import OCI_INDEX
from registry.names import parse_digest
from registry.push import (
    Blob,
    Image,
    build_image,
    build_layer,
    build_referrer,
    push_image,
    push_manifest,
)
from runtime.postgres import Pool
from tests.integration.quota.conftest import Service, service_of
from tests.integration.quota.test_descriptors import reconciler
from tests.support import ledgers
from tests.support.backends import Backend

REPOSITORY = "acme/api"
SIZE = 50_000


@pytest_asyncio.fixture(params=["2", "3"])
async def service(
    request: pytest.FixtureRequest, pool: Pool, backend: Backend
) -> AsyncIterator[Service]:
    async with (
        backend.registry(request.param, notification_url="http://127.0.0.1:9/x", token="t") as at,
        RegistryClient(at.url) as client,
    ):
        yield service_of(pool, client)


def an_image() -> Image:
    return build_image([build_layer(uuid.uuid4().hex, SIZE)])


def index_of(*entries: Blob) -> Blob:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry.descriptor for entry in entries],
    }
    return Blob(msgspec.json.encode(document), OCI_INDEX)


async def tell(service: Service, manifest: Blob, *tags: str) -> None:
    for tag in tags or (None,):
        await service.tell(REPOSITORY, tag, manifest.content, manifest.media_type)


async def reconcile(service: Service) -> None:
    await reconciler(service.pool, service.recorder, service.registry).run()


async def clean(service: Service, used_share: float) -> list[tuple[str, ...]]:
    """Ask the hook where `used_share` of the quota is used; the tags of what went."""
    usage = await service.usage("acme")
    rules = {"untagged_grace": 0, "max_ratio_per_run": 1}
    await service.configure("acme", int(usage / used_share), **rules)
    answer = await service.ask("acme", app="api")
    assert answer.outcome.failed == []
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)
    return [image.tags for image in answer.outcome.images]


async def missing(service: Service, digest: bytes) -> list[bytes]:
    """What a client would miss of a manifest and of all that it names."""
    try:
        body = (await service.registry.get_manifest(REPOSITORY, digest)).body
    except NotFound:
        return [digest]
    named = msgspec.json.decode(body).get("manifests", ())
    return [one for e in named for one in await missing(service, parse_digest(e["digest"]))]


async def broken(service: Service) -> list[str]:
    """Tags of the registry that cannot be pulled whole."""
    found = []
    for tag in await service.tags(REPOSITORY):
        digest = (await service.registry.tag_digest(REPOSITORY, tag)).digest
        if digest is None or await missing(service, digest):
            found.append(tag)
    return found


@pytest.mark.parametrize("lost", [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]], ids=str)
async def test_what_a_kept_index_names_stays_whichever_pushes_on_the_way_were_lost(
    service: Service, lost: Sequence[int]
):
    """Only the children are told for certain: they look as if nothing needed them."""
    for number in range(3):
        await service.push(REPOSITORY, f"1.{number}", SIZE)
    children = [an_image() for _ in range(2)]
    for child in children:
        await push_image(service.registry, REPOSITORY, child)
        await tell(service, child.manifest)
    inner = index_of(*[child.manifest for child in children])
    middle = index_of(inner)
    outer = index_of(middle)
    for number, index in enumerate((inner, middle, outer)):
        tags = ("2.0",) if index is outer else ()
        await push_manifest(service.registry, REPOSITORY, index, *tags)
        if number not in lost:
            await tell(service, index, *tags)
    went = await clean(service, 0.85)
    assert went, "there was something to clean"
    assert "2.0" in await service.tags(REPOSITORY)
    assert await broken(service) == []


async def test_a_referrer_stays_while_its_subject_whose_push_was_lost_is_there(service: Service):
    for number in range(4):
        await service.push(REPOSITORY, f"1.{number}", SIZE)
    child = an_image()
    await push_image(service.registry, REPOSITORY, child)
    index = index_of(child.manifest)
    await push_manifest(service.registry, REPOSITORY, index, "2.0")
    await tell(service, index, "2.0")
    bill = build_referrer(child.manifest, content=b"x" * SIZE)
    await push_image(service.registry, REPOSITORY, bill)
    await tell(service, bill.manifest)
    await clean(service, 0.85)
    assert (await service.registry.head_manifest(REPOSITORY, bill.digest)).exists
    assert await broken(service) == []


async def test_what_was_found_goes_with_what_holds_it(service: Service):
    """A part that nobody told of is as old as what names it: it keeps nothing from going."""
    child = an_image()
    await push_image(service.registry, REPOSITORY, child)
    index = index_of(child.manifest)
    await push_manifest(service.registry, REPOSITORY, index, "0.9")
    await tell(service, index, "0.9")
    for number in range(4):
        await service.push(REPOSITORY, f"1.{number}", SIZE)
    await clean(service, 0.85)
    assert await missing(service, index.digest)
    assert await missing(service, child.digest)
    assert await broken(service) == []


@pytest.mark.parametrize("reconciled", [False, True])
@pytest.mark.parametrize("lost", [0, 2, 4])
async def test_what_is_found_keeps_the_place_that_it_may_have_and_takes_none(
    service: Service, reconciled: bool, lost: int
):
    """One push of five was lost after a pass: whichever it was, the two newest stay.

    So they do when reconciliation finds it, and whatever its config says of when it was built.
    """
    await service.configure("acme", 10**9)
    await service.push(REPOSITORY, "0.9", SIZE)
    await reconcile(service)
    for number in range(5):
        await service.push(REPOSITORY, f"1.{number}", SIZE, told=number != lost)
    if reconciled:
        await reconcile(service)
    await clean(service, 0.95)
    stay = await service.tags(REPOSITORY)
    assert {"1.3", "1.4"} <= stay
    assert len(stay) <= 4
    # It goes as others do once as many are newer for certain.
    for number in range(5, 8):
        await asyncio.sleep(0.4)
        await service.push(REPOSITORY, f"1.{number}", SIZE)
    await clean(service, 0.95)
    assert f"1.{lost}" not in await service.tags(REPOSITORY)
    assert await broken(service) == []


async def test_an_old_image_that_was_tagged_anew_is_as_new_as_its_tag_also_untold(
    service: Service,
):
    """A promotion: its image has an age already, by the tag that was told of."""
    await service.configure("acme", 10**9)
    old = an_image()
    await service.push_built(REPOSITORY, "1.0", old)
    for number in range(1, 5):
        await service.push(REPOSITORY, f"1.{number}", SIZE)
    await service.push_built(REPOSITORY, "production", old, told=False)
    await clean(service, 0.85)
    assert {"production", "1.4"} <= await service.tags(REPOSITORY)
