"""A size is somebody's word: storage is asked where others contradict it, and what it says counts.

Whoever has a webhook token can have anything told. It is believed for a moment, by nobody for good.
"""

import random
import time
import uuid
from datetime import timedelta

import msgspec
import pytest
import pytest_asyncio

from consumer.confirming import SizeConfirmer
from consumer.metrics import ConsumerMetrics
from consumer.settling import SettlingWorker
from ledger import verify
from ledger.contents import content_of_manifest
from ledger.facts import BlobStored, Content, Fact, ManifestPushed
from quota.reconcile import Reconciler
from registry.client import RegistryClient
from registry.manifests import parse_manifest
from registry.media_types import OCI_INDEX
from registry.push import Image, build_image, build_layer, push_image
from registry.workspaces import WorkspaceRule
from runtime.lifecycle import Stopping
from tests.support import ledgers
from tests.support.settling import Clock

FORGED = 2**42
SECOND = timedelta(seconds=1)


@pytest_asyncio.fixture(params=["2", "3"])
async def client(request, backend):
    """A real registry; its own events go nowhere."""
    async with (
        backend.registry(
            request.param, notification_url="http://127.0.0.1:9/none", token="t"
        ) as registry,
        RegistryClient(registry.url) as client,
    ):
        yield client


class World:
    """A registry, a ledger, and who asks the one for the other. Nothing waits in earnest."""

    def __init__(self, pool, client) -> None:
        self.pool, self.client, self.clock = pool, client, Clock()
        self.clock.now += timedelta(minutes=1)
        tools = {
            "pool": pool,
            "recorder": ledgers.recorder(pool),
            "client": client,
            "metrics": ConsumerMetrics(),
            "stopping": Stopping(),
            "clock": self.clock,
        }
        self.confirming, self.settling = SizeConfirmer(**tools), SettlingWorker(**tools)

    async def told(self, *facts: Fact) -> None:
        await ledgers.recorder(self.pool).record(list(facts), now=self.clock())

    async def asked(self) -> None:
        """Everything that is to be asked has been."""
        for _ in range(20):
            self.clock.now += timedelta(seconds=30)
            asked = await self.settling.settle_deletes()
            if not await self.confirming.confirm_due() and not asked:
                return
        raise AssertionError("there is always something more to ask")

    async def usage(self) -> dict[str, int]:
        usage = await ledgers.usage(self.pool)
        assert usage == await ledgers.recount(self.pool)
        return usage

    async def reconcile(self):
        reconciler = Reconciler(
            pool=self.pool,
            recorder=ledgers.recorder(self.pool),
            client=self.client,
            rule=WorkspaceRule(ledgers.PATTERN),
            clock=self.clock,
            in_flight=0.0,
        )
        report = await reconciler.run()
        assert report is not None
        return report


@pytest_asyncio.fixture
async def world(pool, client) -> World:
    return World(pool, client)


def push_of(repository: str, image: Image, **otherwise) -> ManifestPushed:
    document = image.manifest
    content = content_of_manifest(parse_manifest(document.content, document.media_type))
    assert content is not None
    pushed = ManifestPushed(
        "default",
        repository,
        image.digest,
        (time.time_ns(), uuid.uuid4().bytes),
        document.media_type,
        len(document.content),
        "1",
        # An event never says what the document alone does.
        msgspec.structs.replace(content, subject_known=False),
    )
    return msgspec.structs.replace(pushed, **otherwise)


def whole(image: Image) -> int:
    return sum(len(blob.content) for blob in (image.manifest, *image.blobs))


def an_image() -> Image:
    return build_image([build_layer(uuid.uuid4().hex, 5000)])


async def held_by_two(world: World) -> tuple[Image, list[Fact]]:
    image = an_image()
    pushes: list[Fact] = []
    for repository in ("acme/api", "other/web"):
        await push_image(world.client, repository, image, "1")
        pushes += [
            BlobStored(blob.digest, len(blob.content), "default", repository)
            for blob in image.blobs
        ]
        pushes.append(push_of(repository, image))
    return image, pushes


