"""What a registry cannot give back: a damaged tag, a manifest or a blob that is gone or empty.

On both versions, with the descriptor cache in memory that outlives a garbage collection.
"""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from cli.doctor import postgres
from ledger.workspaces import Settings
from quota import pulling
from quota.cleaning import Job
from quota.pages.preview import preview_of
from quota.runs import PlannedBuild, Runs
from quota.snapshot import Incoming
from registry.client import RegistryClient
from registry.media_types import OCI_INDEX
from registry.names import format_digest
from registry.push import (
    Blob,
    Image,
    build_image,
    build_index,
    build_layer,
    push_image,
    push_manifest,
)
from registry.transport import Retries
from runtime.settings import Settings as RuntimeSettings
from tests.integration.quota.conftest import Service, service_of, utc_now
from tests.integration.quota.test_reconcile import an_hour_passes, reconcile
from tests.support import ledgers
from tests.support.registries import answering, program_or_skip, running_registry


@dataclass
class Shelf:
    """A real registry's folder, and the service beside it."""

    service: Service
    folder: Path
    version: str

    @property
    def root(self) -> Path:
        return self.folder / "storage/docker/registry/v2"

    def tag_link(self, repository: str, tag: str) -> Path:
        return self.root / f"repositories/{repository}/_manifests/tags/{tag}/current/link"

    def data(self, digest: bytes) -> Path:
        encoded = digest.hex()
        return self.root / f"blobs/sha256/{encoded[:2]}/{encoded}/data"

    async def collect(self) -> None:
        """The registry's own collector, beside the registry that goes on."""
        program = program_or_skip("2" if self.version == "2" else "3")
        command = [str(program), "garbage-collect", str(self.folder / "config.yml")]
        await asyncio.to_thread(
            lambda: subprocess.run(command, check=True, capture_output=True, timeout=60)
        )


@pytest_asyncio.fixture(params=["2", "3"])
async def shelf(pool, tmp_path, request) -> AsyncIterator[Shelf]:
    with running_registry(tmp_path, cache=True, version=request.param) as url:
        await answering(url)
        async with RegistryClient(url, retries=Retries(first_wait=0.01)) as client:
            yield Shelf(service_of(pool, client), tmp_path, request.param)


async def fill(shelf: Shelf, count: int, repository: str = "acme/api") -> list[Image]:
    return [await shelf.service.push(repository, f"1.{number}", 100_000) for number in range(count)]


async def events(shelf: Shelf) -> list[str]:
    rows = await shelf.service.pool.fetch(
        "SELECT data::jsonb ->> 'digest' AS digest FROM outbox WHERE type LIKE '%unreadable%'"
    )
    return [row["digest"] for row in rows]


def tags_of(answer) -> set[str]:
    return {tag for image in answer.outcome.images for tag in image.tags}


async def test_a_damaged_tag_takes_out_its_own_image_and_nothing_else(shelf):
    """Its link is empty, as a crash leaves it: 500 on that tag, and on DELETE of any of its neighbours."""
    service = shelf.service
    await service.configure("acme", 1_000_000)
    await fill(shelf, 8)
    await fill(shelf, 4, "acme/web")
    shelf.tag_link("acme/api", "1.0").write_text("")
    answer = await service.ask("acme", timeout_s=60.0)
    assert answer.verdict.reason == "cleaned_to_target"
    assert not answer.outcome.failed
    assert {"1.1", "1.2"} <= tags_of(answer)
    assert "doubted:acme/api:1.0" in answer.warnings + answer.outcome.warnings
    kept = await ledgers.tags(service.pool)
    assert "1.0" in kept["acme/api"]
    _snapshot, plan, warnings = await service.cleaner.plan_asked("acme", Incoming(), seconds=20)
    assert "doubted:acme/api:1.0" not in warnings, "nothing has to go, so nothing is asked"
    assert plan.target_reached
    await service.configure("acme", 500_000)
    _snapshot, plan, warnings = await service.cleaner.plan_asked("acme", Incoming(), seconds=20)
    assert "doubted:acme/api:1.0" in warnings
    sentence = next(d.sentence for d in plan.decisions if d.manifest.tags == ("1.0",))
    assert "acme/api:1.0 cannot be read" in sentence
    assert "pushing that tag again, or deleting it, mends it" in sentence


