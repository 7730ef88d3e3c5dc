"""The status tells the truth: what waits, since when, and whether the counters are right."""

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from pydantic import SecretStr

from ledger import handled
from quota import registry_watch
from quota.pipeline import Pipeline
from runtime.kafka import DEAD_LETTER_TOPIC, cluster_id, create_topics
from runtime.producers import open_producer
from runtime.settings import Settings
from tests.support.consumers import caught_up, consuming, event, publish, settings_for
from tests.support.registries import answering, running_registry


def now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def pipeline_on(settings, pool):
    pipeline = Pipeline(settings, pool, clock=now)
    try:
        yield pipeline
    finally:
        await pipeline.close()


async def test_lag_is_what_is_not_recorded_and_how_long_it_has_waited(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    cluster = await cluster_id(settings)
    workspace = f"w{uuid.uuid4().hex[:8]}"
    async with pipeline_on(settings, pool) as pipeline:
        async with consuming(settings, pool, cluster=cluster):
            await caught_up(settings, pool, cluster=cluster)
        flow = await pipeline.flow()
        assert (flow.kafka_reachable, flow.lag_events, flow.lag_seconds) == (True, 0, 0.0)

        began = time.time()
        await publish(settings, workspace, *(event(f"{workspace}/{n}") for n in range(3)))
        flow = await pipeline.flow()
        assert flow.lag_events == 3
        assert flow.lag_seconds is not None
        assert 0 <= flow.lag_seconds <= time.time() - began + 0.001
        again = await pipeline.flow()
        assert again.lag_seconds is not None
        assert again.lag_seconds > flow.lag_seconds

        async with consuming(settings, pool, cluster=cluster):
            await caught_up(settings, pool, cluster=cluster)
        flow = await pipeline.flow()
        assert (flow.lag_events, flow.lag_seconds) == (0, 0.0)


async def test_another_clusters_positions_are_no_progress_here(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    await publish(settings, "any", event(f"w{uuid.uuid4().hex[:8]}/api"))
    async with consuming(settings, pool, cluster="another"):
        await caught_up(settings, pool, cluster="another")
    async with pipeline_on(settings, pool) as pipeline:
        flow = await pipeline.flow()
    assert flow.lag_events
    assert flow.lag_events > 0


async def test_dead_letters_are_those_that_nobody_has_dealt_with(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    async with pipeline_on(settings, pool) as pipeline:
        before = (await pipeline.flow()).dead_letters
        producer = await open_producer(settings)
        try:
            sent = await producer.send_and_wait(DEAD_LETTER_TOPIC, value=b"x")
        finally:
            await producer.stop()
        assert (await pipeline.flow()).dead_letters == before + 1
        async with pool.acquire() as connection:
            place = (sent.partition, sent.offset)
            cluster = await cluster_id(settings)
            await handled.mark(connection, "another cluster", [place], "dropped", now=now())
            assert (await pipeline.flow()).dead_letters == before + 1
            for outcome in ("dropped", "retried"):
                await handled.mark(connection, cluster, [place], outcome, now=now())
                assert (await pipeline.flow()).dead_letters == before


async def test_without_kafka_the_status_comes_in_time_and_says_so(pool):
    async with pipeline_on(Settings(kafka_bootstrap="127.0.0.1:1"), pool) as pipeline:
        began = time.monotonic()
        status = await pipeline.status()
        assert time.monotonic() - began < 5
    assert status["kafka_reachable"] is False
    assert (status["lag_events"], status["dead_letters"]) == (None, None)
    assert (status["drift"]["drift_bytes"], status["outbox_waiting"]) == (0, 0)


async def test_a_registry_that_refuses_us_or_is_away_is_a_broken_part_and_back_by_itself(
    pool, kafka_bootstrap, tmp_path, monkeypatch
):
    monkeypatch.setattr(registry_watch, "_FRESH", 0.0)
    password = SecretStr("throw-away")

    async def part(settings):
        async with pipeline_on(settings, pool) as pipeline:
            status = await pipeline.status()
        [found] = [item for item in status["checks"] if item["name"] == "registry"]
        return found

    with running_registry(tmp_path, htpasswd=True) as url:
        await answering(url)
        kafka = {"kafka_bootstrap": kafka_bootstrap}
        known = Settings(
            registry_url=url, registry_username="tester", registry_password=password, **kafka
        )
        assert (await part(known))["state"] == "ok"
        refused = await part(Settings(registry_url=url, **kafka))
        assert refused["state"] == "failed"
        assert "refuses us" in refused["found"]
        assert "RQ_REGISTRY_USERNAME" in refused["mend"]
    away = await part(known)
    assert away["state"] == "failed"
    assert "does not answer" in away["found"]


async def test_a_registry_that_hangs_holds_the_status_up_for_two_seconds_and_is_asked_once():
    asked = 0

    async def hang(_reader, writer):
        nonlocal asked
        asked += 1
        await asyncio.sleep(30)
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    watch = registry_watch.RegistryWatch(Settings(registry_url=f"http://127.0.0.1:{port}"))
    try:
        began = time.monotonic()
        found = await asyncio.gather(*(watch.look() for _ in range(20)))
        assert time.monotonic() - began < 5
        assert {item.state for item in found} == {"down"}
        assert asked == 1
    finally:
        await watch.close()
        server.close()
