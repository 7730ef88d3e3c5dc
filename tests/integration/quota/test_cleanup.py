"""Cleanup on a real registry: it frees what it promised and deletes nothing that somebody needs."""

import asyncio
import time
import uuid
from datetime import timedelta

import pytest

from ledger import runs
from ledger.facts import Content, ManifestDeleted, ManifestPulled, ManifestPushed
from ledger.workspaces import Settings
from quota.cleaning import STALE_AFTER
from quota.snapshot import Incoming
from registry.client import RegistryClient
from registry.kinds import CACHE
from registry.push import (
    build_image,
    build_index,
    build_layer,
    build_referrer,
    push_image,
    push_manifest,
    upload_blob,
)
from tests.integration.quota.conftest import service_of, utc_now
from tests.support import ledgers
from tests.support.artifacts import build_cache_index
from tests.support.registries import answering, running_registry


async def fill(service, repository="acme/api", count=8, size=100_000):
    return [await service.push(repository, f"1.{number}", size) for number in range(count)]


async def test_what_is_promised_is_freed_byte_for_byte(service):
    await service.configure("acme", 1_000_000)
    await fill(service)
    before = await service.usage("acme")
    _snapshot, plan = await service.cleaner.plan("acme", Incoming())
    answer = await service.ask("acme")
    assert answer.outcome.freed_bytes == plan.freed_bytes > 0
    assert await service.usage("acme") == before - plan.freed_bytes
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)
    assert await ledgers.references_agree(service.pool)
    row = await service.pool.fetchrow("SELECT * FROM cleanup_runs")
    assert (row["state"], row["promised_bytes"], row["freed_bytes"]) == (
        "finished",
        plan.freed_bytes,
        plan.freed_bytes,
    )


async def test_freed_bytes_are_the_accounts_also_where_the_registrys_event_is_faster(
    service, monkeypatch
):
    """Two images share a layer, and the first is pushed again meanwhile: the other frees less."""
    await service.configure("acme", 560_000)
    base = build_layer("base", 300_000)
    await service.push("acme/api", "1.0", 100_000)
    shared = [build_image([base, build_layer(f"own {number}", 10_000)]) for number in range(2)]
    for number, image in enumerate(shared):
        await service.push_built("acme/api", f"1.{number + 1}", image)
    for number in range(3, 6):
        await service.push("acme/api", f"1.{number}", 100_000)
    before = await service.usage("acme")
    delete = RegistryClient.delete_manifest

    async def delete_and_tell(client, repository, digest):
        done = await delete(client, repository, digest)
        stamp = (time.time_ns(), uuid.uuid4().bytes)
        await service.recorder.record(
            [ManifestDeleted("default", repository, digest, stamp)], now=utc_now()
        )
        again = shared[0].manifest
        await service.tell("acme/api", "again", again.content, again.media_type)
        return done

    monkeypatch.setattr(RegistryClient, "delete_manifest", delete_and_tell)
    answer = await service.ask("acme")
    # A third goes for the quota: a breaker allows it, and refuses the rest of the way to the target.
    gone = {image.tags for image in answer.outcome.images}
    assert gone == {("1.0",), ("1.2",), ("1.3",)}
    assert answer.outcome.freed_bytes == before - await service.usage("acme") < 300_000
    run = await service.pool.fetchrow("SELECT * FROM cleanup_runs")
    assert run["freed_bytes"] == answer.outcome.freed_bytes == before - run["usage_after"]


def after_the_first_delete(monkeypatch, act):
    """Something happens while a cleanup runs."""
    delete = RegistryClient.delete_manifest
    happened = False

    async def delete_and_act(client, repository, digest):
        nonlocal happened
        done = await delete(client, repository, digest)
        if not happened:
            happened = True
            await act()
        return done

    monkeypatch.setattr(RegistryClient, "delete_manifest", delete_and_act)