async def test_a_damaged_tag_that_nobody_told_of_keeps_only_what_has_no_tag(shelf):
    service = shelf.service
    await service.configure("acme", 1_000_000, untagged_grace=0)
    await fill(shelf, 8)
    old = await service.push("acme/api", "moved", 100_000)
    await service.push("acme/api", "moved", 100_000)
    link = shelf.tag_link("acme/api", "ghost")
    link.parent.mkdir(parents=True)
    link.write_text("")
    answer = await service.ask("acme", timeout_s=60.0)
    assert answer.verdict.reason == "cleaned_to_target"
    assert tags_of(answer) == {"1.0", "1.1", "1.2", "1.3"}
    assert (await service.registry.head_manifest("acme/api", old.digest)).exists
    assert "doubted:acme/api" in answer.outcome.warnings


async def test_a_part_that_nobody_told_of_and_cannot_be_read_keeps_only_what_has_no_tag(shelf):
    """An index in an index: what it holds looks untagged, and nobody can tell that it is that."""
    service = shelf.service
    await service.configure("acme", 10**9)
    child = build_image([build_layer("child", 100_000)])
    await push_image(service.registry, "acme/api", child)
    await service.tell("acme/api", None, child.manifest.content, child.manifest.media_type)
    inner = build_index({"amd64": child}).manifest
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner.descriptor]}
    outer = Blob(json.dumps(document).encode(), OCI_INDEX)
    await push_manifest(service.registry, "acme/api", inner)
    await push_manifest(service.registry, "acme/api", outer, "2.0")
    await service.tell("acme/api", "2.0", outer.content, outer.media_type)
    await fill(shelf, 6)
    shelf.data(inner.digest).write_bytes(b"")
    await service.configure("acme", 850_000, untagged_grace=0)
    answer = await service.ask("acme", timeout_s=60.0)
    assert answer.verdict.reason == "cleaned_to_target"
    assert {"1.0", "1.1"} <= tags_of(answer)
    assert "doubted:acme/api" in answer.outcome.warnings
    assert (await service.registry.head_manifest("acme/api", child.digest)).exists


async def test_a_manifest_that_answers_500_takes_out_itself_and_nothing_else(shelf):
    """Four in a row: the registry is asked whether it is there, and it is."""
    service = shelf.service
    await service.configure("acme", 1_000_000, max_ratio_per_run=1)
    images = await fill(shelf, 11)
    for image in images[:4]:
        shelf.data(image.digest).write_text("")
    answer = await service.ask("acme", timeout_s=60.0)
    assert answer.verdict.reason == "cleaned_to_target"
    assert tags_of(answer) == {"1.4", "1.5", "1.6", "1.7", "1.8"}
    assert [item.digest for item in answer.outcome.failed] == [
        format_digest(image.digest) for image in images[:4]
    ]


async def push_again_after_a_collection(shelf: Shelf, images: list[Image]) -> None:
    """Deleted, collected, pushed again: the registry believes its cache, and stores nothing."""
    service = shelf.service
    for image in images:
        await service.registry.delete_manifest("acme/api", image.digest)
    await shelf.collect()
    for number, image in enumerate(images):
        await push_image(service.registry, "acme/api", image, f"again-{number}")
        await service.tell(
            "acme/api", f"again-{number}", image.manifest.content, image.manifest.media_type
        )


