"""A consumer process that is frozen past its session, in the middle of a batch, corrupts nothing."""

import os
import signal
import uuid
from contextlib import AsyncExitStack

import pytest

from ledger.verify import verify
from runtime.kafka import create_topics
from tests.support import ledgers
from tests.support.consumers import caught_up, event, publish, settings_for
from tests.support.programs import Program, running
from tests.support.waiting import wait_until

EACH = 5100
"""Bytes of one event's image."""


async def owner_is(pool, program):
    owners = await pool.fetch("SELECT DISTINCT owner FROM consumer_offsets")
    return len(owners) == 1 and owners[0]["owner"].endswith(f"/{program.pid}")


async def usage(pool, workspace):
    return (await ledgers.usage(pool)).get(workspace, 0)


@pytest.mark.promise("stale-owner")
async def test_a_consumer_frozen_in_the_middle_of_a_batch_wakes_up_to_find_it_refused(
    pool, database_url, kafka_bootstrap, tmp_path, promise
):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    workspace = f"f{uuid.uuid4().hex[:8]}"
    environment = {
        "RQ_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "RQ_KAFKA_GROUP": settings.kafka_group,
        "RQ_DATABASE_URL": database_url,
        "RQ_REGISTRY_URL": "http://127.0.0.1:9",
        "RQ_HOST": "127.0.0.1",
    }

    async def consumer(stack: AsyncExitStack, name: str) -> Program:
        log = tmp_path / name
        return await stack.enter_async_context(running(["serve", "consumer"], environment, log))

    async with AsyncExitStack() as stack:
        first = await consumer(stack, "first")
        await wait_until(lambda: owner_is(pool, first), 40, what="the first owns all partitions")
        (cluster,) = await pool.fetchrow("SELECT DISTINCT cluster_id FROM consumer_offsets")
        await publish(settings, workspace, event(f"{workspace}/app"))
        await caught_up(settings, pool, cluster=cluster)

        # Its next batch waits for a lock of ours, and is frozen before it gets it.
        again = event(f"{workspace}/app")
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT FROM workspaces WHERE name = $1 FOR UPDATE", workspace)
            await publish(settings, workspace, again)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

            async def blocked():
                return await pool.fetchval(waiting) > 0

            await wait_until(blocked, 20, what="the batch waits")
            os.kill(first.pid, signal.SIGSTOP)
        try:
            second = await consumer(stack, "second")
            await publish(settings, workspace, again, event(f"{workspace}/app"))
            await wait_until(lambda: owner_is(pool, second), 40, what="the second takes over")
            # The frozen one's transaction holds the workspace until Postgres ends it.
            await caught_up(settings, pool, cluster=cluster)
            assert await usage(pool, workspace) == 3 * EACH
        finally:
            os.kill(first.pid, signal.SIGCONT)
        await publish(settings, workspace, event(f"{workspace}/app"), again)
        await caught_up(settings, pool, cluster=cluster)

        async def back():
            owners = await pool.fetch("SELECT DISTINCT owner FROM consumer_offsets")
            return len(owners) == 2

        await wait_until(back, 30, what="the woken one shares the partitions again")
        await publish(settings, workspace, event(f"{workspace}/app"))
        await caught_up(settings, pool, cluster=cluster)
        stale = await usage(pool, workspace) - 5 * EACH
        promise.count("frozen past its session in the middle of a batch", 1)
        promise.count("stale effects", abs(stale), "bytes")
        assert stale == 0
        async with pool.acquire() as connection:
            assert all([item.exact async for item in verify(connection)])
        assert "Traceback" not in first.log(), "it rejoined instead of falling over"
