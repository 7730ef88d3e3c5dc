"""Reconciliation on a real registry: what it holds is what the ledger says afterwards."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from ledger import reconcile as rows
from ledger.facts import ManifestPulled, ManifestSeen
from ledger.offsets import LogBreak, keep_breaks
from ledger.reading import manifests_of
from ledger.record import Recorder
from ledger.workspaces import Settings as WorkspaceSettings
from quota.pipeline import Pipeline
from quota.reconcile import UNTAGGED, AlreadyReconcilingError, Reconciler, Report
from quota.reconcile_schedule import ReconcileMetrics, ReconcileSchedule
from registry.client import RegistryClient
from registry.errors import RegistryUnavailable
from registry.push import (
    Image,
    build_image,
    build_index,
    build_layer,
    build_referrer,
    push_image,
    push_index,
)
from registry.workspaces import WorkspaceRule
from runtime.lifecycle import Stopping
from runtime.postgres import Pool
from runtime.settings import Settings
from tests.integration.quota.conftest import Service
from tests.support import ledgers
from tests.support.waiting import wait_until


def utc_now() -> datetime:
    return datetime.now(UTC)


def reconciler(service: Service, *, recorder: Recorder | None = None) -> Reconciler:
    return Reconciler(
        pool=service.pool,
        recorder=recorder or ledgers.recorder(service.pool),
        client=service.registry,
        rule=WorkspaceRule(ledgers.PATTERN),
        clock=utc_now,
        in_flight=0.0,
    )


async def reconcile(service: Service, **options) -> Report:
    report = await reconciler(service).run(**options)
    assert report is not None
    return report


async def an_hour_passes(pool: Pool) -> None:
    """For suspicions: the first look was earlier than it was."""
    await pool.execute(
        "UPDATE suspected_absences SET missing_since = missing_since - interval '61 minutes'"
    )
    # What was heard of them is as much older, or the suspicion would be of before it.
    await pool.execute(
        """UPDATE manifests SET push_ns = push_ns - 3660 * 1000000000::int8 WHERE push_ns >= 0"""
    )
    await pool.execute("UPDATE tags SET set_ns = set_ns - 3660 * 1000000000::int8")


async def registry_tags(client: RegistryClient) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    async for repository in client.catalog():
        async for tag in client.list_tags(repository):
            state = await client.tag_digest(repository, tag)
            assert state.digest is not None
            found.setdefault(repository, {})[tag] = state.digest
    return found


async def exact(service: Service) -> None:
    """Tags as in the registry, bytes as in a recount."""
    assert await ledgers.tags(service.pool) == await registry_tags(service.registry)
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)
    assert await ledgers.references_agree(service.pool)


def an_image(*sizes: int, created: str = "2026-01-01T00:00:00Z") -> Image:
    return build_image([build_layer(uuid.uuid4().hex, size) for size in sizes], created=created)


def whole(*images: Image) -> int:
    """Bytes of some images, each digest once."""
    return sum(
        {
            blob.digest: len(blob.content)
            for image in images
            for blob in (image.manifest, *image.blobs)
        }.values()
    )


async def drift_events(pool: Pool) -> list[dict[str, Any]]:
    found = await pool.fetch(
        "SELECT data FROM outbox WHERE type = 'io.registryquota.drift.detected.v1' ORDER BY id"
    )
    return [msgspec.json.decode(row["data"]) for row in found]


async def test_an_existing_registry_is_taken_in(service: Service) -> None:
    shared = build_layer("shared", 900)
    images = [
        build_image([shared, build_layer(f"layer-{number}", 400)], label=str(number))
        for number in range(160)
    ]
    for number, image in enumerate(images):
        await push_image(service.registry, f"ws{number % 5}/app{number % 3}", image, str(number))
    for number in range(20):
        index = build_index({name: an_image(300) for name in ("amd64", "arm64")})
        await push_index(service.registry, f"multi/app{number % 2}", index, f"v{number}")
    await push_image(service.registry, "acme/tags/list", an_image(500), "1")

    report = await reconcile(service)

    assert sum(item.found for item in report.drift) == 160 + 60 + 1
    assert not report.problems
    assert UNTAGGED in report.notes
    await exact(service)
    views = [await service.accounts.workspace(item.workspace) for item in report.drift]
    assert all(view and view.found_by_reconciliation and not view.configured for view in views)
    async with service.pool.acquire() as connection, connection.transaction():
        manifests = await manifests_of(
            connection, next(v.id for v in views if v and v.name == "ws0")
        )
    built = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 10**9
    assert {(item.estimated, item.pushed_ns) for item in manifests} == {(True, built)}
    events = await drift_events(service.pool)
    assert len(events) == 7
    assert all(event["first_seen"] and event["drift_bytes"] > 0 for event in events)

    again = await reconcile(service)
    assert (again.drift, again.suspected) == ([], 0)
    assert len(await drift_events(service.pool)) == 7


async def test_an_image_with_several_tags_has_its_config_read_once(service: Service) -> None:
    tags = ("v1", "v1.2", "latest")
    image = an_image(500)
    for tag in tags:
        await push_image(service.registry, "acme/api", image, tag)
    before = service.registry.transport.tried
    await reconcile(service)
    is_there, is_a_cache, catalog, tag_list, config = 1, 1, 1, 1, 1
    asked = is_there + is_a_cache + catalog + tag_list + len(tags) + config
    assert service.registry.transport.tried - before == asked
    await exact(service)


async def test_an_index_is_as_old_as_its_newest_child(service: Service) -> None:
    old, new = (
        an_image(300, created="2020-05-05T00:00:00Z"),
        an_image(300, created="2021-05-05T00:00:00Z"),
    )
    await push_index(service.registry, "acme/multi", build_index({"amd64": old, "arm64": new}), "1")
    undated = an_image(300, created="1970-01-01T00:00:00Z")
    await push_image(service.registry, "acme/undated", undated, "1")
    await reconcile(service)
    found = {
        (row["name"], row["children"] is not None): row["created_ns"]
        for row in await service.pool.fetch(
            "SELECT r.name, m.children, max(m.created_ns) AS created_ns FROM manifests m"
            " JOIN repositories r ON r.id = m.repository_id GROUP BY 1, 2"
        )
    }
    newest = int(datetime(2021, 5, 5, tzinfo=UTC).timestamp()) * 10**9
    assert found[("acme/multi", True)] == newest
    assert found[("acme/undated", False)] == -1


async def test_missed_pushes_and_moved_tags_are_found(service: Service) -> None:
    first = await service.push("acme/api", "1", 2000)
    await service.push("acme/api", "latest", 2500)
    missed = await service.push("acme/api", "2", 3000, told=False)
    await service.push_built("acme/api", "latest", missed, told=False)
    await service.push_built("acme/api", "also", first, told=False)
    before = await service.usage("acme")
    await _next_second()
    report = await reconcile(service)
    [drift] = report.drift
    assert (drift.found, drift.corrected, drift.forgotten) == (1, 2, 0)
    assert drift.drift_bytes == whole(missed) == await service.usage("acme") - before
    assert not drift.first_seen
    await exact(service)
    [event] = await drift_events(service.pool)
    assert event["usage_bytes_after"] - event["usage_bytes_before"] == whole(missed)


async def _next_second() -> None:
    """A registry's Date has whole seconds: what was set in this one is not behind it yet."""
    await asyncio.sleep(1.0 - time.time() % 1.0 + 0.01)