async def test_a_policy_that_is_changed_while_a_cleanup_runs_counts_at_once(service, monkeypatch):
    await service.configure("acme", 1_000_000)
    await fill(service)
    after_the_first_delete(
        monkeypatch, lambda: service.configure("acme", 1_000_000, keep_tags=["1.*"])
    )
    answer = await service.ask("acme")
    assert [image.tags for image in answer.outcome.images] == [("1.0",)]
    assert not answer.outcome.target_reached
    assert await service.tags("acme/api") == {f"1.{number}" for number in range(1, 8)}
    run = await service.pool.fetchrow("SELECT state, freed_bytes FROM cleanup_runs")
    assert (run["state"], run["freed_bytes"]) == ("finished", answer.outcome.freed_bytes)


async def test_a_quota_that_is_raised_while_a_cleanup_runs_ends_it(service, monkeypatch):
    await service.configure("acme", 1_000_000, target=0.4, max_ratio_per_run=1)
    await fill(service)
    after_the_first_delete(monkeypatch, lambda: service.configure("acme", 9_000_000))
    answer = await service.ask("acme")
    assert [image.tags for image in answer.outcome.images] == [("1.0",)]
    assert answer.outcome.target_reached


async def test_what_is_pulled_while_a_cleanup_runs_was_pulled_recently(service, monkeypatch):
    await service.configure("acme", 1_000_000, keep_pulled_days=7)
    images = await fill(service)

    async def pull():
        stamp = (time.time_ns(), uuid.uuid4().bytes)
        pulled = ManifestPulled("default", "acme/api", images[1].digest, stamp)
        await service.recorder.record([pulled], now=utc_now())

    after_the_first_delete(monkeypatch, pull)
    answer = await service.ask("acme")
    assert answer.outcome.target_reached
    assert [image.tags for image in answer.outcome.images] == [("1.0",), ("1.2",)]
    assert "1.1" in await service.tags("acme/api")


async def test_a_signature_stays_when_its_image_comes_back_before_its_turn(service, monkeypatch):
    await service.configure("acme", 700_000)
    image = build_image([build_layer("signed", 200_000)])
    await service.push_built("acme/api", "signed", image)
    signature = build_referrer(image.manifest)
    await push_image(service.registry, "acme/api", signature)
    await service.tell("acme/api", None, signature.manifest.content, signature.manifest.media_type)
    await fill(service, count=4)
    after_the_first_delete(
        monkeypatch, lambda: service.push_built("acme/api", "signed-again", image)
    )
    answer = await service.ask("acme")
    assert answer.outcome.images[0].digest == f"sha256:{image.digest.hex()}"
    for digest in (image.digest, signature.digest):
        assert (await service.registry.head_manifest("acme/api", digest)).exists
        assert ("acme/api", digest) in await ledgers.manifests(service.pool)


async def two_with_one_signature(service):
    """Two old images, the older one the signature's subject by field, the other one by tag."""
    await service.configure("acme", 700_000)
    signed = [build_image([build_layer(f"signed {number}", 100_000)]) for number in range(2)]
    for number, image in enumerate(signed):
        await service.push_built("acme/api", f"signed-{number}", image)
    signature = build_referrer(signed[0].manifest)
    tag = f"sha256-{signed[1].digest.hex()}.sig"
    await service.push_built("acme/api", tag, signature)
    await fill(service, count=5)
    return signed, signature


async def test_a_signature_of_two_images_stays_when_either_comes_back_before_its_turn(
    service, monkeypatch
):
    """It would go with the last of them; the other one was pushed again meanwhile."""
    signed, signature = await two_with_one_signature(service)
    after_the_first_delete(
        monkeypatch, lambda: service.push_built("acme/api", "signed-again", signed[0])
    )
    answer = await service.ask("acme")
    gone = [image.digest for image in answer.outcome.images]
    assert gone[:2] == [f"sha256:{image.digest.hex()}" for image in signed]
    assert (await service.registry.head_manifest("acme/api", signature.digest)).exists
    assert ("acme/api", signature.digest) in await ledgers.manifests(service.pool)


async def test_a_signature_of_two_images_goes_with_the_last_of_them(service):
    signed, signature = await two_with_one_signature(service)
    answer = await service.ask("acme")
    gone = [image.digest for image in answer.outcome.images]
    assert gone[:3] == [f"sha256:{image.digest.hex()}" for image in (*signed, signature)]


