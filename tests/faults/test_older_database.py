"""An older backup of the database, and a newer log: what only the database knew is gone.

What the log holds is recorded once. Nothing is deleted before a person has looked: the leases, rules
and mappings that protected it since the backup are not known any more.
"""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import msgspec
import pytest

from devstack.processes import run_tool
from ledger.leases import put_lease
from ledger.offsets import broken_after
from migrations.upgrade import upgrade
from quota import health
from quota.events import DATA
from quota.reconcile import Reconciler
from registry.client import RegistryClient
from registry.names import format_digest
from registry.push import Image, push_image
from registry.workspaces import WorkspaceRule
from runtime.kafka import cluster_id, create_topics
from runtime.postgres import Pool, open_pool
from runtime.settings import Settings
from tests.integration.quota.conftest import Service, service_of
from tests.support import ledgers, pipelines
from tests.support.cleanups import IMAGES, QUOTA, utc_now
from tests.support.consumers import caught_up, consuming, event, publish, settings_for
from tests.support.database import empty_database
from tests.support.postgres_tools import postgres_tools
from tests.support.promises import Promise
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("older-database")

ROOMY = 10 * QUOTA
TIGHT = 450_000
"""Fewer than all images."""


class World:
    """A workspace whose images are in a real registry and told in the log."""

    def __init__(self, settings: Settings, cluster: str, client: RegistryClient) -> None:
        self.settings = settings
        self.cluster = cluster
        self.client = client
        self.name = f"w{uuid.uuid4().hex[:8]}"
        self.repository = f"{self.name}/web"

    async def push(self, *numbers: int) -> None:
        for number in numbers:
            image, tag = IMAGES[number], f"1.{number}"
            await push_image(self.client, self.repository, image, tag)
            await publish(self.settings, self.repository, self._told(image, tag))

    def _told(self, image: Image, tag: str) -> dict[str, object]:
        document = json.loads(image.manifest.content)
        told = event(self.repository, tag=tag)
        told["target"] |= {
            "mediaType": image.manifest.media_type,
            "digest": format_digest(image.digest),
            "size": len(image.manifest.content),
            "references": [document["config"], *document["layers"]],
        }
        return told

    async def tell_deleted(self, *digests: str) -> None:
        for digest in digests:
            gone = event(self.repository, action="delete")
            gone["target"] = {"digest": digest, "repository": self.repository}
            await publish(self.settings, self.repository, gone)

    @asynccontextmanager
    async def consuming(self, pool: Pool) -> AsyncIterator[None]:
        """A consumer that has caught up, and does so once more at the end."""
        async with consuming(self.settings, pool, cluster=self.cluster):
            await caught_up(self.settings, pool, cluster=self.cluster)
            yield
            await caught_up(self.settings, pool, cluster=self.cluster)

    async def lease(self, pool: Pool, image: Image) -> None:
        now = utc_now()
        async with pool.acquire() as connection:
            workspace = await connection.fetchval(
                "SELECT id FROM workspaces WHERE name = $1", self.name
            )
            await put_lease(
                connection,
                workspace,
                "production",
                [image.digest],
                now=now,
                expires_at=now + timedelta(days=1),
            )

    async def there(self) -> set[bytes]:
        """Images that the registry has."""
        return {
            image.digest
            for image in IMAGES
            if (await self.client.head_manifest(self.repository, image.digest)).exists
        }

    async def known(self, pool: Pool) -> set[bytes]:
        """Images that the ledger has."""
        return {d for name, d in await ledgers.manifests(pool) if name == self.repository}

    def reconciler(self, pool: Pool) -> Reconciler:
        return Reconciler(
            pool=pool,
            recorder=ledgers.recorder(pool),
            client=self.client,
            rule=WorkspaceRule(ledgers.PATTERN),
            clock=utc_now,
            in_flight=0.0,
            pull_through=False,
        )


@asynccontextmanager
async def put_back(url: str, backup: Path) -> AsyncIterator[Pool]:
    """A dump, in a database of its own."""
    tools = await tools_of(url)
    await run_tool(
        [tools / "pg_restore", "--exit-on-error", "--no-owner", f"--dbname={url}", backup],
        what="pg_restore",
    )
    await upgrade(url)
    pool = await open_pool(url, size=6, name="restored")
    try:
        yield pool
    finally:
        await pool.close()


async def tools_of(url: str) -> Path:
    connection = await asyncpg.connect(url)
    try:
        return postgres_tools(connection.get_server_version().major)
    finally:
        await connection.close()


async def the_break(pool: Pool) -> None:
    """It is kept, announced, in the status, and makes a reconciliation due."""
    kinds = {row["kind"] for row in await pool.fetch("SELECT kind FROM log_breaks")}
    assert kinds == {"older_database"}
    [row] = await pool.fetch("SELECT * FROM outbox WHERE type LIKE '%log.broken.v1'")
    DATA[row["type"]].model_validate(msgspec.json.decode(row["data"]))
    async with pool.acquire() as connection:
        assert await broken_after(connection, 0) is not None