async def test_a_missed_child_of_a_known_index_is_found(service: Service) -> None:
    index = build_index({"amd64": an_image(300), "arm64": an_image(400)})
    await push_index(service.registry, "acme/multi", index, "1")
    await service.tell("acme/multi", "1", index.manifest.content, index.manifest.media_type)
    await service.tell(
        "acme/multi", None, index.images[0].manifest.content, index.images[0].manifest.media_type
    )
    report = await reconcile(service)
    assert [item.found for item in report.drift] == [1]
    await exact(service)


async def test_what_was_deleted_behind_our_back_needs_two_looks_an_hour_apart(
    service: Service,
) -> None:
    gone = await service.push("acme/api", "1", 2000)
    kept = await service.push("acme/api", "2", 2500)
    await service.registry.delete_manifest("acme/api", gone.digest)
    before = await service.usage("acme")
    await _next_second()

    first = await reconcile(service)
    assert (first.drift, first.suspected) == ([], 1)
    assert await service.usage("acme") == before, "one look forgets nothing"
    second = await reconcile(service)
    assert (second.drift, second.suspected) == ([], 1), "a second look too soon neither"

    await an_hour_passes(service.pool)
    third = await reconcile(service)
    assert [(item.found, item.corrected, item.forgotten) for item in third.drift] == [(0, 0, 1)]
    assert third.suspected == 0
    assert await service.usage("acme") == whole(kept)
    await exact(service)


