"""Reconciliation with real registries of both versions, as they are configured in the field."""

import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from cli.doctor import registry
from ledger.facts import ManifestPushed
from quota.cleanup import Cleaner
from quota.metrics import QuotaMetrics
from quota.reconcile import Reconciler, Report
from quota.snapshot import Incoming
from registry.client import RegistryClient
from registry.errors import PerhapsACache, PullThroughCache, RegistryError
from registry.push import build_image, build_index, build_layer, push_image, push_index
from registry.transport import Retries
from registry.workspaces import WorkspaceRule
from runtime.postgres import Pool
from runtime.settings import Settings
from tests.integration.quota.conftest import service_of
from tests.support import ledgers
from tests.support.certificates import Authority
from tests.support.registries import answering, registry_configured
from tests.support.registry_proxy import in_front_of

pytestmark = pytest.mark.parametrize("version", ["2", "3"])


async def reconcile(
    pool: Pool,
    client: RegistryClient,
    *,
    pull_through: bool | None = None,
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
                for known in (False, None, True):
                    with pytest.raises(PullThroughCache, match="RQ_REGISTRY_PULL_THROUGH"):
                        await reconcile(pool, client, pull_through=known)
                # Something is cached: what it lists now are the upstream's tags.
                await client.get_manifest("acme/app", "1")
                held = files(tmp_path / "cache" / "storage")
                with pytest.raises(PullThroughCache):
                    await reconcile(pool, client)
                assert files(tmp_path / "cache" / "storage") == held
    assert await pool.fetchval("SELECT count(*) FROM manifests") == 0


@pytest_asyncio.fixture
async def cache(tmp_path, version):
    """A pull-through cache into which nothing is downloaded yet, and its upstream."""
    with registry_configured(tmp_path / "upstream", version) as upstream:
        await answering(upstream)  # a cache does not start without
        proxy = {"remoteurl": upstream}
        with registry_configured(tmp_path / "cache", version, proxy=proxy) as url:
            await answering(url)
            yield Cache(upstream, url, tmp_path / "cache" / "storage")


@dataclass
class Cache:
    upstream: str
    url: str
    storage: Path

    async def filled(self, pool: Pool) -> None:
        """Three images of 300 kB at the upstream, and the ledger heard of them: two have to go."""
        async with RegistryClient(self.upstream) as client:
            service = service_of(pool, client)
            for number in range(3):
                await service.push("acme/app", f"1.{number}", 300_000)
            await service.configure(
                "acme", 600_000, keep_newest=1, keep_at_least=1, max_ratio_per_run=1
            )


@pytest.mark.parametrize(
    ("forbids", "detected"),
    [(("DELETE",), True), (("PUT",), False), (("DELETE", "PUT"), False)],
)
async def test_without_the_rights_to_tell_a_cache_none_is_walked_through(
    pool, cache, forbids, detected
):
    """An account that may push alone can tell; one that may do nothing ends the pass by itself."""
    async with RegistryClient(cache.upstream) as client:
        await push_image(client, "acme/app", build_image([build_layer("1", 3000)]), "1")
    async with RegistryClient(cache.url) as client:
        await client.get_manifest(
            "acme/app", "1"
        )  # what it lists from now on are the upstream's tags
    held = files(cache.storage)
    async with (
        in_front_of(cache.url, forbids=forbids) as proxy,
        RegistryClient(proxy.url) as client,
    ):
        with pytest.raises(PullThroughCache) as ended:
            await reconcile(pool, client)
        assert isinstance(ended.value, PerhapsACache) != detected
        findings = await registry.check(Settings(registry_url=proxy.url))
        assert {one.check: one.state for one in findings}["cache"] == "warning"
    assert files(cache.storage) == held


async def test_who_may_only_read_a_registry_reconciles_it_once_a_push_was_heard(
    pool, tmp_path, version
):
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with (
            in_front_of(url, forbids=("DELETE", "PUT")) as proxy,
            RegistryClient(proxy.url) as reading,
            RegistryClient(url) as client,
        ):
            await push_image(client, "acme/app", build_image([build_layer("1", 300)]), "1")
            with pytest.raises(PerhapsACache, match="RQ_REGISTRY_PULL_THROUGH to false"):
                await reconcile(pool, reading)
            assert (await reconcile(pool, reading, pull_through=False)).drift[0].found == 1
            with pytest.raises(PerhapsACache):
                await reconcile(pool, reading)  # what a pass found proves nothing
            await service_of(pool, client).push("acme/app", "2", 300)
            assert (await reconcile(pool, reading)).equal


@pytest.mark.parametrize(
    ("forbids", "code"),
    [((), "pull_through_cache"), (("DELETE", "PUT"), "registry_denied")],
)
async def test_a_cleanup_of_a_cache_is_refused_before_anything_is_downloaded(
    pool, cache, forbids, code
):
    await cache.filled(pool)
    held = files(cache.storage)
    async with (
        in_front_of(cache.url, forbids=forbids) as proxy,
        RegistryClient(proxy.url) as client,
    ):
        service = service_of(pool, client)
        for dry_run in (True, False):
            answer = await service.ask("acme", dry_run=dry_run)
            assert code in answer.warnings
            assert not answer.outcome.images
        planned = await service.cleaner.plan_asked("acme", Incoming(), seconds=10)
        assert planned is not None
        if code == "pull_through_cache":
            assert [block.code for block in planned[1].blocks] == [code]
            assert planned[1].units == ()
            assert planned[2] == []
    assert files(cache.storage) == held
    assert await ledgers.usage(pool) != {}


@pytest.mark.parametrize("known", [True, False])
async def test_a_cache_that_is_known_is_not_even_asked(pool, cache, known):
    """That it is none is asked all the same."""
    await cache.filled(pool)
    async with in_front_of(cache.url) as proxy, RegistryClient(proxy.url) as client:
        cleaner = Cleaner(
            pool=pool,
            recorder=ledgers.recorder(pool),
            client=client,
            clock=lambda: datetime.now(UTC),
            owner="test",
            metrics=QuotaMetrics(),
            pull_through=known,
        )
        task, _outcome, _begun = cleaner.start("acme", Incoming(), cause="test")
        outcome = await task
        assert (outcome.warnings, outcome.images) == (["pull_through_cache"], [])
        if known:
            plan = await cleaner.plan("acme", Incoming())
            assert plan is not None
            assert [block.code for block in plan[1].blocks] == ["pull_through_cache"]
        methods = [method for method, _path in proxy.asked]
        assert methods == ([] if known else ["DELETE", "PUT"])


async def test_blobs_elsewhere_are_told_of_images_that_were_heard_of(pool, tmp_path, version):
    """Their age is known; whether those that stay can be pulled is not, so nothing is cleaned."""
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with in_front_of(url, stores_at="localhost") as proxy:
            async with RegistryClient(url) as client:
                for number in range(4):
                    await service_of(pool, client).push("acme/app", f"1.{number}", 3000)
            async with RegistryClient(proxy.url) as client:
                service = service_of(pool, client)
                await service.configure("acme", 9000, keep_newest=1, keep_at_least=1)
                report = await reconcile(pool, client)
                assert not report.equal
                assert "RQ_REGISTRY_REDIRECT_HOSTS" in report.problems[0]
                assert "blobs_elsewhere" in await warnings_of_a_plan(pool, client, "acme")
                answer = await service.ask("acme")
                assert "blobs_elsewhere" in answer.warnings
                assert answer.outcome.images == []


async def test_what_was_not_read_yet_equals_nothing(pool, tmp_path, version):
    """Its event told no references, and the consumer has not come to it: its layers count nothing yet."""
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            image = build_image([build_layer("1", 3000)])
            await push_image(client, "acme/app", image, "1")
            told = image.manifest
            unread = ManifestPushed(
                "default",
                "acme/app",
                image.digest,
                (time.time_ns(), uuid.uuid4().bytes),
                told.media_type,
                len(told.content),
                "1",
                None,
            )
            await ledgers.recorder(pool).record([unread], now=datetime.now(UTC))
            report = await reconcile(pool, client)
    assert (report.drift, report.problems, report.equal) == ([], [], False)
    assert "acme: the layers of 1 manifest" in report.doubted[0]


@pytest.mark.parametrize(
    ("realm", "mend"),
    [
        ("/docker/token", "auth.token.realm"),
        ("https://elsewhere.example/token", "RQ_REGISTRY_TOKEN_HOSTS"),
    ],
)
async def test_for_a_wrong_realm_nobody_is_told_to_correct_the_password(
    tmp_path, version, realm, mend
):
    certificate = Authority(tmp_path).issue().certificate
    token = {"realm": realm, "service": "s", "issuer": "i", "rootcertbundle": str(certificate)}
    with registry_configured(tmp_path, version, auth={"token": token}) as url:
        await answering(url)
        settings = Settings(registry_url=url, registry_username="me", registry_password="pw")
        (finding,) = await registry.check(settings)
    assert (finding.check, finding.state) == ("registry", "failed")
    assert mend in finding.mend
    assert "RQ_REGISTRY_PASSWORD" not in finding.mend


async def test_a_damaged_tag_is_told_with_what_mends_it(pool, tmp_path, version):
    """An empty link is answered 500, one to nothing 404."""
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        retries = Retries(attempts=1)
        async with RegistryClient(url, retries=retries) as client:
            for tag in ("empty", "nothing", "whole"):
                await push_image(client, "acme/app", build_image([build_layer(tag, 300)]), tag)
            tags = tmp_path / "storage/docker/registry/v2/repositories/acme/app/_manifests/tags"
            (tags / "empty/current/link").write_text("")
            (tags / "nothing/current/link").write_text(f"sha256:{'1' * 64}")
            report = await reconcile(pool, client)
    assert [one.found for one in report.drift] == [1]
    (problem,), (doubt,) = report.problems, report.doubted
    assert (problem.startswith("acme/app:empty"), doubt.startswith("acme/app:nothing")) == (
        True,
        True,
    )
    assert problem.endswith("mends it")
    assert doubt.endswith("mends it")


async def test_doctor_finds_where_blobs_are_behind_what_is_damaged(tmp_path, version):
    """The first repository is empty, the second has a tag that names nothing."""
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            for name in ("a/emptied", "b/damaged", "c/whole"):
                image = build_image([build_layer(name, 300)])
                await push_image(client, name, image, "1")
                if name == "a/emptied":
                    await client.delete_manifest(name, image.digest)
        links = tmp_path / "storage/docker/registry/v2/repositories/b/damaged/_manifests/tags"
        (links / "1/current/link").write_text(f"sha256:{'1' * 64}")
        for stores_at, state in (("", "ok"), ("localhost", "failed")):
            async with in_front_of(url, stores_at=stores_at) as proxy:
                findings = await registry.check(Settings(registry_url=proxy.url))
            assert {one.check: one.state for one in findings}["blobs"] == state


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