def layer_of(image: Image) -> bytes:
    return max(image.blobs, key=lambda blob: len(blob.content)).digest


@pytest.mark.promise("hostile-input")
async def test_a_forged_size_is_asked_about_and_storage_is_right(world: World, promise):
    image, pushes = await held_by_two(world)
    await world.told(*pushes)
    right = {"acme": whole(image), "other": whole(image)}
    assert await world.usage() == right
    await world.told(BlobStored(layer_of(image), FORGED, "default", "stranger/repo"))
    assert (await world.usage())["acme"] > FORGED, "it counts for a moment"
    await world.asked()
    assert await world.usage() == right
    left = (await world.usage())["acme"] - right["acme"]
    promise.worst("bytes of a forged 4 TiB that stay", left, "")
    # Whatever is told from now on is only told.
    for size in (FORGED - 1, 1, FORGED):
        await world.told(BlobStored(layer_of(image), size, "default", "stranger/repo"))
        await world.told(BlobStored(layer_of(image), size, "elsewhere", "stranger/repo"))
        assert await world.usage() == right


async def test_however_it_is_delivered_and_replayed_the_end_is_the_same(world: World):
    image, pushes = await held_by_two(world)
    await world.told(*pushes, BlobStored(layer_of(image), FORGED, "default", "stranger/repo"))
    await world.asked()
    rows = await ledgers.rows(world.pool)
    observed = [
        msgspec.json.decode(row["fact"], type=Fact)
        for row in await world.pool.fetch("SELECT fact FROM observations ORDER BY id")
    ]
    assert observed
    facts = [
        *pushes,
        BlobStored(layer_of(image), FORGED, "default", "stranger/repo"),
        *observed,
    ]
    chance = random.Random(16)
    for _ in range(5):
        await ledgers.empty(world.pool)
        await world.pool.execute("TRUNCATE manifest_checks, tag_checks")
        shuffled = chance.choices(facts, k=10) + facts
        chance.shuffle(shuffled)
        for fact in shuffled:
            await world.told(fact)
        assert await ledgers.rows(world.pool) == rows


async def test_told_before_anybody_held_it_it_is_asked_about_when_somebody_does(world: World):
    image, pushes = await held_by_two(world)
    await world.told(BlobStored(layer_of(image), FORGED, "default", "stranger/repo"))
    await world.told(*pushes)
    assert (await world.usage())["acme"] > FORGED
    await world.asked()
    assert await world.usage() == {"acme": whole(image), "other": whole(image)}


async def test_a_size_told_of_a_manifests_digest_ends_with_its_document(world: World):
    image, pushes = await held_by_two(world)
    await world.told(*pushes)
    await world.told(BlobStored(image.digest, FORGED, "default", "stranger/repo"))
    assert (await world.usage())["acme"] > FORGED
    await world.asked()
    assert await world.usage() == {"acme": whole(image), "other": whole(image)}


async def test_where_no_manifest_contradicts_nobody_is_asked(world: World):
    _image, pushes = await held_by_two(world)
    await world.told(*pushes)
    rows = await world.pool.fetchval("SELECT count(*) FROM size_checks")
    await world.told(*pushes, BlobStored(bytes(32), FORGED, "default", "stranger/repo"))
    assert await world.pool.fetchval("SELECT count(*) FROM size_checks") == rows == 0


async def older_ledger(world: World) -> Image:
    """A wrong size that an earlier release believed, and never asked about."""
    image, pushes = await held_by_two(world)
    await world.told(*pushes, BlobStored(layer_of(image), FORGED, "default", "stranger/repo"))
    await world.pool.execute("UPDATE stored_blobs SET word = NULL, asked_ns = NULL")
    await world.pool.execute("DELETE FROM size_checks")
    assert (await world.usage())["acme"] > FORGED
    return image