async def test_a_person_who_is_sure_does_not_wait(service: Service) -> None:
    gone = await service.push("acme/api", "1", 2000)
    await service.registry.delete_manifest("acme/api", gone.digest)
    await _next_second()
    report = await reconcile(service, confirm_now=True)
    assert [item.forgotten for item in report.drift] == [1]
    assert await service.usage("acme") == 0


async def test_what_comes_back_between_two_looks_is_suspected_no_longer(service: Service) -> None:
    image = await service.push("acme/api", "1", 2000)
    await service.registry.delete_manifest("acme/api", image.digest)
    await _next_second()
    assert (await reconcile(service)).suspected == 1
    await an_hour_passes(service.pool)
    await push_image(service.registry, "acme/api", image, "1")
    assert (await reconcile(service)).suspected == 0
    assert await service.usage("acme") == whole(image)


async def test_only_the_workspace_asked_for_is_walked(service: Service) -> None:
    await push_image(service.registry, "acme/api", an_image(500), "1")
    await push_image(service.registry, "other/api", an_image(500), "1")
    report = await reconcile(service, workspace="acme")
    assert [item.workspace for item in report.drift] == ["acme"]
    assert set(await ledgers.usage(service.pool)) == {"acme"}


async def test_a_pass_that_ended_early_goes_on_where_it_stopped(service: Service) -> None:
    for number in range(30):
        await push_image(service.registry, f"acme/app{number:02}", an_image(300), "1")
    broken = reconciler(service)
    asked = 0
    real = service.registry.list_tags

    def list_tags(repository: str) -> AsyncIterator[str]:
        nonlocal asked
        asked += 1
        if asked > 20:
            raise RegistryUnavailable("away", retry_after=60.0)
        return real(repository)

    service.registry.list_tags = list_tags  # type: ignore[method-assign]
    with pytest.raises(RegistryUnavailable):
        await broken.run()
    service.registry.list_tags = real  # type: ignore[method-assign]
    async with service.pool.acquire() as connection:
        stopped = await rows.last_pass(connection, "default")
    assert stopped is not None
    assert (stopped.state, stopped.message) == ("stopped", "away")

    report = await reconcile(service)
    assert report.resumed
    assert report.pass_id == stopped.id
    assert report.manifests < 30
    assert [item.found for item in report.drift] == [30]
    await exact(service)


async def test_a_pass_that_was_killed_goes_on_where_it_stopped(service: Service) -> None:
    for number in range(40):
        await push_image(service.registry, f"acme/app{number:02}", an_image(300), "1")
    running = asyncio.create_task(reconciler(service).run())

    async def begun() -> bool:
        return bool(
            await service.pool.fetchval("SELECT count(*) FROM reconcile_passes WHERE cursor <> ''")
        )

    await wait_until(begun, 10, interval=0.005)
    running.cancel()
    await asyncio.wait([running])
    await reconcile(service)
    assert await service.pool.fetchval("SELECT sum(found) FROM reconcile_drift") == 40
    await exact(service)