async def test_every_deleted_manifest_is_kept_for_undo_with_its_reason(service):
    await service.configure("acme", 1_000_000)
    images = await fill(service)
    answer = await service.ask("acme")
    items = await service.pool.fetch("SELECT * FROM cleanup_items ORDER BY position")
    assert len(items) == len(answer.outcome.images) > 0
    by_digest = {image.digest: image.manifest.content for image in images}
    for item in items:
        assert item["state"] == "deleted"
        assert item["document"] == by_digest[item["digest"]]
        assert item["why"].startswith("deleted: ")


async def test_layers_that_something_else_needs_stay(service):
    await service.configure("acme", 1_000_000)
    base = build_layer("base", 400_000)
    for number in range(5):
        image = build_image([base, build_layer(f"own {number}", 100_000)])
        await service.push_built("acme/api", f"1.{number}", image)
    await service.push_built("acme/web", "1", build_image([base]))
    answer = await service.ask("acme")
    assert answer.outcome.images
    for repository in ("acme/api", "acme/web"):
        for tag in await service.tags(repository):
            state = await service.registry.tag_digest(repository, tag)
            fetched = await service.registry.get_manifest(repository, state.digest)
            assert fetched.body
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)


async def test_an_index_goes_with_its_children_and_in_that_order(service):
    await service.configure("acme", 1_000_000)
    index = build_index(
        {name: build_image([build_layer(f"old {name}", 200_000)]) for name in ("amd64", "arm64")}
    )
    await service.push_index("acme/web", "old", index)
    for number in range(3):
        await service.push("acme/web", f"1.{number}", 140_000)
    answer = await service.ask("acme")
    digests = [image.digest for image in answer.outcome.images]
    assert len(digests) == 3
    assert digests[0] == f"sha256:{index.digest.hex()}"
    assert await service.tags("acme/web") == {"1.0", "1.1", "1.2"}


async def test_a_tag_that_no_event_told_is_found_before_anything_goes(service):
    """A missed notification must not cost an image."""
    await service.configure("acme", 1_000_000)
    images = await fill(service)
    # The oldest image became `latest` and another tag; the registry's events were lost.
    await service.registry.put_manifest(
        "acme/api", "latest", images[0].manifest.content, images[0].manifest.media_type
    )
    answer = await service.ask("acme")
    assert answer.outcome.images
    listed = await service.tags("acme/api")
    assert (await ledgers.tags(service.pool))["acme/api"].keys() == listed
    assert await service.pool.fetchval(
        "SELECT count(*) FROM observations WHERE source = 'cleanup' AND kind = 'ManifestSeen'"
    )


async def test_images_whose_deletion_no_event_told_do_not_cost_an_app_its_last_ones(service):
    """The ledger's three newest are gone from the registry, and it has not heard of it."""
    await service.configure("acme", 1_000_000)
    images = await fill(service, count=9)
    await fill(service, "acme/web", count=1)
    for image in images[4:]:
        await service.registry.delete_manifest("acme/api", image.digest)
    answer = await service.ask("acme")
    assert "images_not_found" in answer.warnings
    assert {image.tags for image in answer.outcome.images} == {("1.0",), ("1.1",)}
    assert await service.tags("acme/api") == {"1.2", "1.3"}
    # Only reconciliation forgets.
    assert (await ledgers.tags(service.pool))["acme/api"].keys() == {f"1.{n}" for n in range(2, 9)}


async def test_deletes_disabled_stop_the_run_with_one_clear_message(pool, tmp_path):
    with running_registry(tmp_path, deletes=False) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            service = service_of(pool, client)
            await service.configure("acme", 1_000_000)
            await fill(service)
            answer = await service.ask("acme")
    assert answer.verdict.decision == "proceed"
    assert answer.verdict.reason == "still_above_target"
    assert "deletes_disabled" in answer.warnings
    assert "storage.delete.enabled" in answer.verdict.message
    assert not answer.outcome.images
    row = await pool.fetchrow("SELECT state, message FROM cleanup_runs")
    assert row["state"] == "stopped"
    assert "storage.delete.enabled" in row["message"]


