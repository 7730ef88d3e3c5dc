"""What builds are told: how large they are thought to be, what is set aside for them, and why not."""

import asyncio
import uuid
from datetime import timedelta

import pytest

from ledger import leases, workspaces
from ledger.workspaces import Settings
from registry.client import RegistryClient
from registry.errors import RegistryRefused
from registry.manifests import parse_manifest
from registry.push import build_image, build_layer
from tests.integration.quota.conftest import DEFAULT_QUOTA, utc_now
from tests.support.waiting import wait_until


async def reserved(service, workspace="acme"):
    return {item.build_id: item.bytes for item in await service.accounts.reservations(workspace)}


async def test_a_build_that_tells_nothing_is_expected_to_be_as_large_as_nine_in_ten(service):
    for number, size in enumerate([10_000] * 8 + [50_000, 90_000]):
        await service.push("acme/api", f"v{number}", size)
    await service.push("acme/web", "v1", 700_000)
    answer = await service.ask("acme", app="api")
    assert answer.incoming_source == "estimate"
    assert 50_000 < answer.figures.incoming_bytes < 60_000
    assert "incoming_unknown" not in answer.warnings
    assert (await service.ask("acme", app="api", incoming_bytes=7)).incoming_source == "request"
    told = await service.ask("acme", app="api", incoming_bytes=7, layers=((bytes(32), 9),))
    assert (told.incoming_source, told.figures.incoming_bytes) == ("layers", 9)


async def test_without_history_or_app_nothing_is_expected_and_said_so(service):
    await service.push("acme/api", "v1", 10_000)
    for build in ({}, {"app": "new"}):
        answer = await service.ask("acme", **build)
        assert (answer.incoming_source, answer.figures.incoming_bytes) == ("none", 0)
        assert "incoming_unknown" in answer.warnings


async def test_an_unknown_workspace_is_an_empty_one_and_its_build_reserves(service):
    answer = await service.ask("fresh", build_id="b", app="api", incoming_bytes=1000)
    assert answer.verdict.reason == "below_threshold"
    assert answer.figures.quota_bytes == DEFAULT_QUOTA
    assert await reserved(service, "fresh") == {"b": 1000}
    assert await service.accounts.workspace("fresh") is None, "it appears with its first image"


async def test_dry_runs_and_builds_without_an_id_reserve_nothing(service):
    await service.push("acme/api", "v1", 1000)
    await service.ask("acme", incoming_bytes=1000)
    await service.ask("acme", build_id="b", incoming_bytes=1000, dry_run=True)
    assert await reserved(service) == {}


async def test_a_build_does_not_count_against_itself_and_its_push_closes_it(service):
    await service.configure("acme", 1_000_000)
    for _time in range(2):
        answer = await service.ask("acme", app="api", build_id="b", incoming_bytes=600_000)
        assert answer.verdict.reason == "below_threshold"
        assert answer.figures.reserved_bytes == 0
    assert await reserved(service) == {"b": 600_000}
    await service.push("acme/api", "v1", 400_000)
    assert await reserved(service) == {}
    assert (await service.ask("acme", incoming_bytes=100_000)).verdict.reason == "below_threshold"


async def test_a_build_that_asks_again_with_more_than_the_quota_reserves_nothing_any_more(service):
    """Its newest figures hold; what cannot fit is set aside by nobody else's images."""
    await service.configure("acme", 1_000_000)
    await service.push("acme/api", "v1", 100_000)
    await service.ask("acme", app="api", build_id="b", incoming_bytes=600_000)
    answer = await service.ask("acme", app="api", build_id="b", incoming_bytes=1_000_001)
    assert (answer.verdict.decision, answer.verdict.reason) == ("proceed", "over_quota")
    assert answer.reservation is None
    assert await reserved(service) == {}
    other = await service.ask("acme", app="api", build_id="c", incoming_bytes=600_000)
    assert other.verdict.reason == "below_threshold"
    await service.ask("acme", app="api", build_id="b", incoming_bytes=50_000)
    assert await reserved(service) == {"b": 50_000, "c": 600_000}


