"""A DELETE to which no answer came may be carried out later: it is asked for, counted and repaired."""

import time
import uuid
from datetime import timedelta

import pytest

from ledger.facts import Fact, ManifestDeleted, TagRemoved
from quota.late import LATEST, LateDeletions
from quota.metrics import QuotaMetrics
from quota.repair import Repairer
from quota.snapshot import Incoming
from registry.client import RegistryClient
from registry.errors import RegistryUnavailable
from registry.push import build_image, build_layer, push_manifest
from tests.integration.quota.conftest import utc_now
from tests.support import ledgers
from tests.support.cleanups import cleaner_of, later
from tests.support.memory_ledger import Crash


def late_deletions(service) -> LateDeletions:
    return LateDeletions(service.cleaner.tools, QuotaMetrics())


async def full(service):
    """Eight images of which the oldest four may go; each has 80 kB of its own, and all one base."""
    await service.configure("acme", 1_000_000, max_ratio_per_run=1)
    base = build_layer("base", 200_000)
    images = [build_image([base, build_layer(uuid.uuid4().hex, 80_000)]) for _ in range(8)]
    for number, image in enumerate(images):
        await service.push_built("acme/api", f"1.{number}", image)
    return images


async def cleanup_without_an_answer(service, monkeypatch, victim):
    """The DELETE of `victim` stays on its way; everything else is answered."""
    delete = RegistryClient.delete_manifest

    async def lose(client, repository, digest):
        if digest == victim.digest:
            raise RegistryUnavailable("no answer")
        return await delete(client, repository, digest)

    with monkeypatch.context() as patch:
        patch.setattr(RegistryClient, "delete_manifest", lose)
        task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
        await task
    return outcome


async def tell_delete(service, digest, *tags):
    stamp = (time.time_ns(), uuid.uuid4().bytes)
    facts: list[Fact] = [ManifestDeleted("default", "acme/api", digest, stamp)]
    facts += [TagRemoved("default", "acme/api", tag, stamp) for tag in tags]
    await service.recorder.record(facts, now=utc_now())


async def item_of(service, victim):
    return await service.pool.fetchrow(
        "SELECT * FROM cleanup_items WHERE digest = $1", victim.digest
    )


async def freed_by_runs(service):
    return await service.pool.fetchval("SELECT sum(freed_bytes) FROM cleanup_runs")


@pytest.mark.parametrize("told", [False, True], ids=["event lost", "told by its event"])
async def test_what_is_carried_out_after_the_run_counts_as_deleted_by_it(
    service, monkeypatch, told
):
    victim = (await full(service))[0]
    before = await service.usage("acme")
    outcome = await cleanup_without_an_answer(service, monkeypatch, victim)
    assert [failed.digest for failed in outcome.failed] == [f"sha256:{victim.digest.hex()}"]
    assert (await item_of(service, victim))["state"] == "failed"
    late = late_deletions(service)
    assert await late.sweep() == 0
    assert await freed_by_runs(service) == before - await service.usage("acme")

    await service.registry.delete_manifest("acme/api", victim.digest)
    if told:
        await tell_delete(service, victim.digest, "1.0")
    assert await late_deletions(service).sweep() == 1
    item = await item_of(service, victim)
    assert item["state"] == "deleted"
    assert item["freed_bytes"] > 80_000
    assert ("acme/api", victim.digest) not in await ledgers.manifests(service.pool)
    assert await freed_by_runs(service) == before - await service.usage("acme")
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)
    assert await late.sweep() == 0
    assert await Repairer(service.cleaner.tools, QuotaMetrics().put_back).sweep() == 0


