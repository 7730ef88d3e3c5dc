"""Reconciliation put together, for the API process and for the command.

Apart from the API's wiring: the command starts in half the time without the doors.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime

from ledger.ahead import SECOND_NS
from ledger.record import Recorder
from quota.levels import level
from quota.reconcile import Reconciler
from registry.connect import registry_client
from registry.transport import Retries
from registry.workspaces import WorkspaceRule
from runtime.postgres import Pool
from runtime.settings import Settings

_NO_HURRY = Retries(attempts=6, longest_wait=120.0)
"""A registry that limits its callers often wants a minute; a pass can give it that."""


async def open_reconciler(
    stack: AsyncExitStack, settings: Settings, pool: Pool, *, clock: Callable[[], datetime]
) -> Reconciler:
    """Reconciliation with a registry client of its own: it must not hold up cleanups."""
    client = await stack.enter_async_context(
        registry_client(settings, concurrency=settings.reconcile_concurrency, retries=_NO_HURRY)
    )
    rule = WorkspaceRule(settings.workspace_pattern)
    recorder = Recorder(
        pool,
        rule=rule,
        default_quota_bytes=settings.default_quota_bytes,
        level_of=level,
        clock_skew_ns=settings.clock_skew * SECOND_NS,
    )
    return Reconciler(
        pool=pool,
        recorder=recorder,
        client=client,
        rule=rule,
        clock=clock,
        pull_through=settings.registry_pull_through,
    )