async def test_after_an_older_backup_nothing_goes_on_doubt_and_the_rest_comes_right(
    pool, database_url, postgres_url, kafka_bootstrap, backend, tmp_path, promise: Promise
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    async with (
        backend.registry("any", notification_url="http://127.0.0.1:9/none", token="t") as at,
        RegistryClient(at.url) as client,
    ):
        world = World(settings, await cluster_id(settings), client)
        service: Service = service_of(pool, client)
        await service.configure(world.name, ROOMY)
        async with world.consuming(pool):
            await world.push(0, 1, 2)
        backup = tmp_path / "backup"
        dump = ["--format=custom", "--no-owner", f"--file={backup}", database_url]
        await run_tool([await tools_of(database_url) / "pg_dump", *dump], what="pg_dump")

        # Since then: a lease, a push, and a cleanup, which the registry's events tell of.
        async with world.consuming(pool):
            await world.lease(pool, IMAGES[0])
            await world.push(3)
        await service.configure(
            world.name, TIGHT, keep_newest=1, keep_at_least=1, max_ratio_per_run=1
        )
        answer = await service.ask(world.name, timeout_s=20.0)
        went = [image.digest for image in answer.outcome.images]
        assert went
        assert IMAGES[0].digest in await world.there()
        async with world.consuming(pool):
            await world.tell_deleted(*went)

        async with empty_database(postgres_url) as url, put_back(url, backup) as restored:
            assert await world.known(restored) == {image.digest for image in IMAGES[:3]}
            service = service_of(restored, client)
            async with world.consuming(restored):
                pass
            # What the log holds is right again, once.
            assert await world.known(restored) == await world.there()
            assert await ledgers.usage(restored) == await ledgers.recount(restored)
            await the_break(restored)

            # The lease is not known any more, and rules may be others: nothing goes, and no build stops.
            await service.configure(
                world.name, TIGHT // 2, keep_newest=1, keep_at_least=1, max_ratio_per_run=1
            )
            before = await world.there()
            answer = await service.ask(world.name, timeout_s=20.0)
            assert answer.verdict.decision == "proceed"
            assert "database_older" in answer.outcome.warnings
            assert await world.there() == before
            promise.count("deleted before a person looked", len(before - await world.there()))

            # A person has looked.
            await world.lease(restored, IMAGES[0])
            reconciler = world.reconciler(restored)
            report = await reconciler.run()
            assert report is not None
            await restored.execute("UPDATE log_breaks SET end_offset = end_offset + 5")
            assert await reconciler.confirm_restored(report) > 0
            assert await reconciler.restored()
            await restored.execute("UPDATE log_breaks SET end_offset = end_offset - 5")
            assert await reconciler.confirm_restored(report) == 0
            assert not await reconciler.restored()
            answer = await service.ask(world.name, timeout_s=20.0)
            assert "database_older" not in answer.outcome.warnings
            assert await world.there() == before, "it is in use"
            await restored.execute("DELETE FROM leases")
            await service.ask(world.name, timeout_s=20.0)
            assert before - await world.there() == {IMAGES[0].digest}
            assert await world.known(restored) == await world.there()


async def test_a_database_put_back_under_a_consumer_that_reads_is_noticed(
    pool, kafka_bootstrap, monkeypatch, promise: Promise
):
    monkeypatch.setattr("consumer.loop.EVERY_SECONDS", 0.5)
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    name = f"w{uuid.uuid4().hex[:8]}"
    cluster = await cluster_id(settings)
    async with consuming(settings, pool, cluster=cluster):
        await publish(settings, name, *[event(f"{name}/app", tag=str(n)) for n in range(5)])
        await caught_up(settings, pool, cluster=cluster)
        usage = await ledgers.usage(pool)
        # As if it were the one of a moment ago.
        await pool.execute(
            "TRUNCATE workspaces, repositories, workspace_digests, stored_blobs RESTART IDENTITY CASCADE"
        )
        # Numbers of repositories are given out again, to others.
        elsewhere = service_of(pool, RegistryClient("http://127.0.0.1:9"))
        document = IMAGES[0].manifest
        for number in range(3):
            await elsewhere.tell(f"o{name}/{number}", "1", document.content, document.media_type)
        others = await ledgers.usage(pool)
        await pool.execute(
            "UPDATE consumer_offsets SET next_offset = next_offset - 5, head_offset = NULL,"
            " anchor_offset = NULL WHERE next_offset >= 5"
        )

        async def noticed() -> bool:
            return bool(await pool.fetchval("SELECT count(*) FROM log_breaks"))

        await wait_until(noticed, 20, what="the older database is noticed")
        await caught_up(settings, pool, cluster=cluster)
    assert (await ledgers.usage(pool))[name] == usage[name]
    assert (await ledgers.usage(pool))[f"o{name}"] == others[f"o{name}"]
    assert await ledgers.usage(pool) == await ledgers.recount(pool)
    await the_break(pool)
    promise.count("databases put back while a consumer read", 1)


def test_the_status_says_that_the_database_is_older_than_the_log():
    checks = health.judge(pipelines.status(log__restored_at=pipelines.NOW), now=pipelines.NOW)
    [told] = [check for check in checks if check.name == "log"]
    assert told.state == "failed"
    assert "older backup" in told.found
    assert "--confirm-restored" in told.mend
