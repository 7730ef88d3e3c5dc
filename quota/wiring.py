"""The API process: API, cleanup and the relay of quota events."""

import os
import socket
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg

from ledger.mapping import Mapper
from ledger.record import Recorder
from quota.accounts import Accounts
from quota.api.access import operator_token
from quota.api.app import Api, create_app
from quota.cleanup import Cleaner
from quota.hook import PreBuildHook
from quota.levels import level
from quota.metrics import QuotaMetrics
from quota.reconcile import Reconciler
from quota.reconcile_schedule import ReconcileMetrics, ReconcileSchedule
from quota.relay import Relay
from quota.runs import Runs
from registry.connect import registry_client
from registry.workspaces import WorkspaceRule
from runtime.http import serving
from runtime.lifecycle import Stopping, background, run_until_stopped
from runtime.logs import get_logger
from runtime.patience import until_it_answers
from runtime.postgres import CONNECT_TIMEOUT, UNAVAILABLE, Connection, Pool, open_pool
from runtime.producers import open_producer
from runtime.settings import Settings

log = get_logger(__name__)

_CLEANUP_GRACE = 1.5
"""Seconds that a running cleanup gets at a stop; it is as safe without them."""


def utc_now() -> datetime:
    """The process's clock."""
    return datetime.now(UTC)


async def open_reconciler(stack: AsyncExitStack, settings: Settings, pool: Pool) -> Reconciler:
    """Reconciliation with a registry client of its own: it must not hold up cleanups."""
    client = await stack.enter_async_context(
        registry_client(settings, concurrency=settings.reconcile_concurrency)
    )
    rule = WorkspaceRule(settings.workspace_pattern)
    recorder = Recorder(
        pool, rule=rule, default_quota_bytes=settings.default_quota_bytes, level_of=level
    )
    return Reconciler(pool=pool, recorder=recorder, client=client, rule=rule, clock=utc_now)


async def run(settings: Settings) -> int:
    """Run until a signal comes or a part fails; returns the exit code."""
    token = settings.required_api_token()
    settings.required_internal_api_key()
    url = settings.required_database_url()

    async def connect() -> Connection:
        return await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT,
            command_timeout=30,
            server_settings={"application_name": "registry-quota relay"},
        )

    async def start(stack: AsyncExitStack, stopping: Stopping) -> None:
        metrics = QuotaMetrics()
        pool = await until_it_answers(
            "postgres",
            partial(open_pool, url, size=settings.database_pool_size, name="registry-quota api"),
            stopping,
            check="RQ_DATABASE_URL",
        )
        stack.push_async_callback(pool.close)
        client = await stack.enter_async_context(registry_client(settings))
        recorder = Recorder(
            pool,
            rule=WorkspaceRule(settings.workspace_pattern),
            default_quota_bytes=settings.default_quota_bytes,
            level_of=level,
        )
        cleaner = Cleaner(
            pool=pool,
            recorder=recorder,
            client=client,
            clock=utc_now,
            owner=f"{socket.gethostname()}/{os.getpid()}",
            metrics=metrics,
        )
        stack.push_async_callback(cleaner.finish, _CLEANUP_GRACE)
        accounts = Accounts(
            pool,
            default_quota_bytes=settings.default_quota_bytes,
            level_of=level,
            clock=utc_now,
        )
        hook = PreBuildHook(
            pool,
            cleaner,
            default_quota_bytes=settings.default_quota_bytes,
            clock=utc_now,
            metrics=metrics,
        )
        await hook.remember_strict()
        api = Api(
            accounts=accounts,
            hook=hook,
            runs=Runs(pool, cleaner),
            mapper=Mapper(
                pool,
                rule=WorkspaceRule(settings.workspace_pattern),
                default_quota_bytes=settings.default_quota_bytes,
                level_of=level,
            ),
            authenticate=operator_token(token),
            clock=utc_now,
        )

        async def ready() -> str | None:
            try:
                return await accounts.ready()
            except UNAVAILABLE as error:
                return f"the database does not answer: {type(error).__name__}"

        relay = Relay(
            connect=connect,
            open_producer=partial(open_producer, settings),
            stopping=stopping,
            clock=utc_now,
            metrics=metrics,
        )
        await stack.enter_async_context(background("relay", relay.run(), stopping))
        schedule = ReconcileSchedule(
            await open_reconciler(stack, settings, pool),
            pool=pool,
            metrics=ReconcileMetrics(metrics.registry),
            interval=timedelta(seconds=settings.reconcile_interval),
            stopping=stopping,
            clock=utc_now,
        )
        await stack.enter_async_context(background("reconcile", schedule.run(), stopping))
        app = create_app(api, ready=ready, metrics=metrics.registry, stopping=stopping)
        port = await stack.enter_async_context(
            serving(app, host=settings.host, port=settings.api_port)
        )
        log.info("api_started", port=port)

    return await run_until_stopped(start)
