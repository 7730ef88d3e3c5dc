"""What is new and what is old, on real registries: mirrors, rollbacks, and pushes nobody told of."""

import itertools
import time
import uuid

import msgspec
import pytest
import pytest_asyncio

from ledger.facts import Fact, ManifestSeen, TagRemoved
from ledger.reading import manifests_of
from quota.reconcile import Reconciler
from quota.restore import Restorer
from quota.snapshot import Incoming
from registry.client import RegistryClient
from registry.errors import RegistryUnavailable
from registry.push import Image, build_image, build_index, build_layer, push_image, push_index
from registry.refs import parse_image_name
from registry.timestamps import to_ns
from registry.workspaces import WorkspaceRule
from tests.integration.quota.conftest import Service, service_of, utc_now
from tests.support import ledgers
from tests.support.live_api import live_api

SECOND_NS = 10**9
DAY_NS = 86_400 * SECOND_NS
OLD = "2024-01-01T00:00:00Z"
MIRRORED = ["1.1", "1.10", "1.11", "1.2", "1.7", "1.8"]
"""As a mirror pushes them: in order of names."""


@pytest_asyncio.fixture(params=["2", "3"])
async def service(request, pool, backend):
    async with (
        backend.registry(request.param, notification_url="http://127.0.0.1:9/x", token="t") as at,
        RegistryClient(at.url) as client,
    ):
        yield service_of(pool, client)


def an_image(size: int = 100_000, created: str = OLD) -> Image:
    return build_image([build_layer(uuid.uuid4().hex, size)], created=created)


async def told(service: Service, tag: str, image: Image, at_ns: int, repository="acme/api") -> None:
    await push_image(service.registry, repository, image, tag)
    document = image.manifest
    await service.tell(repository, tag, document.content, document.media_type, at_ns=at_ns)


async def reconcile(service: Service, **options):
    reconciler = Reconciler(
        pool=service.pool,
        recorder=ledgers.recorder(service.pool),
        client=service.registry,
        rule=WorkspaceRule(ledgers.PATTERN),
        clock=utc_now,
        in_flight=0.0,
    )
    return await reconciler.run(**options)


async def last_pass_ns(service: Service) -> int:
    moment = await service.pool.fetchval("SELECT max(finished_at) FROM reconcile_passes")
    return to_ns(moment)


async def ages(service: Service, workspace: str = "acme") -> dict[bytes, int]:
    """Digest → what its age goes by, in nanoseconds."""
    view = await service.accounts.workspace(workspace)
    assert view is not None
    async with service.pool.acquire() as connection, connection.transaction():
        return {item.digest: item.age.ns for item in await manifests_of(connection, view.id)}


async def goes(service: Service, workspace: str = "acme") -> set[str]:
    """Tags that a plan would delete."""
    planned = await service.cleaner.plan(workspace, Incoming())
    assert planned is not None
    return {tag for unit in planned[1].units for tag in unit.manifest.tags}


async def test_a_nightly_mirror_makes_nothing_new_and_a_rollback_does(service: Service):
    await service.configure("acme", 700_000)
    images = {tag: an_image() for tag in MIRRORED}
    begun = time.time_ns() - 30 * DAY_NS
    for number, tag in enumerate(sorted(images, key=lambda tag: [*map(int, tag.split("."))])):
        await told(service, tag, images[tag], begun + number * DAY_NS)
    before = await ages(service)
    for night in range(15, 20):
        for number, tag in enumerate(MIRRORED):
            await told(service, tag, images[tag], begun + night * DAY_NS + number * SECOND_NS)
    assert await ages(service) == before
    assert await goes(service) == {"1.1", "1.2"}, (
        "not 1.10, which a mirror pushes early in the night"
    )

    # 1.12 goes out, and is taken back: `stable` names 1.2 again.
    await told(service, "stable", images["1.2"], begun + 21 * DAY_NS)
    await told(service, "stable", images["1.11"], begun + 22 * DAY_NS)
    await told(service, "stable", images["1.2"], begun + 23 * DAY_NS)
    assert (await ages(service))[images["1.2"].digest] == begun + 23 * DAY_NS
    assert "1.2" not in await goes(service)


