"""A cleanup may end at any line: whoever takes it over finishes it, and nothing is half recorded."""

import asyncio
import os

import pytest

from ledger.runs import Lease
from quota.cleaning import STALE_AFTER
from quota.deleting import Deletions
from quota.snapshot import Incoming
from registry.transport import Transport
from tests.integration.quota.conftest import service_of
from tests.support import ledgers
from tests.support.cleanups import (
    GOES,
    cleaner_of,
    everything_agrees,
    fill,
    later,
)
from tests.support.killing import KillingPool
from tests.support.memory_ledger import Crash

STEP = 1 if os.environ.get("RQ_TEST_LONG") else 9
"""Every line in the long form; some, by a number that has nothing to do with theirs, in the short."""


async def begin_anew(service):
    """An index of two children and an image have to go. Returns the service on an emptied ledger."""
    await ledgers.empty(service.pool)
    service = service_of(service.pool, service.registry)
    await fill(service)
    return service


class Ending:
    """Ends the process after its n-th statement or request, or before the request is sent."""

    def __init__(self, service, monkeypatch, after: int) -> None:
        self.pool = KillingPool(service.pool, after)
        send = Transport.send

        async def send_or_end(transport, *arguments, **options):
            self.pool.one_more()
            answer = await send(transport, *arguments, **options)
            self.pool.one_more()
            return answer

        monkeypatch.setattr(Transport, "send", send_or_end)


async def test_a_cleanup_that_ends_after_any_line_is_taken_over_and_finished(service):
    ended, after = 0, 0
    while True:
        after += STEP
        service = await begin_anew(service)
        with pytest.MonkeyPatch.context() as patch:
            ending = Ending(service, patch, after)
            task, _outcome, _own = cleaner_of(service.registry, ending.pool).start(
                "acme", Incoming(), cause="a test"
            )
            await asyncio.wait([task])
        if not isinstance(task.exception(), Crash):
            assert task.result().target_reached
            break
        ended += 1
        successor = cleaner_of(service.registry, service.pool, clock=later)
        for taken in await successor.take_over_stale():
            await taken
        # What ended before its run was recorded had done nothing.
        task, _outcome, _own = successor.start("acme", Incoming(), cause="a test")
        assert (await task).target_reached
        assert await everything_agrees(service.pool, service.registry) == GOES
    assert ended > 50 / STEP


async def test_the_next_hook_takes_over_what_was_begun(service, monkeypatch):
    service = await begin_anew(service)
    with monkeypatch.context() as patch:
        delete = service.registry.delete_manifest

        async def delete_and_end(repository, digest):
            await delete(repository, digest)
            raise Crash

        patch.setattr(service.registry, "delete_manifest", delete_and_end)
        task, _outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
        await asyncio.wait([task])
    items = await service.pool.fetch("SELECT state FROM cleanup_items ORDER BY position")
    assert [item["state"] for item in items] == ["deleting", "planned", "planned", "planned"]
    await service.pool.execute("UPDATE cleanup_runs SET heartbeat_at = heartbeat_at - $1::interval",
                               STALE_AFTER)  # fmt: skip
    answer = await service.ask("acme", timeout_s=20.0)
    assert answer.verdict.reason == "cleaned_to_target"
    assert await everything_agrees(service.pool, service.registry) == GOES


async def test_who_was_frozen_and_taken_over_deletes_nothing_more(service, monkeypatch):
    service = await begin_anew(service)
    keep, frozen, thaw = Deletions._keep_document, asyncio.Event(), asyncio.Event()

    async def keep_but_freeze(deletions, *arguments):
        if not frozen.is_set():
            frozen.set()
            await thaw.wait()
        return await keep(deletions, *arguments)

    monkeypatch.setattr(Deletions, "_keep_document", keep_but_freeze)
    task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await asyncio.wait_for(frozen.wait(), 10)
    for taken in await cleaner_of(service.registry, service.pool, clock=later).take_over_stale():
        await taken
    assert await everything_agrees(service.pool, service.registry) == GOES
    thaw.set()
    await task
    assert outcome.images == []
    assert "run_taken_over" in outcome.warnings
    assert await everything_agrees(service.pool, service.registry) == GOES


async def test_a_run_stays_open_while_the_registry_cannot_tell_what_became_of_it(
    service, monkeypatch
):
    service = await begin_anew(service)
    task, _outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await task
    # As if it had ended between the DELETE and its record.
    row = await service.pool.fetchrow(
        "UPDATE cleanup_items SET state = 'deleting' WHERE position = 4 RETURNING run_id"
    )
    await service.pool.execute(
        "UPDATE cleanup_runs SET state = 'running', heartbeat_at = heartbeat_at - $1::interval",
        STALE_AFTER,
    )
    await service.pool.execute("DELETE FROM outbox WHERE type LIKE '%cleanup.finished%'")
    with monkeypatch.context() as patch:
        from registry.errors import RegistryUnavailable

        async def away(*_arguments):
            raise RegistryUnavailable

        patch.setattr(service.registry, "head_manifest", away)
        for taken in await service.cleaner.take_over_stale():
            await taken
    assert await service.pool.fetchval("SELECT state FROM cleanup_runs") == "running"
    assert await service.pool.fetchval("SELECT epoch FROM cleanup_runs") == 2
    for taken in await cleaner_of(service.registry, service.pool, clock=later).take_over_stale():
        await taken
    assert await service.pool.fetchval("SELECT epoch FROM cleanup_runs") == 3
    states = await service.pool.fetch("SELECT state FROM cleanup_items")
    assert {item["state"] for item in states} == {"deleted"}
    assert Lease(row["run_id"], 3).run_id == row["run_id"]
