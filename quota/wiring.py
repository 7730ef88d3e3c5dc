"""The API process: API, cleanup and the relay of quota events."""

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import asyncpg

from ledger.ahead import SECOND_NS
from ledger.clock import ServiceClock, utc_now
from ledger.mapping import Mapper
from ledger.placing import tell_placing
from ledger.record import Recorder
from quota.access import Authenticate, any_of, internal_keys, operator_tokens
from quota.accounts import Accounts
from quota.api.app import Api
from quota.api.cleanups import CleanupRoutes
from quota.api.dating import DatingRoutes
from quota.api.garbage import GarbageRoutes
from quota.api.history import HistoryRoutes
from quota.api.internal import InternalRoutes
from quota.api.leases import LeaseRoutes
from quota.api.problems import Refused
from quota.api.reservations import ReservationRoutes
from quota.api.restores import RestoreRoutes
from quota.api.server import RouteGroup, create_app
from quota.api.status import StatusRoutes
from quota.api.tokens import TokenRoutes
from quota.cleanup import Cleaner
from quota.complaints import Complaints
from quota.dating import Dater
from quota.garbage import GarbageCollection
from quota.grpc.server import serving_grpc
from quota.grpc.service import BuildService
from quota.history import History
from quota.hook import PreBuildHook
from quota.late import LateDeletions
from quota.leases import Leases
from quota.levels import level
from quota.metrics import QuotaMetrics
from quota.pages.app import pages
from quota.pages.sessions import Proxy
from quota.pipeline import Pipeline
from quota.reconcile_schedule import ReconcileMetrics, ReconcileSchedule
from quota.reconcile_wiring import open_reconciler
from quota.records import Records
from quota.relay import LONGEST_SILENCE, Relay
from quota.repair import Repairer
from quota.restore import Restorer
from quota.retention import Retention
from quota.runs import Runs
from quota.standing import of_reconciliation, of_relay
from quota.sweep import Sweep
from quota.tokens import Tokens
from quota.tracking import Tracker
from quota.watch import Watch, WatchMetrics
from registry.client import RegistryClient
from registry.connect import registry_client
from registry.workspaces import WorkspaceRule
from runtime.aside import share_fairly
from runtime.errors import text_of
from runtime.http import serving
from runtime.lifecycle import Stopping, background, run_until_stopped
from runtime.logs import get_logger
from runtime.patience import until_it_answers
from runtime.postgres import (
    CONNECT_TIMEOUT,
    NOTICING_THE_LOST,
    UNAVAILABLE,
    Connection,
    Pool,
    close_pool,
    open_pool,
    open_statement_pool,
)
from runtime.producers import open_producer
from runtime.settings import Settings
from runtime.tls import door_certificate
from runtime.tracing import open_tracing
from runtime.watchdog import Standing, Watchdog

log = get_logger(__name__)

_CLEANUP_GRACE = 1.5
"""Seconds that a running cleanup gets at a stop; it is as safe without them."""


class Doors(NamedTuple):
    """Who is let in where."""

    api: Authenticate
    """The API: the operator's token, and tokens that were created."""
    platform: Authenticate
    """The internal API and gRPC: the internal key as well."""


def open_doors(settings: Settings, tokens: Tokens) -> Doors:
    """Authentication of every door. Raises SettingsError when a secret is unset."""
    api = any_of(operator_tokens(settings.required_api_tokens()), tokens.authenticate)
    return Doors(api, any_of(internal_keys(settings.required_internal_api_keys()), api))


def open_retention(
    settings: Settings,
    pool: Pool,
    *,
    clock: Callable[[], datetime],
    agrees: Callable[[], Awaitable[bool]],
) -> Retention:
    """What forgets with age."""
    return Retention(
        pool,
        history=timedelta(days=settings.history_days),
        events=timedelta(days=settings.events_days),
        clock=clock,
        agrees=agrees,
    )


