"""Reconciliation beside registries that a real one cannot be made to be."""

import json
import uuid
from datetime import UTC, datetime

import pytest
from aiohttp import web

from ledger import reconcile as rows
from ledger.facts import Content, ManifestPushed
from quota.reconcile import Reconciler, Report
from registry.client import RegistryClient
from registry.errors import RegistryUnavailable
from registry.names import format_digest
from registry.push import Blob, Image, build_image, build_index, build_layer
from registry.transport import Retries
from registry.workspaces import WorkspaceRule
from runtime.postgres import Pool
from tests.support import ledgers
from tests.support.fake_registry import REGISTRY, FakeRegistry, serving_fake

pytestmark = pytest.mark.promise("flaky-registry")

LONG_AGO = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 10**9


def utc_now() -> datetime:
    return datetime.now(UTC)


class Shelf:
    """What a fake registry holds, and how it misbehaves."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, Blob]] = {}
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, Blob] = {}
        self.lists: dict[str, web.Response] = {}
        """Repository → answer to its tags/list."""
        self.broken: set[str] = set()
        """References and digests that are answered 500."""
        self.catalog_status = 200
        self.left_out: set[str] = set()
        """Tags that no list shows."""

    def hold(self, repository: str, tag: str, image: Image) -> Image:
        self.tags.setdefault(repository, {})[tag] = image.manifest
        self.manifests[format_digest(image.digest)] = image.manifest
        self.blobs |= {format_digest(blob.digest): blob.content for blob in image.blobs}
        return image

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/v2/")
        if path == "":
            return web.Response(headers=REGISTRY)
        if path == "_catalog":
            body = {"repositories": sorted(self.tags)} if self.catalog_status == 200 else {}
            return web.json_response(body, status=self.catalog_status, headers=REGISTRY)
        if path.endswith("/tags/list"):
            return self._list(path.removesuffix("/tags/list"))
        repository, kind, reference = path.rsplit("/", 2)
        if reference in self.broken:
            return web.Response(status=500, headers=REGISTRY)
        if kind == "blobs":
            content = self.blobs.get(reference)
            blob = None if content is None else Blob(content, "application/octet-stream")
        else:
            blob = self.tags.get(repository, {}).get(reference) or self.manifests.get(reference)
        if blob is None:
            return web.json_response(
                {"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404, headers=REGISTRY
            )
        digest = format_digest(blob.digest)
        if request.headers.get("If-None-Match") == f'"{digest}"':
            return web.Response(status=304, headers=REGISTRY)
        return web.Response(
            body=blob.content,
            headers={
                **REGISTRY,
                "Content-Type": blob.media_type,
                "Docker-Content-Digest": digest,
            },
        )

    def _list(self, repository: str) -> web.Response:
        if repository in self.lists:
            return self.lists[repository]
        tags = sorted(self.tags.get(repository, {}).keys() - self.left_out)
        return web.json_response({"name": repository, "tags": tags}, headers=REGISTRY)


def an_image(size: int = 300) -> Image:
    return build_image([build_layer(uuid.uuid4().hex, size)])


async def reconcile(pool: Pool, client: RegistryClient) -> Report:
    report = await Reconciler(
        pool=pool,
        recorder=ledgers.recorder(pool),
        client=client,
        rule=WorkspaceRule(ledgers.PATTERN),
        clock=utc_now,
        in_flight=0.0,
    ).run()
    assert report is not None
    return report


async def told(pool: Pool, repository: str, tag: str, image: Image) -> None:
    content = Content(blobs=tuple((blob.digest, len(blob.content)) for blob in image.blobs))
    fact = ManifestPushed(
        "default",
        repository,
        image.digest,
        (LONG_AGO, uuid.uuid4().bytes),
        image.manifest.media_type,
        len(image.manifest.content),
        tag,
        content,
    )
    await ledgers.recorder(pool).record([fact], now=utc_now())


def with_shelf(fake: FakeRegistry) -> Shelf:
    shelf = Shelf()
    fake.script = [shelf.answer]
    return shelf


@pytest.mark.parametrize(
    "body", ['{"name": "x", "tags": null}', '{"name": "x", "tags": []}', '{"name": "x"}', "404"]
)
async def test_an_emptied_repository_is_no_trouble_and_forgets_nothing(pool, body):
    async with serving_fake() as fake, fake.client() as client:
        shelf = with_shelf(fake)
        image = shelf.hold("acme/api", "1", an_image())
        await told(pool, "acme/api", "1", image)
        error = json.dumps({"errors": [{"code": "NAME_UNKNOWN"}]})
        shelf.lists["acme/api"] = (
            web.Response(status=404, text=error, headers=REGISTRY)
            if body == "404"
            else web.Response(text=body, headers=REGISTRY)
        )
        report = await reconcile(pool, client)
        assert (report.drift, report.suspected) == ([], 0), "the tag was asked for all the same"
        assert await ledgers.tags(pool) == {"acme/api": {"1": image.digest}}


async def test_a_tag_that_a_list_leaves_out_is_not_forgotten(pool):
    async with serving_fake() as fake, fake.client() as client:
        shelf = with_shelf(fake)
        image = shelf.hold("acme/api", "1", an_image())
        await told(pool, "acme/api", "1", image)
        shelf.left_out = {"1"}
        for _ in range(2):
            assert (await reconcile(pool, client)).suspected == 0


async def test_a_tag_that_went_while_its_manifest_stays_needs_two_looks(pool):
    async with serving_fake() as fake, fake.client() as client:
        shelf = with_shelf(fake)
        image = shelf.hold("acme/api", "1", an_image())
        for tag in ("1", "2"):
            await told(pool, "acme/api", tag, image)
        first = await reconcile(pool, client)
        assert (first.drift, first.suspected) == ([], 1)
        await pool.execute(
            "UPDATE suspected_absences SET missing_since = missing_since - interval '1 hour'"
        )
        second = await reconcile(pool, client)
        assert [(item.corrected, item.forgotten) for item in second.drift] == [(1, 0)]
        assert second.suspected == 0
        assert await ledgers.tags(pool) == {"acme/api": {"1": image.digest}}


async def test_a_bad_moment_between_two_looks_proves_nothing_and_loses_nothing(pool):
    async with serving_fake() as fake, fake.client(retries=Retries(attempts=1)) as client:
        shelf = with_shelf(fake)
        image = shelf.hold("acme/api", "1", an_image())
        gone = an_image()
        await told(pool, "acme/api", "1", image)
        await told(pool, "acme/api", "2", image)
        await told(pool, "acme/api", "3", gone)
        assert (await reconcile(pool, client)).suspected == 2, "a tag, and a manifest with its tag"
        await pool.execute(
            "UPDATE suspected_absences SET missing_since = missing_since - interval '1 hour'"
        )
        shelf.broken = {"2", "3", format_digest(gone.digest)}
        troubled = await reconcile(pool, client)
        assert (troubled.drift, troubled.suspected) == ([], 2)
        shelf.broken = set()
        third = await reconcile(pool, client)
        assert [(item.corrected, item.forgotten) for item in third.drift] == [(1, 1)]
        assert third.suspected == 0
        assert await ledgers.tags(pool) == {"acme/api": {"1": image.digest}}


@pytest.mark.parametrize("status", [401, 403, 405])
async def test_without_a_catalog_what_the_ledger_knows_is_looked_at(pool, status):
    async with serving_fake() as fake, fake.client() as client:
        shelf = with_shelf(fake)
        shelf.hold("acme/unknown", "1", an_image())
        image = shelf.hold("acme/api", "1", an_image())
        missed = shelf.hold("acme/api", "2", an_image())
        await told(pool, "acme/api", "1", image)
        shelf.catalog_status = status
        report = await reconcile(pool, client)
        assert [one.partition(":")[0] for one in report.problems] == ["the list of repositories"]
        assert not report.equal
        assert await ledgers.manifests(pool) == {
            ("acme/api", image.digest),
            ("acme/api", missed.digest),
        }


async def test_a_pass_with_more_problems_than_it_lists_says_how_many_more(pool, monkeypatch):
    monkeypatch.setattr("quota.reconcile._MOST_PROBLEMS", 2)
    async with serving_fake() as fake, fake.client(retries=Retries(attempts=2)) as client:
        shelf = with_shelf(fake)
        names = {f"broken-{number}" for number in range(5)}
        for name in names:
            shelf.hold("acme/api", name, an_image())
        shelf.broken = names
        report = await reconcile(pool, client)
        assert (len(report.problems), report.equal) == (2, False)
        assert any(note.startswith("3 more could not be read") for note in report.notes)


async def test_what_storage_lost_does_not_end_the_pass(pool):
    async with serving_fake() as fake, fake.client(retries=Retries(attempts=2)) as client:
        shelf = with_shelf(fake)
        shelf.hold("acme/api", "broken", an_image())
        undated = shelf.hold("acme/api", "no-config", an_image())
        fine = shelf.hold("acme/web", "1", an_image())
        shelf.broken = {"broken", format_digest(undated.config.digest)}
        report = await reconcile(pool, client)
        broken, undatable = sorted(report.problems)
        assert broken.startswith("acme/api:broken: ")
        assert undatable.startswith(f"acme/api@{format_digest(undated.digest)}: its config cannot")
        assert await ledgers.manifests(pool) == {
            ("acme/api", undated.digest),
            ("acme/web", fine.digest),
        }


async def test_a_repository_that_is_always_answered_500_does_not_end_the_pass(pool):
    async with serving_fake() as fake, fake.client(retries=Retries(attempts=2)) as client:
        shelf = with_shelf(fake)
        shelf.hold("Acme/app", "1", an_image())
        fine = shelf.hold("acme/web", "1", an_image())
        shelf.lists["Acme/app"] = web.Response(status=500, headers=REGISTRY)
        report = await reconcile(pool, client)
        assert [problem.partition(":")[0] for problem in report.problems] == ["Acme/app"]
        assert await ledgers.manifests(pool) == {("acme/web", fine.digest)}


async def test_a_registry_that_is_away_ends_the_pass_with_its_reason(pool):
    async with serving_fake() as fake, fake.client(retries=Retries(attempts=2)) as client:
        shelf = with_shelf(fake)
        shelf.hold("acme/api", "1", an_image())

        async def away(_request: web.Request) -> web.Response:
            return web.Response(status=503, headers=REGISTRY)

        fake.script = [shelf.answer, away]
        with pytest.raises(RegistryUnavailable):
            await reconcile(pool, client)
        async with pool.acquire() as connection:
            stopped = await rows.last_pass(connection, "default")
        assert stopped is not None
        assert stopped.state == "stopped"
        assert "503" in (stopped.message or "")


async def test_a_registry_that_asks_to_be_left_alone_is_waited_for(pool):
    async with serving_fake() as fake, fake.client() as client:
        shelf = with_shelf(fake)
        shelf.hold("acme/api", "1", an_image())

        async def slower(_request: web.Request) -> web.Response:
            return web.Response(status=429, headers={**REGISTRY, "Retry-After": "3"})

        fake.script = [slower, slower, shelf.answer]
        report = await reconcile(pool, client)
        assert [item.found for item in report.drift] == [1]
        assert fake.waits[:2] == [3.0, 3.0]
        assert max(fake.waits) == 3.0, "what follows waits for the rest of it"


async def test_an_index_that_names_what_was_never_pushed_is_taken_as_it_is(pool):
    async with serving_fake() as fake, fake.client() as client:
        shelf = with_shelf(fake)
        index = build_index({"amd64": an_image(), "arm64": an_image()})
        there = index.images[0]
        shelf.hold("acme/multi", "child", there)
        shelf.tags["acme/multi"]["1"] = index.manifest
        report = await reconcile(pool, client)
        assert not report.problems
        assert await ledgers.manifests(pool) == {
            ("acme/multi", there.digest),
            ("acme/multi", index.digest),
        }


async def test_answers_without_a_date_cannot_be_ordered_and_are_not_taken(pool):
    async with serving_fake() as fake, fake.client() as client:
        shelf = with_shelf(fake)
        shelf.hold("acme/api", "1", an_image())

        async def undated(request: web.Request) -> web.Response:
            response = await shelf.answer(request)
            response.headers["Date"] = "never"
            return response

        fake.script = [undated]
        report = await reconcile(pool, client)
        assert any("no Date" in problem for problem in report.problems)
        assert await ledgers.manifests(pool) == set()
