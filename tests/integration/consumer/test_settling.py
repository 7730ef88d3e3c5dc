"""A tag that was set twice within seconds ends as the registry has it, and only its 200 corrects."""

import time
import uuid
from datetime import timedelta

import pytest_asyncio

from consumer.settling import wait_before
from ledger.facts import Content, ManifestPushed
from registry.client import RegistryClient
from registry.media_types import OCI_MANIFEST
from registry.push import Image, build_image, build_layer, push_image
from registry.transport import Retries
from tests.support import ledgers
from tests.support.fake_registry import NOT_THERE, serving_fake
from tests.support.settling import Clock, worker

SECOND = 10**9


@pytest_asyncio.fixture
async def client(backend):
    """A real registry; its own events go nowhere."""
    async with (
        backend.registry("any", notification_url="http://127.0.0.1:9/none", token="t") as registry,
        RegistryClient(registry.url, retries=Retries(attempts=1)) as client,
    ):
        yield client


def an_image(name: str) -> Image:
    return build_image([build_layer(name, 300)], label=name)


def pushed(image: Image, moment: int) -> ManifestPushed:
    content = Content(blobs=tuple((blob.digest, len(blob.content)) for blob in image.blobs))
    return ManifestPushed(
        "default",
        "acme/api",
        image.digest,
        (moment, uuid.uuid4().bytes),
        OCI_MANIFEST,
        len(image.manifest.content),
        "1",
        content,
    )


async def race(pool, clock, first: Image, last: Image, *, ago: float = 10.0) -> None:
    """Two sets of `acme/api:1` some seconds ago, in two batches."""
    moment = time.time_ns() - int(ago * SECOND)
    for fact in (pushed(first, moment), pushed(last, moment + 1)):
        await ledgers.recorder(pool).record([fact], now=clock())


async def waiting(pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM tag_checks"))


async def test_the_registry_corrects_the_events(pool, client):
    clock, left, right = Clock(), an_image("left"), an_image("right")
    await push_image(client, "acme/api", left, "1")
    await push_image(client, "acme/api", right)
    await race(pool, clock, left, right)
    settling = worker(pool, client, clock)
    assert await settling.settle_due() == 0, "the registry is asked a little later"
    clock.now += timedelta(seconds=2)
    assert await settling.settle_due() == 1
    assert await ledgers.tags(pool) == {"acme/api": {"1": left.digest}}
    assert await waiting(pool) == 0


async def test_a_right_ledger_stays_and_is_not_asked_about_again(pool, client):
    clock, left, right = Clock(), an_image("left"), an_image("right")
    await push_image(client, "acme/api", right, "1")
    await race(pool, clock, left, right)
    clock.now += timedelta(seconds=2)
    assert await worker(pool, client, clock).settle_due() == 1
    assert await ledgers.tags(pool) == {"acme/api": {"1": right.digest}}
    assert await waiting(pool) == 0
    assert await pool.fetchval("SELECT count(*) FROM observations") == 0


async def test_a_manifest_that_nobody_told_is_fetched(pool, client):
    clock, third = Clock(), an_image("third")
    await push_image(client, "acme/api", third, "1")
    await race(pool, clock, an_image("left"), an_image("right"))
    clock.now += timedelta(seconds=2)
    await worker(pool, client, clock).settle_due()
    assert await ledgers.tags(pool) == {"acme/api": {"1": third.digest}}
    assert await ledgers.usage(pool) == await ledgers.recount(pool)


async def test_a_404_changes_nothing_and_is_given_up_after_some_tries(pool, client):
    clock, left, right = Clock(), an_image("left"), an_image("right")
    await race(pool, clock, left, right)
    settling = worker(pool, client, clock)
    asked = 0
    for _ in range(20):
        clock.now += timedelta(minutes=2)
        asked += await settling.settle_due()
    assert asked == 6
    assert await waiting(pool) == 0
    assert await ledgers.tags(pool) == {"acme/api": {"1": right.digest}}


async def test_an_answer_of_the_second_of_the_race_is_not_taken(pool, client):
    """Its Date could not be ordered behind the sets: the registry is asked again."""
    clock, left, right = Clock(), an_image("left"), an_image("right")
    await push_image(client, "acme/api", left, "1")
    await push_image(client, "acme/api", right)
    await race(pool, clock, left, right, ago=-5.0)
    clock.now += timedelta(seconds=2)
    assert await worker(pool, client, clock).settle_due() == 1
    assert await ledgers.tags(pool) == {"acme/api": {"1": right.digest}}
    assert await waiting(pool) == 1


async def test_a_race_during_the_question_is_asked_about_again(pool):
    clock, left, right = Clock(), an_image("left"), an_image("right")
    await race(pool, clock, left, right)
    async with serving_fake() as fake:
        not_found = NOT_THERE

        async def meanwhile(request):
            await race(pool, clock, right, left, ago=5.0)
            return await not_found(request)

        fake.script = [meanwhile, not_found]
        async with fake.client() as client:
            clock.now += timedelta(seconds=2)
            await worker(pool, client, clock).settle_due()
    due = await pool.fetchval("SELECT due_at FROM tag_checks WHERE attempts = 0")
    assert due == clock.now + timedelta(seconds=2)


def test_waiting_grows():
    assert [wait_before(attempts).total_seconds() for attempts in range(4)] == [1, 2, 4, 8]