def route_groups(
    settings: Settings,
    pool: Pool,
    *,
    tokens: Tokens,
    doors: Doors,
    recorder: Recorder,
    accounts: Accounts,
    hook: PreBuildHook,
    cleaner: Cleaner,
    collection: GarbageCollection,
    pipeline: Pipeline,
    clock: Callable[[], datetime] = utc_now,
    stopping: Stopping | None = None,
) -> list[RouteGroup]:
    """The handlers of every address of the API, and of the pages."""
    runs, restorer = Runs(pool, cleaner, clock=clock), Restorer(cleaner)
    mapper = Mapper(
        pool,
        rule=WorkspaceRule(settings.workspace_pattern),
        default_quota_bytes=settings.default_quota_bytes,
        level_of=level,
    )
    records = Records(pool, recorder=recorder, mapper=mapper, clock=clock)
    api = Api(
        accounts=accounts,
        hook=hook,
        mapper=mapper,
        authenticate=doors.api,
        clock=clock,
    )
    history = History(pool)
    return [
        api,
        CleanupRoutes(runs, accounts=accounts, authenticate=doors.api),
        RestoreRoutes(restorer, accounts=accounts, authenticate=doors.api),
        DatingRoutes(
            Dater(pool, recorder, clock=clock),
            accounts=accounts,
            authenticate=doors.api,
            clock=clock,
        ),
        TokenRoutes(tokens, accounts, authenticate=doors.api, clock=clock),
        HistoryRoutes(history, accounts, authenticate=doors.api, clock=clock),
        ReservationRoutes(accounts, authenticate=doors.api, clock=clock),
        InternalRoutes(records, accounts, authenticate=doors.platform),
        LeaseRoutes(
            Leases(
                pool,
                default_quota_bytes=settings.default_quota_bytes,
                most_digests=settings.lease_digests,
                clock=clock,
            ),
            authenticate=doors.api,
        ),
        *pages(
            pool,
            secrets=settings.required_api_tokens(),
            authenticate=doors.api,
            tokens=tokens,
            proxy=trusted_proxy(settings),
            session_lifetime=timedelta(seconds=settings.session_seconds),
            accounts=accounts,
            cleaner=cleaner,
            runs=runs,
            restorer=restorer,
            history=history,
            pipeline=pipeline,
            stopping=stopping or Stopping(),
            clock=clock,
        ),
        GarbageRoutes(collection, authenticate=doors.api),
        StatusRoutes(pipeline, authenticate=doors.api),
    ]


def build_service(
    settings: Settings,
    pool: Pool,
    *,
    doors: Doors,
    hook: PreBuildHook,
    recorder: Recorder,
    client: RegistryClient,
    clock: Callable[[], datetime] = utc_now,
    refused: Refused = lambda _why: None,
) -> BuildService:
    """The gRPC service of a build platform."""
    mapper = Mapper(
        pool,
        rule=WorkspaceRule(settings.workspace_pattern),
        default_quota_bytes=settings.default_quota_bytes,
        level_of=level,
    )
    tracker = Tracker(pool, recorder=recorder, mapper=mapper, client=client, clock=clock)
    return BuildService(hook=hook, tracker=tracker, authenticate=doors.platform, refused=refused)


def trusted_proxy(settings: Settings) -> Proxy:
    """The proxy in front of the pages that signs people in, if there is one."""
    return Proxy(
        addresses=settings.proxy_networks(),
        user_header=settings.proxy_user_header,
        workspaces_header=settings.proxy_workspaces_header,
        scope=settings.proxy_scope,
    )