async def test_only_one_reconciles_at_a_time(service: Service) -> None:
    async with service.pool.acquire() as connection:
        assert await rows.try_lead(connection)
        with pytest.raises(AlreadyReconcilingError):
            await reconcile(service)
        assert await rows.running(connection)
        await rows.stop_leading(connection)
        assert not await rows.running(connection)


async def test_untagged_manifests_that_the_ledger_knows_stay(service: Service) -> None:
    await service.push("acme/api", "1", 2000)
    await service.push("acme/api", "1", 2500)
    usage = await service.usage("acme")
    assert (await reconcile(service)).suspected == 0
    assert await service.usage("acme") == usage


async def test_referrers_are_read(service: Service) -> None:
    image = await service.push("acme/api", "1", 2000, told=False)
    await push_image(service.registry, "acme/api", build_referrer(image.manifest), "sbom")
    await reconcile(service)
    subject = await service.pool.fetchval(
        "SELECT subject FROM manifests WHERE subject_known AND subject IS NOT NULL"
    )
    assert subject == image.digest


async def test_observations_alone_build_the_same_ledger_again(service: Service) -> None:
    index = build_index({"amd64": an_image(300), "arm64": an_image(400)})
    await push_index(service.registry, "acme/multi", index, "1")
    await service.push("acme/api", "1", 2000, told=False)
    await reconcile(service)
    before = await ledgers.rows(service.pool)
    observed = await service.pool.fetch("SELECT fact FROM observations ORDER BY id DESC")
    facts = [msgspec.json.decode(row["fact"], type=ManifestSeen) for row in observed]
    await ledgers.empty(service.pool)
    for fact in facts:
        await ledgers.recorder(service.pool).record([fact], now=utc_now())
    assert await ledgers.rows(service.pool) == before


async def test_a_workspace_that_was_only_found_is_not_cleaned(service: Service) -> None:
    for number in range(4):
        await push_image(service.registry, "acme/api", an_image(2000), str(number))
    small = ledgers.recorder(service.pool, quota_bytes=5000)
    await reconciler(service, recorder=small).run()
    answer = await service.ask("acme")
    assert "not_configured" in answer.warnings
    assert len(await service.tags("acme/api")) == 4


@pytest.mark.parametrize("settings", [WorkspaceSettings(), WorkspaceSettings(enforcement="strict")])
async def test_only_a_quota_or_a_policy_lets_a_found_workspace_be_cleaned(
    service: Service, settings: WorkspaceSettings
) -> None:
    for number in range(4):
        await push_image(service.registry, "acme/api", an_image(2000), str(number))
    small = ledgers.recorder(service.pool, quota_bytes=5000)
    await reconciler(service, recorder=small).run()
    view = await service.accounts.configure("acme", settings)
    assert not view.configured
    assert "not_configured" in (await service.ask("acme")).warnings
    assert len(await service.tags("acme/api")) == 4
    view = await service.accounts.configure("acme", WorkspaceSettings(quota_bytes=5000))
    assert view.configured


async def test_a_workspace_that_was_heard_of_before_its_first_image_was_found_is_not_cleaned(
    service: Service,
) -> None:
    """A pull and a hook call make a row for it, but what it holds was there before us."""
    for number in range(4):
        await push_image(service.registry, "acme/api", an_image(2000), str(number))
    small = ledgers.recorder(service.pool, quota_bytes=5000)
    pull = ManifestPulled("default", "acme/api", b"\1" * 32, (1, b"\1" * 16))
    await small.record([pull], now=utc_now())
    await service.ask("acme")
    assert await service.accounts.workspace("acme") is None, "it has no image yet"
    await reconciler(service, recorder=small).run()
    answer = await service.ask("acme")
    assert "not_configured" in answer.warnings
    assert len(await service.tags("acme/api")) == 4


