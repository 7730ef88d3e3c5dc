"""The gauges of the whole pipeline say what Kafka and Postgres hold, however many workspaces there are."""

import math
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from quota.pipeline import Pipeline
from quota.watch import Watch, WatchMetrics
from runtime.kafka import create_topics
from runtime.lifecycle import Stopping
from runtime.settings import Settings
from tests.support.consumers import settings_for


def now() -> datetime:
    return datetime.now(UTC)


async def looked(settings: Settings, pool, *, most: int = 50) -> CollectorRegistry:
    registry = CollectorRegistry()
    pipeline = Pipeline(settings, pool, clock=now)
    watch = Watch(
        pipeline,
        pool,
        metrics=WatchMetrics(registry),
        most_workspaces=most,
        stopping=Stopping(),
        clock=now,
    )
    try:
        await watch.look()
    finally:
        await pipeline.close()
    return registry


def labels_of(registry: CollectorRegistry, name: str) -> set[str]:
    return {
        sample.labels["workspace"]
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


async def test_workspaces_show_their_usage_the_fullest_only(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    async with pool.acquire() as connection:
        for name, usage in (("full", 95), ("half", 50), ("empty", 1), ("Ev il\n", 99)):
            await connection.execute(
                "INSERT INTO workspaces (name, quota_bytes, usage_bytes, level, configured)"
                " VALUES ($1, 100, $2, 'ok', true)",
                name,
                usage,
            )
    registry = await looked(settings, pool, most=3)
    value = registry.get_sample_value
    assert value("registry_quota_workspace_usage_bytes", {"workspace": "full"}) == 95
    assert value("registry_quota_workspace_quota_bytes", {"workspace": "full"}) == 100
    # The third is the one whose name is no label; the fourth is not among the fullest.
    assert labels_of(registry, "registry_quota_workspace_usage_bytes") == {"full", "half"}
    assert value("registry_quota_usage_bytes") == 245
    assert value("registry_quota_workspaces", {"level": "ok"}) == 4
    assert value("registry_quota_kafka_reachable") == 1
    assert value("registry_quota_lag_events") is not None
    assert value("registry_quota_outbox_age_seconds") == 0


async def test_whoever_exceeds_the_quota_has_series_and_the_rest_is_counted(pool, kafka_bootstrap):
    settings = settings_for(kafka_bootstrap)
    await create_topics(settings)
    async with pool.acquire() as connection:
        named = [f"over-{number}" for number in range(60)] + ["group/team", "Two Words"]
        for name, usage, level in [(name, 150, "exceeded") for name in named] + [
            ("fine", 10, "ok"),
            # Its level has not fallen yet, although others are fuller.
            ("falling", 97, "exceeded"),
        ]:
            await connection.execute(
                "INSERT INTO workspaces (name, quota_bytes, usage_bytes, level, configured)"
                " VALUES ($1, 100, $2, $3, true)",
                name,
                usage,
                level,
            )
    registry = await looked(settings, pool, most=3)
    value = registry.get_sample_value
    assert labels_of(registry, "registry_quota_workspace_level") == {
        *named,
        "falling",
    } - {"Two Words"}
    assert value("registry_quota_workspace_level", {"workspace": "group/team"}) == 3
    assert value("registry_quota_workspaces_without_series", {"level": "exceeded"}) == 1
    assert value("registry_quota_workspaces_without_series", {"level": "ok"}) == 1
    registry = await looked(settings, pool, most=0)
    assert labels_of(registry, "registry_quota_workspace_level") == set()
    value = registry.get_sample_value
    assert value("registry_quota_workspaces_without_series", {"level": "exceeded"}) == 63


async def test_whether_the_registry_answers_is_a_gauge(pool, backend):
    away = await looked(Settings(registry_url="http://127.0.0.1:1"), pool)
    assert away.get_sample_value("registry_quota_registry_reachable") == 0
    none = await looked(Settings(), pool)
    assert math.isnan(none.get_sample_value("registry_quota_registry_reachable") or 0)
    async with backend.registry("any", notification_url="http://127.0.0.1:9/n", token="t") as up:
        found = await looked(Settings(registry_url=up.url), pool)
        assert found.get_sample_value("registry_quota_registry_reachable") == 1


async def test_what_a_broker_that_is_away_would_know_is_not_known(pool):
    registry = await looked(Settings(kafka_bootstrap="127.0.0.1:1"), pool)
    value = registry.get_sample_value
    assert value("registry_quota_kafka_reachable") == 0
    for name in ("lag_events", "lag_seconds", "dead_letters"):
        assert math.isnan(value(f"registry_quota_{name}") or 0), name
    assert value("registry_quota_sizes_pending") == 0