async def test_of_two_racing_builds_that_fit_alone_one_is_told_that_there_is_too_little(service):
    await service.configure("acme", 1_000_000)
    await service.push("acme/api", "v1", 100_000)
    answers = await asyncio.gather(
        *(
            service.ask("acme", app="api", build_id=f"b{number}", incoming_bytes=600_000)
            for number in range(2)
        )
    )
    assert sorted(answer.verdict.reason for answer in answers) == [
        "below_threshold",
        "still_above_target",
    ]
    await service.accounts.configure("acme", Settings(enforcement="strict"))
    third = await service.ask("acme", app="api", build_id="b3", incoming_bytes=600_000)
    assert third.verdict.decision == "deny"


async def test_who_is_denied_reads_what_is_missing_who_holds_it_and_what_to_do(service):
    await service.configure("acme", 1_000_000)
    await service.accounts.configure("acme", Settings(enforcement="strict"))
    await service.push("acme/big", "v1", 500_000)
    await service.push("acme/small", "v1", 100_000)
    answer = await service.ask("acme", app="small", build_id="b", incoming_bytes=700_000)
    assert answer.verdict.decision == "deny"
    message = answer.verdict.message
    assert "are missing" in message
    assert "Most is held by big 48" in message
    assert "raise the quota" in message
    assert await reserved(service) == {}
    (event,) = await service.pool.fetch(
        "SELECT data::jsonb ->> 'missing_bytes' AS missing, data::jsonb #>> '{largest_apps,0,app}'"
        " AS app, data::jsonb ->> 'message' AS message"
        " FROM outbox WHERE type = 'io.registryquota.build.denied.v1'"
    )
    assert event["app"] == "big"
    assert event["message"] == message
    figures = answer.figures
    assert int(event["missing"]) == figures.total_bytes - figures.quota_bytes > 0


async def test_layers_that_the_workspace_holds_cost_nothing_and_stay(service):
    await service.configure("acme", 1_000_000)
    images = [await service.push("acme/api", f"v{number}", 150_000) for number in range(5)]
    base = images[0].layers[0]
    answer = await service.ask(
        "acme", app="api", layers=((base.digest, 150_000), (bytes(32), 40_000))
    )
    assert answer.figures.incoming_bytes == 40_000
    rows = await service.pool.fetch(
        "SELECT refs FROM workspace_digests WHERE digest = $1", base.digest
    )
    assert [row["refs"] for row in rows] == [1]


async def test_a_strict_workspace_denies_what_cannot_be_checked(service):
    await service.configure("acme", 1_000_000)
    await service.accounts.configure("acme", Settings(enforcement="strict"))
    await service.hook.remember_strict()
    async with service.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM workspaces FOR UPDATE")
        answer = await service.ask("acme", build_id="b", incoming_bytes=5, timeout_s=0.5)
    assert (answer.verdict.decision, answer.verdict.reason) == ("deny", "check_failed")
    assert answer.figures.incoming_bytes == 5

    async def announced():
        return await service.pool.fetchval(
            "SELECT data::jsonb ->> 'reason' FROM outbox"
            " WHERE type = 'io.registryquota.build.denied.v1'"
        )

    assert await wait_until(announced, what="the event") == "check_failed"


async def test_a_source_that_stopped_reporting_is_named_and_nothing_goes(service):
    await service.configure("acme", 1_000_000)
    for number in range(9):
        await service.push("acme/api", f"v{number}", 100_000)
    await lease(service, "prod", [], ttl=-1)
    answer = await service.ask("acme")
    assert answer.verdict.reason == "still_above_target"
    assert "stale_lease:prod" in answer.warnings
    assert not answer.outcome.images
    await lease(service, "prod", [], ttl=60)
    assert (await service.ask("acme")).verdict.reason == "cleaned_to_target"


