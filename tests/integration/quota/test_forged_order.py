"""Forged events of old images make nothing old new: the newest stay, and so does `latest`.

Whoever has the webhook token can have the ledger told anything, at any time that has been. What holds an
app's places is confirmed with the registry before anything goes.
"""

import itertools
import time
import uuid

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.facts import DigestDeleted, ManifestPushed, TagRemoved
from quota.deleting import Deletions
from quota.snapshot import Incoming
from registry.client import RegistryClient
from registry.push import Image, build_image, build_layer, push_image
from registry.transport import Retries
from tests.integration.quota.conftest import Service, service_of, utc_now
from tests.support.fault_proxy import fault_proxy
from tests.support.registry_proxy import in_front_of

SECOND_NS = 10**9
DAY_NS = 86_400 * SECOND_NS
COUNT, KEPT = 8, 3
SIZE = 100_000
NEWEST = {f"1.{number}" for number in range(COUNT - KEPT, COUNT)}
_NAMES = itertools.count()


@pytest_asyncio.fixture(params=["2", "3"])
async def service(request, pool, backend):
    async with (
        backend.registry(request.param, notification_url="http://127.0.0.1:9/x", token="t") as at,
        RegistryClient(at.url) as client,
    ):
        yield service_of(pool, client)


class App:
    """Eight images, one a day, the newest also `latest`; a quota that five of them fit."""

    def __init__(self, service: Service, *, quota_images: int = 5) -> None:
        self.service = service
        self.workspace = f"acme{next(_NAMES)}"
        self.repository = f"{self.workspace}/api"
        self.quota_bytes = quota_images * (SIZE + 2_000) * 10 // 7
        self.images: list[Image] = []
        self.begun_ns = time.time_ns() - 30 * DAY_NS

    async def fill(self) -> "App":
        await self.service.configure(
            self.workspace, self.quota_bytes, keep_newest=KEPT, keep_at_least=KEPT, untagged_grace=0
        )
        for number in range(COUNT):
            image = build_image([build_layer(uuid.uuid4().hex, SIZE)])
            self.images.append(image)
            for tag in (f"1.{number}", "latest"):
                await push_image(self.service.registry, self.repository, image, tag)
                await self.told(image, tag, self.begun_ns + number * DAY_NS)
        return self

    async def told(self, image: Image, tag: str | None, at_ns: int) -> None:
        document = image.manifest
        await self.service.tell(
            self.repository, tag, document.content, document.media_type, at_ns=at_ns
        )

    async def removed(self, fact) -> None:
        await self.service.recorder.record([fact], now=utc_now())

    async def forge(self, kind: str, number: int) -> None:
        """An event of now about an old image, of which nothing is true."""
        image, tag, now_ns = self.images[number], f"1.{number}", time.time_ns()
        here = ("default", self.repository)
        stamp = (now_ns, uuid.uuid4().bytes)
        if kind == "its own tag":
            await self.told(image, tag, now_ns)
        elif kind == "a tag that is not there":
            await self.told(image, f"again{number}", now_ns)
        elif kind == "latest":
            await self.told(image, "latest", now_ns)
        elif kind == "the newest one's tag":
            await self.told(image, f"1.{COUNT - 1}", now_ns)
        elif kind == "no tag":
            await self.told(image, None, now_ns)
        elif kind == "its tag away":
            await self.told(self.images[-1], tag, now_ns)
        elif kind == "its tag away and back":
            await self.told(self.images[-1], tag, now_ns - 60 * SECOND_NS)
            await self.told(image, tag, now_ns)
        elif kind == "its tag gone and back":
            await self.removed(TagRemoved(*here, tag, (now_ns - 60 * SECOND_NS, stamp[1])))
            await self.told(image, tag, now_ns)
        elif kind == "it deleted and back":
            gone = (now_ns - 60 * SECOND_NS, stamp[1])
            await self.removed(DigestDeleted(*here, image.digest, gone))
            await self.told(image, tag, now_ns)
        elif kind == "the newest deleted":
            await self.removed(DigestDeleted(*here, self.images[-1].digest, stamp))
        elif kind == "the newest one's tag gone":
            await self.removed(TagRemoved(*here, f"1.{COUNT - 1}", stamp))
        elif kind == "a little ahead":
            told = ManifestPushed(
                *here,
                image.digest,
                (now_ns + 100 * SECOND_NS, stamp[1]),
                image.manifest.media_type,
                len(image.manifest.content),
                tag,
                arrived_ns=now_ns,
            )
            await self.removed(told)
        else:
            raise AssertionError(kind)

    async def clean(self):
        answer = await self.service.ask(self.workspace, timeout_s=60.0)
        return answer, await self.service.tags(self.repository)


