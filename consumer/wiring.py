"""The consumer process: the only place that constructs its clients."""

import gc
import os
import socket
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web
from aiokafka import AIOKafkaConsumer

from consumer import confirming
from consumer.confirming import SizeConfirmer
from consumer.log_watch import look
from consumer.loop import NotificationConsumer
from consumer.metrics import ConsumerMetrics
from consumer.settling import SettlingWorker
from consumer.sizes import SizeResolver
from consumer.standing import positions, standing
from consumer.translate import agents_like
from ledger.ahead import SECOND_NS
from ledger.clock import utc_now
from ledger.marks import own_marks
from ledger.placing import tell_placing
from ledger.record import Recorder
from quota.levels import level
from registry.connect import registry_client
from registry.marks import OwnMarks
from registry.workspaces import WorkspaceRule
from runtime.http import add_operations_routes, serving
from runtime.kafka import cluster_id, connection_options
from runtime.lifecycle import Stopping, background, run_until_stopped
from runtime.logs import get_logger
from runtime.patience import until_it_answers
from runtime.postgres import close_pool, open_pool
from runtime.producers import discard_producer, open_producer
from runtime.settings import MESSAGE_MAX_BYTES, Settings
from runtime.tls import door_certificate
from runtime.tracing import open_tracing
from runtime.watchdog import Standing, Watchdog

log = get_logger(__name__)


def kafka_consumer(settings: Settings, *, nameless: bool = False) -> AIOKafkaConsumer:
    """A group member that decides itself where it stands (the ledger knows).

    Who joins under its own name gets what it had; `nameless`, the group shares its partitions out anew.
    """
    return AIOKafkaConsumer(
        **connection_options(settings),
        group_id=settings.kafka_group,
        group_instance_id=None if nameless else settings.kafka_group_instance,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=MESSAGE_MAX_BYTES,
        # What waits here, decoded, while batches are recorded: a few seconds' worth is enough.
        fetch_max_bytes=2 * MESSAGE_MAX_BYTES,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=2_000,
        max_poll_interval_ms=600_000,
        fetch_max_wait_ms=100,
        # A topic that was made anew, or got more partitions, is noticed after so long.
        metadata_max_age_ms=10_000,
    )


async def run(settings: Settings) -> int:
    """Run until a signal comes or a part fails; returns the exit code."""
    certificate = door_certificate(settings)

    async def start(stack: AsyncExitStack, stopping: Stopping) -> None:
        metrics = ConsumerMetrics()
        tracing = await stack.enter_async_context(open_tracing("consumer", os.environ))
        pool = await until_it_answers(
            "postgres",
            partial(
                open_pool,
                settings.required_database_url(),
                size=settings.database_pool_size,
                name="registry-quota consumer",
            ),
            stopping,
            check="RQ_DATABASE_URL",
        )
        stack.push_async_callback(close_pool, pool)
        rule = WorkspaceRule(settings.workspace_pattern)
        await tell_placing(pool, rule)
        recorder = Recorder(
            pool,
            rule=rule,
            default_quota_bytes=settings.default_quota_bytes,
            level_of=level,
            clock_skew_ns=settings.clock_skew * SECOND_NS,
        )
        cluster = await until_it_answers(
            "kafka", partial(cluster_id, settings), stopping, check="RQ_KAFKA_BOOTSTRAP"
        )
        producer = await open_producer(settings)
        stack.push_async_callback(discard_producer, producer)
        client = await stack.enter_async_context(registry_client(settings))
        resolver = SizeResolver(
            pool=pool,
            recorder=recorder,
            client=client,
            metrics=metrics,
            stopping=stopping,
            clock=utc_now,
        )
        settling = SettlingWorker(
            pool=pool,
            recorder=recorder,
            client=client,
            metrics=metrics,
            stopping=stopping,
            clock=utc_now,
        )
        confirmer = SizeConfirmer(
            pool=pool,
            recorder=recorder,
            client=await stack.enter_async_context(
                registry_client(settings, concurrency=confirming.AT_ONCE)
            ),
            metrics=metrics,
            stopping=stopping,
            clock=utc_now,
        )
        consumer = NotificationConsumer(
            connect=partial(kafka_consumer, settings),
            producer=producer,
            pool=pool,
            recorder=recorder,
            metrics=metrics,
            stopping=stopping,
            cluster_id=cluster,
            owner=f"{socket.gethostname()}/{os.getpid()}",
            batch_max_events=settings.batch_max_events,
            dead_letter_ceiling=settings.dead_letter_ceiling,
            clock=utc_now,
            on_pending=resolver.wake,
            look=partial(look, settings),
            ignored_agents=agents_like(settings.ignored_pull_agents),
            tracing=tracing,
            pull_through=bool(settings.registry_pull_through),
            own=OwnMarks(*await own_marks(pool)),
        )

        async def own_work() -> Standing:
            if consumer.halted or consumer.no_room or not consumer.owned:
                return {}
            mine = consumer.owned | consumer.unread
            return standing(await positions(settings, cluster), mine)

        async def work_of_all() -> Standing:
            if consumer.halted or consumer.no_room or consumer.owned:
                return {}
            return standing(await positions(settings, cluster), ())

        watchdog = Watchdog(after=settings.stall_seconds, stopping=stopping)
        watchdog.watch("consumer", own_work)
        watchdog.watch("group", work_of_all, patience=2)

        async def ready() -> str | None:
            if consumer.halted:
                return f"halted: {consumer.halted}"
            if not consumer.ready:
                return "the group has not given it its partitions yet"
            if consumer.unread and not consumer.owned:
                return f"nobody in the group reads the partitions {sorted(consumer.unread)}"
            return None

        app = web.Application()
        add_operations_routes(app, ready=ready, metrics=metrics.registry, stopping=stopping)
        port = await stack.enter_async_context(
            serving(
                app,
                host=settings.host,
                port=settings.consumer_metrics_port,
                certificate=certificate,
            )
        )
        await stack.enter_async_context(background("sizes", resolver.run(), stopping))
        if not settings.registry_pull_through:  # a cache downloads whatever it is asked for
            await stack.enter_async_context(background("settling", settling.run(), stopping))
            await stack.enter_async_context(background("confirming", confirmer.run(), stopping))
        await stack.enter_async_context(background("consumer", consumer.run(), stopping))
        # A batch makes tens of thousands of objects that go with it: the collector looks once a batch,
        # and not again at what is here now.
        gc.freeze()
        gc.set_threshold(100_000, 5, 5)
        await stack.enter_async_context(watchdog.running())
        log.info("consumer_started", metrics_port=port)

    return await run_until_stopped(start)