async def test_where_the_log_did_not_go_on_a_pass_is_due_at_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quota.reconcile_schedule._LOOK_SECONDS", 0.05)
    image = await service.push("acme/api", "1", 2000)
    await reconciler(service).run()
    lost = await service.push("acme/api", "2", 3000, told=False)
    pipeline = Pipeline(Settings(kafka_bootstrap="127.0.0.1:1"), service.pool, clock=utc_now)
    stopping = Stopping()
    schedule = ReconcileSchedule(
        reconciler(service),
        pool=service.pool,
        metrics=ReconcileMetrics(CollectorRegistry()),
        interval=timedelta(days=1),
        stopping=stopping,
        clock=utc_now,
    )
    running = asyncio.create_task(schedule.run())
    try:
        # However wrong the clock is by which it was found.
        async with service.pool.acquire() as connection, connection.transaction():
            await keep_breaks(
                connection,
                cluster_id="c",
                topic="t",
                breaks=[LogBreak(0, "ends_before", 50, 0, 10, 0)],
                now=utc_now() + timedelta(days=500),
                new_id=uuid.uuid4,
            )

        async def compared() -> bool:
            return await service.usage("acme") == whole(image) + whole(lost)

        await wait_until(compared, 10, what="what the log lost is found")

        async def said() -> bool:
            return (await pipeline.status())["log"]["broken_at"] is None

        await wait_until(said, 10, what="the log is well again")
        passes = "SELECT count(*) FROM reconcile_passes"
        assert await service.pool.fetchval(passes) == 2, "one before, one for the break"
    finally:
        stopping.set("the test is over")
        await asyncio.wait_for(running, 5)
        await pipeline.close()


async def test_passes_run_on_a_schedule_in_one_process_at_a_time(service: Service) -> None:
    image = await service.push("acme/api", "1", 2000, told=False)
    registries, stopping = [CollectorRegistry(), CollectorRegistry()], Stopping()
    schedules = [
        ReconcileSchedule(
            reconciler(service),
            pool=service.pool,
            metrics=ReconcileMetrics(registry),
            interval=timedelta(seconds=20),
            stopping=stopping,
            clock=utc_now,
            jitter=lambda: 0.0,
        )
        for registry in registries
    ]
    running = [asyncio.create_task(schedule.run()) for schedule in schedules]

    def found() -> bool:
        return any(
            item.get_sample_value("registry_quota_drift_manifests", {"kind": "found"}) == 1
            for item in registries
        )

    await wait_until(found, 10, what="the drift shows as a metric")
    assert await service.usage("acme") == whole(image)
    assert await service.pool.fetchval("SELECT count(*) FROM reconcile_passes") == 1
    stopping.set("the test is over")
    await asyncio.wait_for(asyncio.gather(*running), 5)
    pipeline = Pipeline(Settings(kafka_bootstrap="127.0.0.1:1"), service.pool, clock=utc_now)
    try:
        document = await pipeline.status()
    finally:
        await pipeline.close()
    assert document["drift"]["drift_bytes"] == document["drift"]["wrong_digests"] == 0
    assert document["drift"]["counted_at"] is not None, "a pass recounts what it walked"
    status = document["reconciliation"]
    assert not status["running"]
    assert [(item["workspace"], item["found"]) for item in status["drift"]] == [("acme", 1)]


async def test_a_pass_tells_of_another_pattern_than_repositories_were_placed_by(service):
    await push_image(service.registry, "acme/shop/api", build_image([build_layer("own", 10)]), "1")
    await reconcile(service)
    other = Reconciler(
        pool=service.pool,
        recorder=ledgers.recorder(service.pool),
        client=service.registry,
        rule=WorkspaceRule("^(?P<workspace>[^/]+/[^/]+)/(?P<app>.+)$"),
        clock=utc_now,
        in_flight=0.0,
    )
    report = await other.run()
    assert report is not None
    assert report.equal
    (note,) = report.notes
    assert "1 of 1 repositories" in note
    assert "workspaces place" in note