PROVED_FALSE = (
    "its own tag",
    "a tag that is not there",
    "latest",
    "the newest one's tag",
    "no tag",
)
"""Of these nothing stays in doubt: the old images go as if nobody had said anything."""
DOUBTED = (
    "its tag away",
    "its tag away and back",
    "its tag gone and back",
    "it deleted and back",
    "the newest deleted",
    "the newest one's tag gone",
    "a little ahead",
)


@pytest.mark.parametrize("kind", PROVED_FALSE)
async def test_what_the_registry_denies_or_knows_already_moves_no_order(service: Service, kind):
    app = await App(service).fill()
    for number in range(COUNT - KEPT):
        await app.forge(kind, number)
    answer, left = await app.clean()
    assert left == {"1.3", "1.4", "latest"} | NEWEST, answer
    assert (await service.registry.tag_digest(app.repository, "latest")).digest == (
        app.images[-1].digest
    )


@pytest.mark.parametrize("kind", DOUBTED)
async def test_what_nobody_can_prove_may_keep_old_images_and_takes_no_new_one(
    service: Service, kind
):
    app = await App(service).fill()
    for number in range(COUNT - KEPT):
        await app.forge(kind, number)
    _answer, left = await app.clean()
    assert left >= NEWEST | {"latest"}


async def test_what_comes_while_a_run_deletes_takes_no_new_one(service: Service, monkeypatch):
    """Between two rounds of it: that a repository was asked about once is not enough."""
    app = await App(service, quota_images=4).fill()
    deleted = Deletions.carry_out
    forged: list[bool] = []

    async def meanwhile(self, units, made):
        done = await deleted(self, units[:1], made)
        if not forged:
            forged.append(True)
            for number in range(1, COUNT - KEPT):
                await app.forge("a tag that is not there", number)
                await app.forge("latest", number)
        return done

    monkeypatch.setattr(Deletions, "carry_out", meanwhile)
    _answer, left = await app.clean()
    assert left == {"1.4", "latest"} | NEWEST


async def test_by_versions_a_tag_that_is_not_there_is_none(service: Service):
    app = await App(service).fill()
    await service.configure(
        app.workspace, app.quota_bytes, keep_newest=KEPT, keep_at_least=KEPT, order="semver"
    )
    for number in range(COUNT - KEPT):
        await app.told(app.images[number], f"9.{number}", time.time_ns())
    _answer, left = await app.clean()
    assert left == {"1.3", "1.4", "latest"} | NEWEST


@pytest.mark.parametrize("unread", ["tags/list", "manifests/1.", "manifests/latest"])
async def test_where_the_registry_does_not_tell_nothing_of_the_app_goes(service: Service, unread):
    app = await App(service).fill()
    for number in range(COUNT - KEPT):
        await app.forge("a tag that is not there", number)
        await app.forge("latest", number)
    before = await service.tags(app.repository)
    async with (
        in_front_of(str(service.registry.base).rstrip("/")) as proxy,
        RegistryClient(proxy.url, retries=Retries(first_wait=0.01)) as client,
    ):
        proxy.refuses, proxy.refuses_with = unread, 500
        answer = await service_of(service.pool, client).ask(app.workspace, timeout_s=60.0)
    left = await service.tags(app.repository)
    assert left >= NEWEST | {"latest"}, answer
    if unread != "manifests/latest":
        assert left == before, answer


async def test_however_slowly_it_answers_the_newest_stay(service: Service):
    app = await App(service).fill()
    for number in range(COUNT - KEPT):
        await app.forge("a tag that is not there", number)
        await app.forge("latest", number)
    async with fault_proxy(service.registry.base.port or 0) as proxy:
        proxy.delay = 0.2
        async with RegistryClient(f"http://127.0.0.1:{proxy.port}") as client:
            cleaner = service_of(service.pool, client).cleaner
            task, _outcome, _own = cleaner.start(app.workspace, Incoming(), cause="a test")
            await task
    assert await service.tags(app.repository) == {"1.3", "1.4", "latest"} | NEWEST


@pytest.mark.promise("safe-deletes")
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    forged=st.lists(
        st.tuples(st.sampled_from(PROVED_FALSE + DOUBTED), st.integers(0, COUNT - KEPT - 1)),
        max_size=20,
    )
)
async def test_whatever_is_forged_the_newest_stay(service: Service, promise, forged):
    app = await App(service).fill()
    for kind, number in forged:
        await app.forge(kind, number)
    _answer, left = await app.clean()
    lost = (NEWEST | {"latest"}) - left
    promise.count("events forged of old images", len(forged))
    promise.count("newest images lost to them", len(lost))
    assert not lost