async def run(settings: Settings) -> int:
    """Run until a signal comes or a part fails; returns the exit code."""
    url = settings.required_database_url()
    share_fairly()

    # A secret that is missing is told now, not when the database has answered.
    settings.required_api_tokens()
    settings.required_internal_api_keys()
    certificate = door_certificate(settings)

    async def connect() -> Connection:
        return await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT,
            command_timeout=30,
            server_settings={
                "application_name": "registry-quota relay",
                **NOTICING_THE_LOST,
                "idle_session_timeout": f"{LONGEST_SILENCE}s",
            },
        )

    async def start(stack: AsyncExitStack, stopping: Stopping) -> None:
        metrics = QuotaMetrics()
        tracing = await stack.enter_async_context(open_tracing("api", os.environ))
        pool = await until_it_answers(
            "postgres",
            partial(open_pool, url, size=settings.database_pool_size, name="registry-quota api"),
            stopping,
            check="RQ_DATABASE_URL",
        )
        stack.push_async_callback(close_pool, pool)
        clock = ServiceClock(pool)
        await clock.agrees()
        await stack.enter_async_context(background("clock", clock.run(stopping), stopping))
        client = await stack.enter_async_context(registry_client(settings))
        rule = WorkspaceRule(settings.workspace_pattern)
        await tell_placing(pool, rule)
        recorder = Recorder(
            pool,
            rule=rule,
            default_quota_bytes=settings.default_quota_bytes,
            level_of=level,
            clock_skew_ns=settings.clock_skew * SECOND_NS,
        )
        cleaner = Cleaner(
            pool=pool,
            recorder=recorder,
            client=client,
            clock=clock,
            owner=f"{socket.gethostname()}/{os.getpid()}",
            metrics=metrics,
            pull_through=settings.registry_pull_through,
        )
        stack.push_async_callback(cleaner.finish, _CLEANUP_GRACE)
        accounts = Accounts(
            pool,
            default_quota_bytes=settings.default_quota_bytes,
            level_of=level,
            clock=clock,
        )
        statements = await open_statement_pool(
            url, size=max(1, settings.database_pool_size // 3), name="registry-quota hook"
        )
        stack.push_async_callback(close_pool, statements)
        hook = PreBuildHook(
            pool,
            cleaner,
            statements=statements,
            default_quota_bytes=settings.default_quota_bytes,
            clock=clock,
            metrics=metrics,
        )
        collection = GarbageCollection(pool, client, clock=clock, metrics=metrics)
        stack.push_async_callback(collection.finish)
        await hook.remember_strict()
        await stack.enter_async_context(
            background("strict workspaces", hook.keep_strict_known(stopping), stopping)
        )
        tokens = Tokens(pool, clock=clock)
        doors = open_doors(settings, tokens)
        complaints = Complaints()
        logging.getLogger().addHandler(complaints)
        stack.callback(logging.getLogger().removeHandler, complaints)
        pipeline = Pipeline(settings, pool, clock=clock, complaints=complaints)
        stack.push_async_callback(pipeline.close)
        groups = route_groups(
            settings,
            pool,
            tokens=tokens,
            doors=doors,
            recorder=recorder,
            accounts=accounts,
            hook=hook,
            cleaner=cleaner,
            stopping=stopping,
            collection=collection,
            pipeline=pipeline,
            clock=clock,
        )

        async def ready() -> str | None:
            try:
                return await accounts.ready()
            except UNAVAILABLE as error:
                return f"the database does not answer: {text_of(error)}"

        relay = Relay(
            connect=connect,
            open_producer=partial(open_producer, settings),
            stopping=stopping,
            clock=clock,
            metrics=metrics,
            tracing=tracing,
        )
        await stack.enter_async_context(background("relay", relay.run(), stopping))
        retention = open_retention(settings, pool, clock=clock, agrees=clock.agrees)
        await stack.enter_async_context(background("retention", retention.run(stopping), stopping))
        watch = Watch(
            pipeline,
            pool,
            metrics=WatchMetrics(metrics.registry),
            most_workspaces=settings.metrics_workspaces,
            stopping=stopping,
            clock=clock,
        )
        await stack.enter_async_context(background("watch", watch.run(), stopping))
        reconciler = await open_reconciler(stack, settings, pool, clock=clock)
        schedule = ReconcileSchedule(
            reconciler,
            pool=pool,
            metrics=ReconcileMetrics(metrics.registry, progress=lambda: reconciler.progress),
            interval=timedelta(seconds=settings.reconcile_interval),
            stopping=stopping,
            clock=clock,
        )
        await stack.enter_async_context(background("reconcile", schedule.run(), stopping))
        watchdog = Watchdog(after=settings.stall_seconds, stopping=stopping)
        watchdog.watch("relay", partial(of_relay, relay, settings))

        async def pass_of_this_process() -> Standing:
            return of_reconciliation(reconciler)

        # Between two tries may lie as long as the registry has asked for (`_NO_HURRY`).
        watchdog.watch("reconcile", pass_of_this_process, patience=3)
        sweep = Sweep(
            cleaner,
            LateDeletions(cleaner.tools, metrics),
            Repairer(cleaner.tools, metrics.put_back),
            stopping=stopping,
            clock=clock,
        )
        await stack.enter_async_context(background("sweep", sweep.run(), stopping))
        grpc_port = await stack.enter_async_context(
            serving_grpc(
                build_service(
                    settings,
                    pool,
                    doors=doors,
                    hook=hook,
                    recorder=recorder,
                    client=client,
                    clock=clock,
                    refused=partial(metrics.refused, "grpc"),
                ),
                host=settings.host,
                port=settings.grpc_port,
                ready=ready,
                stopping=stopping,
                certificate=certificate,
                tracing=tracing,
            )
        )
        app = create_app(
            *groups,
            ready=ready,
            metrics=metrics.registry,
            stopping=stopping,
            origins=settings.cors_origins,
            tracing=tracing,
            refused=partial(metrics.refused, "http"),
        )
        port = await stack.enter_async_context(
            serving(app, host=settings.host, port=settings.api_port, certificate=certificate)
        )
        await stack.enter_async_context(watchdog.running())
        log.info("api_started", port=port, grpc_port=grpc_port, tls=certificate is not None)

    return await run_until_stopped(start)
