"""Reconciliation with real registries of both versions, as they are configured in the field."""

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quota.reconcile import Reconciler, Report
from quota.snapshot import Incoming
from registry.client import RegistryClient
from registry.errors import PullThroughCache, RegistryError
from registry.push import build_image, build_index, build_layer, push_image, push_index
from registry.transport import Retries
from registry.workspaces import WorkspaceRule
from runtime.postgres import Pool
from tests.integration.quota.conftest import service_of
from tests.support import ledgers
from tests.support.registries import answering, registry_configured
from tests.support.registry_proxy import in_front_of

pytestmark = pytest.mark.parametrize("version", ["2", "3"])


async def reconcile(
    pool: Pool,
    client: RegistryClient,
    *,
    pull_through: bool = False,
    confirm_now: bool = False,
) -> Report:
    report = await Reconciler(
        pool=pool,
        recorder=ledgers.recorder(pool),
        client=client,
        rule=WorkspaceRule(ledgers.PATTERN),
        clock=lambda: datetime.now(UTC),
        in_flight=0.0,
        pull_through=pull_through,
    ).run(confirm_now=confirm_now)
    assert report is not None
    return report


async def warnings_of_a_plan(pool: Pool, client: RegistryClient, workspace: str) -> list[str]:
    planned = await service_of(pool, client).cleaner.plan_asked(workspace, Incoming(), seconds=10)
    assert planned is not None
    return planned[2]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_registry_that_gives_few_at_a_time_is_taken_in_whole(pool, tmp_path, version):
    limits = {"catalog": {"maxentries": 3}}
    if version == "3":
        limits["tags"] = {"maxtags": 3}
    with registry_configured(tmp_path, version, **limits) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            for number in range(7):
                image = build_image([build_layer(f"{number}", 300)])
                await push_image(client, f"acme/app{number}", image, "1")
            first = await reconcile(pool, client)
            assert (first.repositories, sum(one.found for one in first.drift)) == (7, 7)
            assert not first.equal
            again = await reconcile(pool, client)
            assert (again.repositories, again.equal) == (7, True)


async def test_a_registry_that_cannot_be_listed_equals_nothing(pool, tmp_path, version):
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with (
            in_front_of(url, refuses="_catalog") as proxy,
            RegistryClient(proxy.url) as client,
        ):
            report = await reconcile(pool, client)
    assert (report.repositories, report.equal) == (0, False)
    assert "list of repositories" in report.problems[0]
    message = await pool.fetchval("SELECT message FROM reconcile_passes ORDER BY id DESC LIMIT 1")
    assert "could not be read" in message


@pytest.mark.parametrize("status", [200, 403, 504])
async def test_a_list_that_does_not_come_keeps_nobody_from_what_the_ledger_knows(
    pool, tmp_path, version, status
):
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            await push_image(client, "acme/app", build_image([build_layer("1", 300)]), "1")
            await reconcile(pool, client)
            await push_image(client, "acme/app", build_image([build_layer("2", 300)]), "2")
        async with (
            in_front_of(url, refuses="_catalog", refuses_with=status) as proxy,
            RegistryClient(proxy.url, retries=Retries(attempts=2, first_wait=0.01)) as client,
        ):
            report = await reconcile(pool, client)
    assert (report.repositories, [one.found for one in report.drift]) == (1, [1])
    assert not report.equal
    assert "list of repositories" in report.problems[0]


async def test_below_a_wrong_path_nothing_is_forgotten(pool, tmp_path, version):
    """Whoever is sure that all of it may be forgotten did not look at the address."""
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            await push_image(client, "acme/app", build_image([build_layer("1", 300)]), "1")
            await reconcile(pool, client)
        held = await ledgers.manifests(pool)
        async with RegistryClient(f"{url}/docker") as client:
            with pytest.raises(RegistryError, match="404 page not found"):
                await reconcile(pool, client, confirm_now=True)
        assert await ledgers.manifests(pool) == held != set()
        assert (
            await pool.fetchval("SELECT count(*) FROM outbox WHERE type LIKE '%unreadable%'") == 0
        )


async def test_blobs_that_are_elsewhere_are_told_and_their_ages_come_once_they_may(
    pool, tmp_path, version
):
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            for number in range(8):
                image = build_image([build_layer(f"{number}", 300)])
                await push_image(client, "acme/app", image, f"1.{number}")
            parts = {name: build_image([build_layer(name, 300)]) for name in ("amd64", "arm64")}
            await push_index(client, "acme/multi", build_index(parts), "1")

        unknown = "SELECT count(*) FROM manifests WHERE created_ns < 0"
        async with in_front_of(url, stores_at="localhost") as proxy:
            for _ in range(2):  # the second pass knows all of them, and is as honest
                async with RegistryClient(proxy.url) as client:
                    report = await reconcile(pool, client)
                assert not report.equal
                (problem,) = report.problems
                assert "RQ_REGISTRY_REDIRECT_HOSTS=localhost" in problem
                assert await pool.fetchval(unknown) == 11
            async with RegistryClient(proxy.url) as client:
                assert await warnings_of_a_plan(pool, client, "acme") == ["blobs_elsewhere"]
            allowed = frozenset({"localhost"})
            async with RegistryClient(proxy.url, redirect_hosts=allowed) as client:
                assert (await reconcile(pool, client)).problems == []
                assert await pool.fetchval(unknown) == 0
                assert (await reconcile(pool, client)).equal
                assert await warnings_of_a_plan(pool, client, "acme") == []


async def test_a_pull_through_cache_is_never_made_to_download(pool, tmp_path, version):
    with registry_configured(tmp_path / "upstream", version) as upstream:
        await answering(upstream)
        async with RegistryClient(upstream) as client:
            image = build_image([build_layer(uuid.uuid4().hex, 3000)])
            await push_image(client, "acme/app", image, "1")
            assert not await client.is_pull_through_cache("acme/none")
            assert [name async for name in client.catalog()] == ["acme/app"]
        proxy = {"remoteurl": upstream}
        with registry_configured(tmp_path / "cache", version, proxy=proxy) as url:
            await answering(url)
            async with RegistryClient(url) as client:
                for known in (False, True):
                    with pytest.raises(PullThroughCache, match="RQ_REGISTRY_PULL_THROUGH"):
                        await reconcile(pool, client, pull_through=known)
                # Something is cached: what it lists now are the upstream's tags.
                await client.get_manifest("acme/app", "1")
                held = files(tmp_path / "cache" / "storage")
                with pytest.raises(PullThroughCache):
                    await reconcile(pool, client)
                assert files(tmp_path / "cache" / "storage") == held
    assert await pool.fetchval("SELECT count(*) FROM manifests") == 0


@pytest.mark.parametrize("mode", ["deletes off", "read-only"])
async def test_what_takes_no_delete_is_no_cache_for_that(tmp_path, version, mode):
    storage = (
        {"delete": {"enabled": False}}
        if mode == "deletes off"
        else {"maintenance": {"readonly": {"enabled": True}}}
    )
    with registry_configured(tmp_path, version, storage=storage) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            assert not await client.is_pull_through_cache("registry-quota/doctor")
    assert files(tmp_path / "storage") == []
