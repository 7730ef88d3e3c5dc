"""Each process with a database user of its own, made as docs/security.md says: it does its work, and no more."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from ledger import outbox
from ledger.roles import ROLES
from ledger.verify import verify
from migrations.state import schema_state
from migrations.upgrade import upgrade
from runtime.kafka import create_topics
from runtime.postgres import Pool, open_pool
from tests.support import consumers
from tests.support.database import empty_database
from tests.support.live_api import live_api
from tests.support.pages import block

DIGEST = "sha256:" + "a" * 64


@dataclass
class Users:
    """A database that the migrations' user owns, and the URLs of the others."""

    url: str

    def of(self, name: str) -> str:
        parts = urlsplit(self.url)
        password = dict(re.findall(r"CREATE ROLE (\w+) LOGIN PASSWORD '([^']+)'", statements()))
        return parts._replace(
            netloc=f"{name}:{password[name]}@{parts.netloc.split('@')[1]}"
        ).geturl()

    @asynccontextmanager
    async def pool(self, name: str) -> AsyncIterator[Pool]:
        pool = await open_pool(self.of(name), size=4, name="test")
        try:
            yield pool
        finally:
            await pool.close()


def statements() -> str:
    """What the page tells to run once."""
    return block("docs/security.md", "roles")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def users(postgres_url: str) -> AsyncIterator[Users]:
    made = re.findall(r"CREATE ROLE (\w+)", statements())
    admin = await asyncpg.connect(postgres_url)
    try:
        async with empty_database(postgres_url) as url:
            name = urlsplit(url).path.lstrip("/")
            await admin.execute(
                statements()
                .replace("registry_quota;", f"{name};")
                .replace("DATABASE registry_quota ", f"DATABASE {name} ")
            )
            users = Users(url)
            assert await upgrade(users.of("rq_migrate")) == list(ROLES)
            yield users
    finally:
        for role in reversed(made):
            await admin.execute(f"DROP ROLE IF EXISTS {role}")
        await admin.close()


async def test_the_consumer_records_what_arrives(users, kafka_bootstrap):
    settings = consumers.settings_for(kafka_bootstrap)
    await create_topics(settings)
    async with users.pool("rq_consumer") as pool, consumers.consuming(settings, pool):
        event = consumers.event("roles/app")
        # A second set of the tag within seconds is to be settled, a reservation to be used up.
        await consumers.publish(settings, "roles", event, consumers.event("roles/app"))
        await consumers.caught_up(settings, pool)
        assert await consumers.usage(pool, "roles")


async def test_the_api_does_everything_that_it_offers(users):
    async with users.pool("rq_api") as pool, live_api(pool) as api:
        workspace = "/v1/workspaces/acme"
        record = {"workspace": "acme", "app": "api", "tag": "1", "digest": DIGEST, "sizeBytes": 9}
        for method, path, body, expected in (
            ("PUT", workspace, {"quota_bytes": 1000}, 200),
            ("POST", "/api/internal/registry-images", record, 201),
            ("POST", f"{workspace}/reservations", {"build_id": "b", "bytes": 5}, 201),
            ("DELETE", f"{workspace}/reservations/b", None, 204),
            ("POST", "/v1/hooks/pre-build", {"workspace": "acme", "build_id": "b"}, 200),
            ("POST", f"{workspace}/leases", {"source": "k8s", "digests": [DIGEST]}, 201),
            ("DELETE", f"{workspace}/leases/k8s", None, 204),
            ("POST", f"{workspace}/cleanup-plans", {}, 200),
            ("POST", f"{workspace}/cleanups", {}, 200),
            ("GET", f"{workspace}/usage", None, 200),
            ("GET", f"{workspace}/images", None, 200),
            ("GET", f"{workspace}/events", None, 200),
            ("GET", f"{workspace}/history", None, 200),
            ("PUT", "/v1/repositories/default/acme/api", {"workspace": "beta"}, 200),
            ("POST", "/v1/gc/verifications", {}, 202),
        ):
            status, answer = await api.call(method, path, body)
            assert status == expected, (path, answer)
        token = await api.token("read", workspaces=["acme"])
        assert (await api.call("GET", f"{workspace}/usage", token=token))[0] == 200
        async with pool.acquire() as connection:
            assert all([item.exact async for item in verify(connection, None)])
            assert await outbox.try_lead(connection)
            waiting = await outbox.unpublished(connection, 100)
            await outbox.mark_published(connection, [row.id for row in waiting], datetime.now(UTC))
        assert waiting


async def test_a_report_reads_the_account_and_the_audit(users):
    async with users.pool("rq_report") as pool:
        for table in ("workspaces", "manifests", "cleanup_items", "outbox", "usage_history"):
            await pool.fetch(f"SELECT * FROM {table}")
        for query in block("docs/security.md", "reports").strip().removesuffix(";").split(";"):
            await pool.fetch(query)
        state = await schema_state(users.of("rq_report"))
        assert state.current == state.newest


@pytest.mark.parametrize(
    ("user", "statement"),
    [
        ("rq_consumer", "SELECT * FROM api_tokens"),
        ("rq_consumer", "UPDATE cleanup_runs SET state = 'stopped'"),
        ("rq_consumer", "DELETE FROM workspaces"),
        ("rq_consumer", "UPDATE outbox SET published_at = now()"),
        ("rq_api", "UPDATE consumer_offsets SET next_offset = 0"),
        ("rq_api", "INSERT INTO consumer_offsets VALUES ('c', 't', 0, 1, 1, 'o')"),
        ("rq_api", "DELETE FROM observations"),
        ("rq_api", "UPDATE observations SET fact = '{}'"),
        ("rq_api", "DELETE FROM cleanup_items"),
        ("rq_report", "SELECT secret_hash FROM api_tokens"),
        ("rq_report", "SELECT * FROM api_tokens"),
        ("rq_report", "UPDATE workspaces SET quota_bytes = 1"),
        ("rq_report", "INSERT INTO leases VALUES (1, 's', '[]', now(), now())"),
        *(
            (user, statement)
            for user in ("rq_consumer", "rq_api", "rq_report")
            for statement in (
                "CREATE TABLE mine (id int)",
                "CREATE SCHEMA mine",
                "CREATE TEMPORARY TABLE mine (id int)",
                "ALTER TABLE workspaces DROP COLUMN level",
                "DROP TABLE workspaces",
                "TRUNCATE outbox",
                "UPDATE alembic_version SET version_num = 'x'",
                "CREATE ROLE mine",
                "COPY workspaces TO PROGRAM 'cat'",
                "SET ROLE rq_migrate",
            )
        ),
    ],
)
async def test_nobody_does_what_is_not_theirs(users, user, statement):
    connection = await asyncpg.connect(users.of(user))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_later_migration_gives_the_same_rights_again_and_takes_others(users):
    owner = await asyncpg.connect(users.of("rq_migrate"))
    try:
        await owner.execute("GRANT DELETE ON api_tokens TO registry_quota_consumer")
        assert await upgrade(users.of("rq_migrate")) == list(ROLES)
        assert not await owner.fetchval(
            "SELECT has_table_privilege('registry_quota_consumer', 'api_tokens', 'DELETE')"
        )
    finally:
        await owner.close()


async def test_a_database_without_the_roles_is_migrated_as_ever(postgres_url):
    async with empty_database(postgres_url) as url:
        assert set(await upgrade(url)) <= set(ROLES)


async def test_rights_are_given_by_the_owner_alone(users):
    assert await upgrade(users.of("rq_api")) == []
