"""Two registries by tokens, with the same names and digests: only the configured one is asked or cleaned."""

import uuid
from pathlib import Path

import pytest

from quota.reconcile import Reconciler
from registry.client import RegistryClient
from registry.push import Image, push_image
from registry.workspaces import WorkspaceRule
from runtime.kafka import cluster_id, create_topics
from runtime.postgres import Pool
from tests.integration.quota.conftest import service_of
from tests.support import ledgers
from tests.support.cleanups import IMAGES, utc_now
from tests.support.consumers import begin_at_the_end, caught_up, consuming, settings_for
from tests.support.promises import Promise
from tests.support.receiver_program import receiver_program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("two-registries")


async def known(pool: Pool, repository: str) -> dict[str, set[bytes]]:
    """Registry → digests of existing manifests that the ledger has of a repository."""
    rows = await pool.fetch(
        "SELECT r.registry, m.digest FROM repositories r JOIN manifests m ON m.repository_id = r.id"
        " WHERE m.present AND r.name = $1",
        repository,
    )
    found: dict[str, set[bytes]] = {}
    for row in rows:
        found.setdefault(row["registry"], set()).add(row["digest"])
    return found


async def there(client: RegistryClient, repository: str) -> set[bytes]:
    return {
        image.digest
        for image in IMAGES
        if (await client.head_manifest(repository, image.digest)).exists
    }


def digests(*images: Image) -> set[bytes]:
    return {image.digest for image in images}


async def test_what_another_registry_holds_is_counted_and_never_cleaned_or_reconciled_away(
    pool: Pool, kafka_bootstrap: str, backend, tmp_path: Path, promise: Promise
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    await begin_at_the_end(settings, pool, cluster=await cluster_id(settings))
    name = f"w{uuid.uuid4().hex[:8]}"
    repository, alone = f"{name}/web", f"{name}/elsewhere"
    async with (
        receiver_program(
            tmp_path / "receiver.log",
            bootstrap=kafka_bootstrap,
            kafka=kafka_bootstrap,
            RQ_WEBHOOK_TOKENS="token-of-ours,west=token-of-west",
        ) as receiver,
        backend.registry("any", notification_url=receiver.load.url, token="token-of-ours") as at,
        backend.registry(
            "any", notification_url=receiver.load.url, token="token-of-west"
        ) as at_west,
        RegistryClient(at.url) as ours,
        RegistryClient(at_west.url) as west,
        consuming(settings, pool, cluster=await cluster_id(settings)),
    ):
        # The west has a newer one of the same app, one that is ours as well, and a repository of its own.
        for number, image in enumerate(IMAGES[:3]):
            await push_image(ours, repository, image, f"1.{number}")
        for number in (0, 3):
            await push_image(west, repository, IMAGES[number], f"1.{number}")
        await push_image(west, alone, IMAGES[0], "1")

        elsewhere = digests(IMAGES[0], IMAGES[3])

        async def told() -> bool:
            found = await known(pool, repository)
            return found == {
                "default": digests(*IMAGES[:3]),
                "west": elsewhere,
            } and await known(pool, alone) == {"west": digests(IMAGES[0])}

        await wait_until(told, 15, what="both registries have told of their images")
        await caught_up(settings, pool, cluster=await cluster_id(settings))

        service = service_of(pool, ours)
        await service.configure(name, 100_000, keep_newest=1, keep_at_least=1, max_ratio_per_run=1)
        answer = await service.ask(name, timeout_s=20.0)
        assert "3 manifests in another registry" in (answer.outcome.obstacle or "")
        assert await there(west, repository) == elsewhere
        stays = await there(ours, repository)
        assert IMAGES[1].digest not in stays
        assert IMAGES[2].digest in stays, "the newest of ours"
        assert (await known(pool, repository))["west"] == elsewhere

        reconciler = Reconciler(
            pool=pool,
            recorder=ledgers.recorder(pool),
            client=ours,
            rule=WorkspaceRule(ledgers.PATTERN),
            clock=utc_now,
            in_flight=0.0,
            pull_through=False,
        )
        report = await reconciler.run(confirm_now=True)
        assert report is not None
        assert report.drift == []
        assert (await known(pool, repository))["west"] == elsewhere
        assert await known(pool, alone) == {"west": digests(IMAGES[0])}
        assert await ledgers.usage(pool) == await ledgers.recount(pool)
        promise.count("of another registry deleted or forgotten", 0)