@pytest.mark.parametrize("dry_run", [False, True])
async def test_what_only_a_cache_still_has_holds_no_place_and_is_announced_once(shelf, dry_run):
    """The newest two answer 304 and cannot be pulled: with them every pullable image would go."""
    service = shelf.service
    await service.configure("acme", 800_000, keep_newest=2, max_ratio_per_run=1)
    images = await fill(shelf, 6)
    gone = [build_image([build_layer(f"cached {number}", 100_000)]) for number in range(2)]
    for number, image in enumerate(gone):
        await service.push_built("acme/api", f"new-{number}", image)
    await push_again_after_a_collection(shelf, gone)
    for number, image in enumerate(gone):
        state = await service.registry.tag_digest("acme/api", f"again-{number}", image.digest)
        assert state.digest == image.digest, "304: the cache's word"
    answer = await service.ask("acme", dry_run=dry_run, incoming_bytes=700_000, timeout_s=60.0)
    assert tags_of(answer) == {f"1.{number}" for number in range(4)}
    assert sorted(await events(shelf)) == sorted(format_digest(image.digest) for image in gone)
    named = {w for w in answer.outcome.warnings if w.startswith("image_unreadable:")}
    assert len(named) == 2
    await service.ask("acme", incoming_bytes=700_000, timeout_s=60.0)
    assert len(await events(shelf)) == 2
    for image in images[4:]:
        assert (await service.registry.get_manifest("acme/api", image.digest)).body
        assert all([await service.registry.has_blob("acme/api", b.digest) for b in image.blobs])


@pytest.mark.parametrize("damage", ["a layer", "the config", "an empty layer", "a child's layer"])
async def test_an_image_without_one_of_its_blobs_holds_no_place_until_it_is_mended(shelf, damage):
    service = shelf.service
    await service.configure("acme", 600_000, keep_newest=1, keep_at_least=1, max_ratio_per_run=1)
    await fill(shelf, 4)
    newest = build_image([build_layer("damaged", 100_000)])
    if damage == "a child's layer":
        other = build_image([build_layer("whole", 10_000)])
        await service.push_index("acme/api", "2", build_index({"amd64": other, "arm64": newest}))
    else:
        await service.push_built("acme/api", "2", newest)
    config = next(b for b in newest.blobs if len(b.content) < 10_000)
    layer = next(b for b in newest.blobs if len(b.content) >= 10_000)
    blob = config if damage == "the config" else layer
    if damage == "an empty layer":
        shelf.data(blob.digest).write_bytes(b"")
    else:
        shelf.data(blob.digest).unlink()
    answer = await service.ask("acme", incoming_bytes=600_000, timeout_s=60.0)
    assert tags_of(answer) == {"1.0", "1.1", "1.2"}, "1.3 holds the place"
    assert len(await events(shelf)) == 1
    plan = await Runs(service.pool, service.cleaner, clock=utc_now).plan(
        await service.accounts.workspace("acme"), PlannedBuild(600_000), by="a test"
    )
    [why] = [image["why"] for image in plan["images"] if "2" in image["tags"]]
    assert "cannot be pulled" in why
    shelf.data(blob.digest).write_bytes(blob.content)
    answer = await service.ask("acme", incoming_bytes=600_000, timeout_s=60.0)
    assert tags_of(answer) == {"1.3"}
    assert not await service.pool.fetchval("SELECT count(*) FROM unreadable_images")


async def test_each_digest_is_asked_for_once_a_run_and_only_those_of_places(shelf, monkeypatch):
    service = shelf.service
    await service.configure("acme", 1_300_000, max_ratio_per_run=1)
    base = build_layer("base", 100_000)
    images = [build_image([base, build_layer(f"own {n}", 100_000)]) for n in range(9)]
    for number, image in enumerate(images):
        await service.push_built("acme/api", f"1.{number}", image)
    await service.push("acme/web", "1", 50_000)
    asked: list[str] = []
    send = service.registry.transport.send

    async def heard(request, *more, **how):
        if request.headers.get("Range"):
            assert request.method == "GET"
            assert request.headers["Range"] == "bytes=0-0"
            asked.append(request.url.path)
        assert "sha256" not in request.url.path or "If-None-Match" not in request.headers
        return await send(request, *more, **how)

    monkeypatch.setattr(
        type(service.registry.transport), "send", lambda _self, *a, **how: heard(*a, **how)
    )
    answer = await service.ask("acme", incoming_bytes=200_000)
    assert answer.outcome.images
    newest = {format_digest(b.digest) for image in images[-3:] for b in image.blobs}
    assert sorted(path.rsplit("/", 1)[1] for path in asked) == sorted(newest)
    assert all(path.startswith("/v2/acme/api/") for path in asked)