async def test_what_is_leased_stays_while_others_go(service):
    await service.configure("acme", 1_000_000)
    images = [await service.push("acme/api", f"v{number}", 100_000) for number in range(9)]
    await lease(service, "prod", [images[0].digest], ttl=60)
    answer = await service.ask("acme")
    assert answer.outcome.images
    assert "v0" in await service.tags("acme/api")


@pytest.mark.parametrize("named_by", ["manifest", "config", "layer"])
async def test_what_is_leased_after_the_plan_was_made_stays(service, monkeypatch, named_by):
    """Some runtimes know an image by its config: that name protects as much during a run as before."""
    await service.configure("acme", 1_000_000)
    images = [await service.push("acme/api", f"v{number}", 100_000) for number in range(9)]
    parsed = parse_manifest(images[0].manifest.content, images[0].manifest.media_type)
    blobs = [reference.digest for reference in parsed.references]
    name = {"manifest": images[0].digest, "config": blobs[0], "layer": blobs[-1]}[named_by]
    listing = service.registry.list_tags

    async def report_in_between(repository):
        await lease(service, "prod", [name], ttl=60)
        async for tag in listing(repository):
            yield tag

    monkeypatch.setattr(service.registry, "list_tags", report_in_between)
    answer = await service.ask("acme")
    assert answer.outcome.images
    monkeypatch.undo()
    assert "v0" in await service.tags("acme/api")


async def lease(service, source, digests, *, ttl):
    now = utc_now()
    async with service.pool.acquire() as connection:
        workspace = await workspaces.lock_workspace(connection, "acme")
        assert workspace is not None
        await leases.put_lease(
            connection,
            workspace.id,
            source,
            digests,
            now=now,
            expires_at=now + timedelta(seconds=ttl),
        )


async def a_build_on_an_old_base(service):
    """The base of the oldest of seven images, of which four have to go, comes again with the build."""
    await service.configure("acme", 1_000_000, max_ratio_per_run=1)
    base = build_layer("an old base", 300_000)
    oldest = build_image([base, build_layer(uuid.uuid4().hex, 100_000)])
    await service.push_built("acme/api", "v0", oldest)
    images = [await service.push("acme/api", f"v{number}", 100_000) for number in range(1, 7)]
    return [oldest, *images], ((base.digest, 300_000), (bytes(32), 40_000))


async def test_layers_that_a_build_brings_again_are_promised_and_freed_and_win_no_room(service):
    _images, layers = await a_build_on_an_old_base(service)
    before = await service.usage("acme")
    answer = await service.ask("acme", app="api", layers=layers)
    assert answer.verdict.reason == "cleaned_to_target"
    assert {image.tags[0] for image in answer.outcome.images} == {"v0", "v1", "v2", "v3"}
    freed = before - await service.usage("acme")
    assert answer.outcome.freed_bytes == freed > 700_000
    run = await service.pool.fetchrow("SELECT promised_bytes, freed_bytes FROM cleanup_runs")
    assert run["promised_bytes"] == run["freed_bytes"] == freed
    assert "of which 293.1 KB come again" in answer.outcome.images[0].why
    assert answer.figures.incoming_bytes == 340_000
    assert answer.figures.total_bytes <= 700_000


async def test_what_comes_again_counts_when_another_image_has_to_take_the_place_of_one(
    service, monkeypatch
):
    images, layers = await a_build_on_an_old_base(service)
    delete = RegistryClient.delete_manifest

    async def refuse(client, repository, digest):
        if digest == images[1].digest:
            raise RegistryRefused("not this one")
        return await delete(client, repository, digest)

    monkeypatch.setattr(RegistryClient, "delete_manifest", refuse)
    answer = await service.ask("acme", app="api", layers=layers)
    assert len(answer.outcome.failed) == 1
    assert {image.tags[0] for image in answer.outcome.images} == {"v0", "v2", "v3", "v4"}
    assert answer.outcome.target_reached
    assert answer.figures.total_bytes <= 700_000