async def test_a_registry_that_is_away_stops_nothing_but_the_cleanup(pool):
    async with RegistryClient("http://127.0.0.1:9") as client:
        service = service_of(pool, client)
        await service.configure("acme", 8000)
        for number in range(8):
            image = build_image([build_layer(str(number), 300)])
            await service.tell(
                "acme/api", str(number), image.manifest.content, image.manifest.media_type
            )
        before = await service.usage("acme")
        answer = await service.ask("acme", timeout_s=20.0)
    assert answer.verdict.decision == "proceed"
    assert "registry_unavailable" in answer.warnings
    assert await service.usage("acme") == before


async def test_an_image_pushed_again_after_the_plan_is_not_deleted(service, monkeypatch):
    await service.configure("acme", 1_000_000)
    images = await fill(service)
    plan = await service.cleaner.plan("acme", Incoming())
    first = plan[1].units[0].manifest
    again = next(image for image in images if image.digest == first.digest)
    delete = service.registry.delete_manifest

    async def delete_but_first_push(repository, digest):
        if digest != first.digest:
            return await delete(repository, digest)
        raise AssertionError("the image that was pushed again is deleted")

    listing = service.registry.list_tags

    async def push_in_between(repository):
        await service.tell("acme/api", "again", again.manifest.content, again.manifest.media_type)
        async for tag in listing(repository):
            yield tag

    monkeypatch.setattr(service.registry, "list_tags", push_in_between)
    monkeypatch.setattr(service.registry, "delete_manifest", delete_but_first_push)
    answer = await service.ask("acme")
    assert answer.outcome.images
    assert first.tags[0] in await service.tags("acme/api")


async def test_a_run_whose_process_died_does_not_block_the_workspace(service):
    await service.configure("acme", 1_000_000)
    await fill(service)
    workspace_id = await service.pool.fetchval("SELECT id FROM workspaces")
    begun = utc_now() - STALE_AFTER - timedelta(seconds=1)
    async with service.pool.acquire() as connection, connection.transaction():
        await runs.begin_run(
            connection,
            runs.Run(
                id=uuid.uuid4(),
                workspace_id=workspace_id,
                cause="a test",
                owner="dead",
                quota_bytes=1,
                usage_before=1,
                promised_bytes=1,
            ),
            [],
            now=begun,
        )
    answer = await service.ask("acme")
    assert answer.verdict.reason == "cleaned_to_target"
    states = await service.pool.fetch("SELECT state, owner FROM cleanup_runs ORDER BY started_at")
    # Taken over, and gone on with: the hook itself had nothing left to do.
    assert [tuple(row) for row in states] == [("finished", "test")]


async def test_concurrent_hooks_share_one_cleanup(service):
    await service.configure("acme", 1_000_000)
    await fill(service)
    answers = await asyncio.gather(*(service.ask("acme", build_id=str(n)) for n in range(6)))
    assert {answer.verdict.decision for answer in answers} == {"proceed"}
    assert await service.pool.fetchval("SELECT count(*) FROM cleanup_runs") == 1


async def test_a_cleanup_that_outlasts_the_time_out_goes_on_behind(service, monkeypatch):
    await service.configure("acme", 1_000_000)
    await fill(service)
    gate = asyncio.Event()
    delete = service.registry.delete_manifest

    async def held(repository, digest):
        await gate.wait()
        return await delete(repository, digest)

    monkeypatch.setattr(service.registry, "delete_manifest", held)
    answer = await service.ask("acme", timeout_s=1.0)
    assert "cleanup_continues" in answer.warnings
    assert answer.verdict.decision == "proceed"
    assert not answer.outcome.target_reached, "nobody knows yet"
    gate.set()
    await service.cleaner.finish(20)
    assert await service.pool.fetchval("SELECT state FROM cleanup_runs") == "finished"
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)


@pytest.mark.parametrize("enforcement", ["advisory", "strict"])
async def test_only_strict_workspaces_are_denied(service, enforcement):
    await service.configure("acme", 300_000)
    await service.accounts.configure("acme", Settings(enforcement=enforcement))
    await fill(service, count=2, size=200_000)
    answer = await service.ask("acme", build_id="b", incoming_bytes=1000)
    assert answer.verdict.reason == "still_above_target"
    denied = enforcement == "strict"
    assert answer.verdict.decision == ("deny" if denied else "proceed")
    assert (answer.reservation is None) == denied
    told = await service.pool.fetchval(
        "SELECT count(*) FROM outbox WHERE type LIKE '%build.denied%'"
    )
    assert told == int(denied)