async def test_min_age_ends_under_a_mirror_also_for_an_index_whose_children_it_pushes(
    service: Service,
):
    await service.configure("acme", 700_000, min_age="7d", keep_newest=1, keep_at_least=1)
    begun = time.time_ns() - 30 * DAY_NS
    index = build_index({name: an_image() for name in ("amd64", "arm64")})
    await push_index(service.registry, "acme/api", index, "old")
    for night in range(29):
        at_ns = begun + night * DAY_NS
        for child in index.images:
            document = child.manifest
            await service.tell("acme/api", None, document.content, document.media_type, at_ns=at_ns)
        document = index.manifest
        await service.tell(
            "acme/api", "old", document.content, document.media_type, at_ns=at_ns + 9
        )
    for number in range(4):
        await told(service, f"new-{number}", an_image(), begun + (25 + number) * DAY_NS)
    assert await goes(service) == {"old"}


async def test_a_push_that_nobody_told_of_is_no_older_than_the_last_finished_pass(service: Service):
    await service.configure("acme", 500_000)
    begun = time.time_ns() - 30 * DAY_NS
    for number in range(5):
        await told(service, f"1.{number}", an_image(), begun + number * DAY_NS)
    await reconcile(service)
    floor = await last_pass_ns(service)
    lost, index = an_image(), build_index({"amd64": an_image(1000), "arm64": an_image(1000)})
    await push_image(service.registry, "acme/api", lost, "2.0")
    await push_index(service.registry, "acme/new", index, "1.0")
    await reconcile(service)
    found = await ages(service)
    for digest in (lost.digest, index.digest, *(image.digest for image in index.images)):
        assert floor <= found[digest] <= time.time_ns()
    answer = await service.ask("acme")
    assert {image.tags for image in answer.outcome.images} == {("1.0",), ("1.1",), ("1.2",)}
    assert "2.0" in await service.tags("acme/api")
    facts = [
        msgspec.json.decode(row["fact"], type=Fact)
        for row in await service.pool.fetch(
            "SELECT fact FROM observations WHERE source = 'reconcile'"
        )
    ]
    known = {
        fact.tag: fact.named_ns for fact in facts if isinstance(fact, ManifestSeen) and fact.tag
    }
    assert known == {"2.0": floor, "1.0": floor}, "what the pass knew is part of what it observed"


async def test_retags_and_cached_rebuilds_that_nobody_told_of_are_new(service: Service):
    await service.configure("acme", 500_000)
    begun = time.time_ns() - 30 * DAY_NS
    images = [an_image() for _ in range(5)]
    for number, image in enumerate(images):
        await told(service, f"1.{number}", image, begun + number * DAY_NS)
    await reconcile(service)
    floor = await last_pass_ns(service)
    await push_image(service.registry, "acme/api", images[0], "build-77")
    await push_image(service.registry, "acme/api", images[1], "1.4")
    await reconcile(service)
    found = await ages(service)
    assert min(found[images[0].digest], found[images[1].digest]) >= floor
    assert not {"1.0", "build-77", "1.4"} & await goes(service)


async def test_a_cleanup_that_finds_a_retag_itself_takes_it_for_new(service: Service):
    await service.configure("acme", 500_000)
    begun = time.time_ns() - 30 * DAY_NS
    images = [an_image() for _ in range(5)]
    for number, image in enumerate(images):
        await told(service, f"1.{number}", image, begun + number * DAY_NS)
    await reconcile(service)
    await push_image(service.registry, "acme/api", images[0], "build-77")
    answer = await service.ask("acme")
    assert answer.outcome.images
    assert {"1.0", "build-77"} <= await service.tags("acme/api")


async def test_the_first_installation_goes_by_what_images_say_of_themselves(service: Service):
    images = [an_image(created=f"2025-0{month}-01T00:00:00Z") for month in (3, 1, 2)]
    for number, image in enumerate(images[:2]):
        await push_image(service.registry, "acme/api", image, str(number))
    await reconcile(service)
    # Still being installed: nobody has configured it, nothing is told yet.
    await push_image(service.registry, "acme/api", images[2], "2")
    await reconcile(service)
    found = await ages(service)
    newest_first = sorted(images, key=lambda image: found[image.digest], reverse=True)
    assert newest_first == [images[0], images[2], images[1]]
    assert max(found.values()) < time.time_ns() - 365 * DAY_NS

    # A mirror's push of what was there, longer ago than a push is under way, is no news, either.
    await service.configure("acme", 500_000)
    document = images[1].manifest
    later = time.time_ns() + 60 * SECOND_NS
    await service.tell("acme/api", "1", document.content, document.media_type, at_ns=later)
    assert await ages(service) == found