@pytest.mark.parametrize("told", [False, True], ids=["event lost", "told by its event"])
async def test_a_push_that_it_hit_is_put_back(service, monkeypatch, told):
    victim = (await full(service))[0]
    await cleanup_without_an_answer(service, monkeypatch, victim)
    manifest = victim.manifest
    await push_manifest(service.registry, "acme/api", manifest, "new")
    await service.tell("acme/api", "new", manifest.content, manifest.media_type)
    await service.registry.delete_manifest("acme/api", victim.digest)
    if told:
        await tell_delete(service, victim.digest, "1.0", "new")
    repairer = Repairer(service.cleaner.tools, QuotaMetrics().put_back)
    assert await repairer.sweep() == 0
    assert await late_deletions(service).sweep() == 1
    assert await repairer.sweep() == 1
    assert (await service.registry.tag_digest("acme/api", "new")).digest == victim.digest
    assert (await ledgers.tags(service.pool))["acme/api"]["new"] == victim.digest
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)
    assert await late_deletions(service).sweep() == await repairer.sweep() == 0


async def test_the_run_itself_looks_again_before_it_takes_another_image(service, monkeypatch):
    """The registry does it a moment after the time-out: nothing else goes in its place."""
    victim = (await full(service))[0]
    _snapshot, plan = await service.cleaner.plan("acme", Incoming())
    head, delete = RegistryClient.head_manifest, RegistryClient.delete_manifest
    asked = False

    async def lose(client, repository, digest):
        if digest == victim.digest:
            raise RegistryUnavailable("no answer")
        return await delete(client, repository, digest)

    async def head_then_delete(client, repository, reference):
        nonlocal asked
        answer = await head(client, repository, reference)
        if reference == victim.digest and not asked:
            asked = True
            await delete(client, repository, reference)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(RegistryClient, "delete_manifest", lose)
        patch.setattr(RegistryClient, "head_manifest", head_then_delete)
        task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
        await task
    assert outcome.failed == []
    assert outcome.freed_bytes == plan.freed_bytes
    assert {image.digest for image in outcome.images} == {
        f"sha256:{unit.manifest.digest.hex()}" for unit in plan.units
    }
    run = await service.pool.fetchrow("SELECT promised_bytes, freed_bytes FROM cleanup_runs")
    assert run["promised_bytes"] == run["freed_bytes"] == plan.freed_bytes


async def test_what_a_taken_over_run_left_to_the_registry_counts_when_it_is_carried_out(
    service, monkeypatch
):
    """The process ended with its DELETE on its way, and nothing has to go any more."""
    victim = (await full(service))[0]

    async def end(*_arguments):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(RegistryClient, "delete_manifest", end)
        task, _outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
        with pytest.raises(Crash):
            await task
    await service.configure("acme", 9_000_000)
    for taken in await cleaner_of(service.registry, service.pool, clock=later).take_over_stale():
        await taken
    assert (await item_of(service, victim))["state"] == "skipped"
    before = await service.usage("acme")
    await service.registry.delete_manifest("acme/api", victim.digest)
    assert await late_deletions(service).sweep() == 1
    assert (await item_of(service, victim))["state"] == "deleted"
    assert await freed_by_runs(service) == before - await service.usage("acme") > 80_000


async def test_what_a_later_run_deletes_is_counted_once(service, monkeypatch):
    victim = (await full(service))[0]
    before = await service.usage("acme")
    await cleanup_without_an_answer(service, monkeypatch, victim)
    await service.configure("acme", 200_000, max_ratio_per_run=1)
    task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await task
    assert f"sha256:{victim.digest.hex()}" in {image.digest for image in outcome.images}
    assert await late_deletions(service).sweep() == 0
    assert await freed_by_runs(service) == before - await service.usage("acme")


async def test_a_delete_that_never_came_is_asked_for_only_so_long(service, monkeypatch):
    victim = (await full(service))[0]
    await cleanup_without_an_answer(service, monkeypatch, victim)

    await service.pool.execute(
        "UPDATE cleanup_items SET done_at = done_at - $1::interval", LATEST + timedelta(seconds=2)
    )
    assert await late_deletions(service).sweep() == 0
    item = await item_of(service, victim)
    assert (item["state"], item["unsure_bytes"]) == ("failed", None)
    # Somebody who deletes it then has done it.
    await service.registry.delete_manifest("acme/api", victim.digest)
    assert await late_deletions(service).sweep() == 0
    assert (await item_of(service, victim))["state"] == "failed"
