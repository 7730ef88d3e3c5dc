"""What stalls without an error is noticed, and its process ends with a reason, to be started again."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devstack.ports import free_port
from runtime.kafka import create_topics
from runtime.postgres import Pool
from runtime.settings import Settings
from tests.support.consumers import caught_up, event, publish, settings_for, usage
from tests.support.fake_registry import hangs, serving_fake
from tests.support.programs import Program, running
from tests.support.promises import Promise
from tests.support.waiting import wait_until

STALL = 1.0
"""Seconds that count as stalled here."""


def environment(settings: Settings, database_url: str, **more: str) -> dict[str, str]:
    return {
        "RQ_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "RQ_KAFKA_GROUP": settings.kafka_group,
        "RQ_DATABASE_URL": database_url,
        "RQ_REGISTRY_URL": "http://127.0.0.1:9",
        "RQ_API_TOKEN": "operator",
        "RQ_INTERNAL_API_KEY": "internal",
        "RQ_API_PORT": str(free_port()),
        "RQ_GRPC_PORT": str(free_port()),
        "RQ_RECONCILE_INTERVAL": "0",
        "RQ_STALL_SECONDS": str(STALL),
        **more,
    }


@asynccontextmanager
async def started(
    role: str, variables: dict[str, str], log: Path, ready: Callable[[Program], object]
) -> AsyncIterator[Program]:
    async with running(("serve", role), variables, log) as program:
        await wait_until(lambda: ready(program), 40, what=f"{role} works")
        yield program


async def ends_stalled(program: Program, promise: Promise, part: str, since: float) -> None:
    """It ends by itself, with a reason that names the part."""
    code = await program.wait(30)
    promise.worst(f"{part}: found and ended within", time.monotonic() - since)
    assert code == 1, program.log()[-2000:]
    assert f"{part} stalled" in program.log()


@pytest.mark.promise("watchdog")
async def test_a_stalled_consumer_ends_with_its_reason_and_a_frozen_one_does_not(
    pool: Pool, database_url: str, kafka_bootstrap: str, tmp_path: Path, promise: Promise
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    name = f"w{uuid.uuid4().hex[:8]}"
    variables = environment(settings, database_url)

    async def has_one(_program: Program) -> bool:
        return await usage(pool, name) == 5100

    await publish(settings, name, event(f"{name}/app"))
    async with started("consumer", variables, tmp_path / "log", has_one) as program:
        (cluster,) = await pool.fetchrow("SELECT DISTINCT cluster_id FROM consumer_offsets")
        await caught_up(settings, pool, cluster=cluster)
        os.kill(program.pid, signal.SIGSTOP)
        await publish(settings, name, event(f"{name}/app"))
        await asyncio.sleep(2 * STALL)  # frozen for longer than what counts as stalled
        os.kill(program.pid, signal.SIGCONT)
        await caught_up(settings, pool, cluster=cluster)

        # Its offsets are locked by somebody who does not let go: the batch waits without an error.
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT FROM consumer_offsets FOR UPDATE")
            await publish(settings, name, event(f"{name}/app"))
            await ends_stalled(program, promise, "consumer", time.monotonic())
        program.start()
        await caught_up(settings, pool, cluster=cluster)
        assert await usage(pool, name) == 3 * 5100


@pytest.mark.promise("watchdog")
async def test_a_stalled_relay_ends_with_its_reason_and_its_successor_publishes(
    pool: Pool, database_url: str, kafka_bootstrap: str, tmp_path: Path, promise: Promise
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    variables = environment(settings, database_url)
    add = """INSERT INTO outbox (event_id, workspace_id, workspace, type, data, occurred_at)
             SELECT gen_random_uuid(), 1, 'acme', 'io.registryquota.image.recorded.v1', '{}', now()
             FROM generate_series(1, $1)"""
    unpublished = "SELECT count(*) FROM outbox WHERE published_at IS NULL"

    async def published(_program: Program) -> bool:
        return bool(await pool.fetchval(unpublished) == 0)

    await pool.execute(add, 1)
    async with started("api", variables, tmp_path / "log", published) as program:
        async with pool.acquire() as connection, connection.transaction():
            await pool.execute(add, 4000)
            # In the middle of these: they can be read and sent, and not be marked.
            await connection.execute("LOCK TABLE outbox IN SHARE MODE")
            await ends_stalled(program, promise, "relay", time.monotonic())
        program.start()
        await wait_until(lambda: published(program), 40, what="its successor publishes")


@pytest.mark.promise("watchdog")
async def test_a_stalled_reconciliation_ends_with_its_reason(
    pool: Pool, database_url: str, kafka_bootstrap: str, tmp_path: Path, promise: Promise
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    async with serving_fake() as fake:
        fake.script = [hangs]
        variables = environment(
            settings,
            database_url,
            RQ_REGISTRY_URL=fake.url,
            RQ_RECONCILE_INTERVAL="1",
            RQ_STALL_SECONDS="1",
        )

        def asks(_program: Program) -> bool:
            return bool(fake.requests)

        async with started("api", variables, tmp_path / "log", asks) as program:
            await ends_stalled(program, promise, "reconcile", time.monotonic())