async def test_two_builds_that_fit_alone_but_not_together_are_not_both_told_fits(service):
    await service.configure("acme", 1_000_000)
    await service.push("acme/api", "1", 100_000)
    first = await service.ask("acme", build_id="one", incoming_bytes=500_000)
    second = await service.ask("acme", build_id="two", incoming_bytes=500_000)
    assert first.verdict.reason == "below_threshold"
    assert second.verdict.reason == "still_above_target"
    assert second.figures.reserved_bytes == 500_000


async def test_what_an_earlier_release_knew_too_little_of_is_read_before_an_image_goes(service):
    """A BuildKit cache of which only the digests of its entries are known, and its layers' sizes not."""
    for number in range(1, 6):
        await service.push("acme/api", f"1.{number}", 40_000)
    index, blobs = build_cache_index("old", 40_000, 40_000)
    for blob in blobs:
        await upload_blob(service.registry, "acme/api", blob.content)
    await push_manifest(service.registry, "acme/api", index, "buildcache")
    earlier = ManifestPushed(
        "default",
        "acme/api",
        index.digest,
        (time.time_ns(), uuid.uuid4().bytes),
        index.media_type,
        len(index.content),
        "buildcache",
        Content(children=tuple(blob.digest for blob in blobs)),
    )
    await service.recorder.record([earlier], now=utc_now())
    await service.configure("acme", await service.usage("acme"), max_ratio_per_run=1)
    _snapshot, plan = await service.cleaner.plan("acme", Incoming())
    (cache,) = [item for item in plan.decisions if "buildcache" in item.manifest.tags]
    assert cache.manifest.kind == CACHE
    assert {tag for unit in plan.units for tag in unit.manifest.tags} <= {
        "buildcache",
        "1.1",
        "1.2",
    }


async def insufficient(service):
    rows = await service.pool.fetch(
        "SELECT data FROM outbox WHERE type = 'io.registryquota.cleanup.insufficient.v1' ORDER BY id"
    )
    return len(rows)


async def test_that_cleanups_do_not_suffice_is_told_when_it_changes_or_once_a_day(
    service, monkeypatch
):
    """Not once a build: the same reason at the same level is no news."""
    await service.configure("acme", 450_000, keep_newest=3, keep_at_least=3)
    for number in range(3):
        await service.push("acme/api", f"1.{number}", 110_000)
    # Several at once, of several processes: one tells it.
    await asyncio.gather(*(service.ask("acme", incoming_bytes=n) for n in range(60_000, 60_004)))
    other = service_of(service.pool, service.registry)
    await asyncio.gather(*(each.ask("acme", incoming_bytes=60_000) for each in (service, other)))
    assert await insufficient(service) == 1
    # Figures change with every build, the reason does not.
    await service.ask("acme", incoming_bytes=70_000)
    assert await insufficient(service) == 1
    # Another level.
    await service.push("acme/api", "1.3", 110_000)
    await service.configure("acme", 450_000, keep_newest=4, keep_at_least=4)
    await service.ask("acme", incoming_bytes=1)
    assert await insufficient(service) == 2
    # Another reason.
    await service.configure("acme", 450_000, keep_newest=1, keep_at_least=1, keep_tags=["1.*"])
    await service.ask("acme", incoming_bytes=1)
    assert await insufficient(service) == 3
    # A day later.
    await service.pool.execute(
        "UPDATE workspaces SET insufficient_told_at = insufficient_told_at - interval '1 day'"
    )
    await service.ask("acme", incoming_bytes=1)
    await service.ask("acme", incoming_bytes=1)
    assert await insufficient(service) == 4
    # Meanwhile one has sufficed.
    await service.configure("acme", 650_000, keep_newest=1, keep_at_least=1)
    await service.ask("acme", incoming_bytes=200_000)
    await service.configure("acme", 450_000, keep_newest=1, keep_at_least=1, keep_tags=["1.*"])
    await service.push("acme/api", "1.4", 220_000)
    await service.ask("acme", incoming_bytes=1)
    assert await insufficient(service) == 5