async def test_verify_finds_it_in_an_older_ledger_and_has_it_asked(world: World):
    image = await older_ledger(world)
    async with world.pool.acquire() as connection:
        found = [item async for item in verify.verify(connection)]
        assert all(item.exact for item in found), "the counters are right: a size is wrong"
        assert {digest for item in found for digest in item.doubted} == {layer_of(image)}
        async with connection.transaction():
            await verify.keep(connection, found, now=world.clock(), new_id=uuid.uuid4)
    await world.asked()
    assert await world.usage() == {"acme": whole(image), "other": whole(image)}
    async with world.pool.acquire() as connection:
        assert not any([item.doubted async for item in verify.verify(connection)])


async def test_a_pass_of_reconciliation_mends_it_and_says_so(world: World):
    image = await older_ledger(world)
    report = await world.reconcile()
    assert not report.equal
    assert any(f"an event told {FORGED} bytes" in doubt for doubt in report.doubted)
    assert await world.usage() == {"acme": whole(image), "other": whole(image)}
    again = await world.reconcile()
    assert not any("an event told" in doubt for doubt in again.doubted)


async def test_while_storage_does_not_answer_it_is_asked_again_later(world: World):
    image, pushes = await held_by_two(world)
    await world.told(*pushes, BlobStored(layer_of(image), FORGED, "default", "stranger/repo"))
    async with RegistryClient("http://127.0.0.1:9") as away:
        there, world.confirming._client = world.confirming._client, away
        world.clock.now += timedelta(seconds=10)
        assert not await world.confirming.confirm_due()
        world.confirming._client = there
    assert (await world.usage())["acme"] > FORGED
    world.clock.now += timedelta(hours=1)
    await world.asked()
    assert await world.usage() == {"acme": whole(image), "other": whole(image)}


@pytest.mark.parametrize("first", ["the truth", "the lie"])
@pytest.mark.parametrize(
    "lie",
    [
        {"size": FORGED},
        {"media_type": OCI_INDEX},
        {"content": Content(blobs=((bytes(32), FORGED),), rules=1)},
        {
            "size": 1,
            "media_type": OCI_INDEX,
            "content": Content(blobs=((bytes(32), 0),), children=(bytes(32),), rules=1),
        },
    ],
    ids=["size", "type", "references", "all"],
)
async def test_a_manifest_told_differently_is_what_its_document_says(world: World, first, lie):
    image = an_image()
    await push_image(world.client, "acme/api", image, "1")
    truth, forged = push_of("acme/api", image), push_of("acme/api", image, **lie)
    for fact in (truth, forged) if first == "the truth" else (forged, truth):
        await world.told(fact)
    await world.asked()
    assert await world.usage() == {"acme": whole(image)}
    row = await world.pool.fetchrow(
        "SELECT media_type, size, children, subject_known FROM manifests WHERE digest = $1",
        image.digest,
    )
    assert tuple(row) == (
        image.manifest.media_type,
        len(image.manifest.content),
        None,
        True,
    )
    # It was read: nothing that is told of it counts any more, and nobody is asked again.
    await world.told(forged, truth, push_of("acme/api", image, **lie))
    assert await world.usage() == {"acme": whole(image)}
    assert await world.pool.fetchval("SELECT count(*) FROM manifest_checks") == 0


async def test_in_another_repository_of_the_workspace_the_document_that_was_read_wins(world: World):
    """A push that never was, of a digest that is real elsewhere."""
    image = an_image()
    await push_image(world.client, "acme/api", image, "1")
    truth = push_of("acme/api", image)
    await world.told(truth, push_of("acme/api", image, size=FORGED))
    await world.asked()
    for size in (FORGED, 1):
        await world.told(push_of("acme/never", image, size=size))
        assert await world.usage() == {"acme": whole(image)}