async def test_a_push_gives_an_image_of_unknown_age_an_age_once(service: Service):
    image = an_image(created="1970-01-01T00:00:00Z")
    await push_image(service.registry, "acme/api", image, "1")
    await reconcile(service)
    assert await ages(service) == {image.digest: -1}
    first = time.time_ns()
    for at_ns in (first, first + 5, first + DAY_NS):
        await told(service, "1", image, at_ns)
        assert await ages(service) == {image.digest: first}


async def test_a_pass_that_did_not_come_to_a_repository_says_nothing_of_it(
    service: Service, monkeypatch
):
    for workspace in ("acme", "zeta"):
        await service.configure(workspace, 500_000)
        await told(service, "1", an_image(), time.time_ns() - DAY_NS, f"{workspace}/api")
    await reconcile(service)
    before = await last_pass_ns(service)
    await reconcile(service, workspace="acme")
    list_tags = RegistryClient.list_tags

    def away(client, repository):
        if repository == "zeta/api":
            raise RegistryUnavailable("it is away", retry_after=300.0)
        return list_tags(client, repository)

    monkeypatch.setattr(RegistryClient, "list_tags", away)
    with pytest.raises(RegistryUnavailable):
        await reconcile(service)
    monkeypatch.undo()
    after = time.time_ns()
    lost = an_image()
    await push_image(service.registry, "zeta/api", lost, "2")
    await reconcile(service)
    assert before <= (await ages(service, "zeta"))[lost.digest] < after
    assert (await ages(service, "zeta"))[lost.digest] == before


async def test_what_a_pass_could_not_read_may_be_as_old_as_it_says(service: Service, monkeypatch):
    await service.configure("acme", 500_000)
    hidden = an_image(created=OLD)
    await told(service, "1", an_image(), time.time_ns() - DAY_NS)
    await push_image(service.registry, "acme/api", hidden, "damaged")
    get_manifest = RegistryClient.get_manifest

    async def damaged(client, repository, reference, **options):
        if reference == "damaged":
            raise RegistryUnavailable("500", retry_after=None)
        return await get_manifest(client, repository, reference, **options)

    monkeypatch.setattr(RegistryClient, "get_manifest", damaged)
    report = await reconcile(service)
    assert report.problems
    monkeypatch.undo()
    await reconcile(service)
    built = int(utc_now().replace(2024, 1, 1, 0, 0, 0, 0).timestamp()) * SECOND_NS
    assert (await ages(service))[hidden.digest] == built


async def test_what_is_put_back_is_as_old_as_it_was(service: Service):
    await service.configure("acme", 500_000)
    begun = time.time_ns() - 30 * DAY_NS
    images = [an_image() for _ in range(5)]
    for (number, image), night in itertools.product(enumerate(images), (0, 10)):
        await told(service, f"1.{number}", image, begun + (number + night) * DAY_NS)
    before = await ages(service)
    answer = await service.ask("acme")
    gone = {image.tags: (time.time_ns(), uuid.uuid4().bytes) for image in answer.outcome.images}
    assert gone
    view = await service.accounts.workspace("acme")
    assert view is not None
    for (tag,) in sorted(gone):
        await Restorer(service.cleaner).image(view, parse_image_name(f"acme/api:{tag}"))
    assert await ages(service) == before
    # Registry 3 tells of the tags that went with their manifests, one by one.
    untagged = [TagRemoved("default", "acme/api", tag, stamp) for (tag,), stamp in gone.items()]
    await service.recorder.record(untagged, now=utc_now())
    assert await ages(service) == before


async def test_by_versions_a_backport_is_no_news_in_plan_and_list(service: Service):
    await service.configure("acme", 500_000, order="semver")
    begun = time.time_ns() - 30 * DAY_NS
    for number, tag in enumerate(["1.8.0", "1.9.0", "1.10.0", "1.11.0", "1.8.9", "c0ffee"]):
        await told(service, tag, an_image(), begun + number * DAY_NS)
    assert await goes(service) == {"c0ffee", "1.8.0", "1.8.9"}
    async with live_api(service.pool, str(service.registry.base)) as api:
        _status, answer = await api.call("GET", "/v1/workspaces/acme/images")
    protected = {
        item["tags"][0] for item in answer["items"] if "keep_newest:3" in item["protected_by"]
    }
    assert protected == {"1.9.0", "1.10.0", "1.11.0"}