@pytest.mark.parametrize(("most", "seconds"), [(3, 30.0), (2000, 0.0)])
async def test_an_app_whose_places_could_not_be_asked_for_is_not_cleaned(
    shelf, monkeypatch, most, seconds
):
    service = shelf.service
    await service.configure("acme", 1_000_000)
    await fill(shelf, 8)
    monkeypatch.setattr(
        "quota.cleaning.PullCheck",
        lambda client: pulling.PullCheck(client, most=most, seconds=seconds),
    )
    answer = await service.ask("acme")
    assert not answer.outcome.images
    assert "doubted:app api" in answer.outcome.warnings
    assert await service.tags("acme/api") == {f"1.{number}" for number in range(8)}
    await service.accounts.configure("acme", Settings(enforcement="strict"))
    denied = await service.ask("acme", incoming_bytes=900_000)
    assert denied.verdict.decision == "deny"
    _snapshot, plan = await Job(
        service.cleaner.tools, "acme", Incoming(), "a test", denied.outcome
    ).plan_asked(20)
    assert plan.kept_by["doubted"] == 8


async def test_reconciliation_takes_no_304_for_an_image(shelf):
    """It is no match, it is announced once, shown and told; and what is gone by 404 is forgotten."""
    service = shelf.service
    await service.configure("acme", 9_000_000)
    whole = await fill(shelf, 2)
    cached = build_image([build_layer("cached", 100_000)])
    await service.push_built("acme/api", "1.8", cached)
    await push_again_after_a_collection(shelf, [cached])
    broken = await service.push("acme/api", "1.9", 100_000)
    layer = next(b for b in broken.blobs if len(b.content) >= 10_000)
    shelf.data(layer.digest).unlink()
    report = await reconcile(service)
    assert not report.equal
    assert len([told for told in report.doubted if "cannot be pulled" in told]) == 2
    assert sorted(await events(shelf)) == sorted(
        format_digest(image.digest) for image in (cached, broken)
    )
    planned = await service.cleaner.plan("acme", Incoming())
    assert planned is not None
    named = " ".join(preview_of(*planned).warnings)
    assert "acme/api:1.9 cannot be pulled" in named
    assert "acme/api:1.8, again-0 cannot be pulled" in named
    # In the second of its push a 404 is no absence yet; then it is suspected, then forgotten.
    for _look in range(2):
        await an_hour_passes(service.pool)
        await reconcile(service)
    assert len(await events(shelf)) == 2
    held = await ledgers.manifests(service.pool)
    assert ("acme/api", cached.digest) not in held
    assert all(("acme/api", image.digest) in held for image in (*whole, broken))
    shelf.data(layer.digest).write_bytes(layer.content)
    report = await reconcile(service)
    assert not [told for told in report.doubted if "cannot be pulled" in told]
    assert not await service.pool.fetchval("SELECT count(*) FROM unreadable_images")


async def test_doctor_names_what_cannot_be_pulled(shelf, database_url):
    service = shelf.service
    await service.configure("acme", 9_000_000)
    [image] = await fill(shelf, 1)
    settings = RuntimeSettings.model_validate({"database_url": database_url})
    assert "images" not in {finding.check for finding in await postgres.check(settings)}
    shelf.data(image.digest).write_text("")
    await reconcile(service)
    [found] = [f for f in await postgres.check(settings) if f.check == "images"]
    assert "acme/api:1.0" in found.found
    assert "push them again" in found.mend
