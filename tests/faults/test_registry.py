"""A registry that misbehaves, and one that forgets what it had to tell."""

import asyncio
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer.metrics import ConsumerMetrics
from consumer.sizes import SizeResolver
from ledger.facts import ManifestPushed
from quota.reconcile import Reconciler
from registry.client import RegistryClient
from registry.errors import RegistryError
from registry.media_types import OCI_MANIFEST
from registry.push import Image, build_image, build_layer, push_image
from registry.transport import Retries
from registry.workspaces import WorkspaceRule
from runtime.lifecycle import Stopping
from runtime.postgres import Pool
from tests.faults.conftest import Faulty
from tests.support import ledgers
from tests.support.flaky_registry import flaky_registry
from tests.support.histories import stamp
from tests.support.programs import running
from tests.support.promises import Promise, Scale

SEED = 20261125
SHARE = 0.25
"""Of the flaky registry's answers, those that are not as they should be."""


def bytes_of(image: Image) -> int:
    return len(image.manifest.content) + sum(len(blob.content) for blob in image.blobs)


@pytest.mark.promise("flaky-registry")
async def test_a_flaky_registry_makes_no_size_wrong_and_leaves_none_unknown(
    faulty: Faulty, pool: Pool, promise: Promise, scale: Scale
):
    """Events without references, whose sizes have to be fetched through everything that goes wrong."""
    name, count = f"f{uuid.uuid4().hex[:6]}", scale.pick(20, 300)
    images = [build_image([build_layer(f"{name}{number}", 500)]) for number in range(count)]
    for image in images:
        await push_image(faulty.registry, f"{name}/app", image)
    now = datetime.now(UTC)
    recorder = ledgers.recorder(pool)
    await recorder.record(
        [
            ManifestPushed(
                "default",
                f"{name}/app",
                image.digest,
                stamp(number),
                OCI_MANIFEST,
                len(image.manifest.content),
                str(number),
                content=None,
            )
            for number, image in enumerate(images)
        ],
        now=now,
    )
    ahead = timedelta()
    async with (
        flaky_registry(faulty.stack.registry_url, share=SHARE, seed=SEED) as flaky,
        RegistryClient(flaky.url, timeout=5, retries=Retries(attempts=2)) as client,
    ):
        client.transport.sleep = lambda _seconds: asyncio.sleep(0)
        resolver = SizeResolver(
            pool=pool,
            recorder=recorder,
            client=client,
            metrics=ConsumerMetrics(),
            stopping=Stopping(),
            clock=lambda: now + ahead,
        )
        wrong = rounds = used = 0
        while used != sum(map(bytes_of, images)) and rounds < 60:
            rounds += 1
            await resolver.resolve_due()
            ahead += timedelta(hours=1)
            used = (await ledgers.usage(pool)).get(name, 0)
            wrong += used > sum(map(bytes_of, images))
    promise.count("sizes fetched", count)
    promise.count("answers that misbehaved", flaky.misbehaved.total())
    promise.worst("rounds of retries", rounds, "")
    promise.count("sizes wrong", wrong)
    promise.count("still unknown", used != sum(map(bytes_of, images)))
    assert len(flaky.misbehaved) >= 5, flaky.misbehaved
    assert wrong == 0
    assert used == sum(map(bytes_of, images))
    assert await ledgers.usage(pool) == await ledgers.recount(pool)


@pytest.mark.promise("flaky-registry")
async def test_reconciliation_beside_a_flaky_registry_ends_with_the_truth(
    faulty: Faulty, pool: Pool, promise: Promise, scale: Scale
):
    name, count = f"f{uuid.uuid4().hex[:6]}", scale.pick(20, 60)
    images = [build_image([build_layer(f"{name}{number}", 500)]) for number in range(count)]
    for number, image in enumerate(images):
        await push_image(faulty.registry, f"{name}/app", image, str(number))
    passes = 0
    async with (
        flaky_registry(faulty.stack.registry_url, share=SHARE, seed=SEED) as flaky,
        RegistryClient(flaky.url, timeout=5, retries=Retries(attempts=6)) as client,
    ):
        client.transport.sleep = lambda _seconds: asyncio.sleep(0)
        reconciler = Reconciler(
            pool=pool,
            recorder=ledgers.recorder(pool),
            client=client,
            rule=WorkspaceRule(ledgers.PATTERN),
            clock=lambda: datetime.now(UTC),
            in_flight=0.0,
        )
        complete = False
        while not complete and passes < 40:
            passes += 1
            try:
                report = await reconciler.run(workspace=name)
            except RegistryError:
                continue
            complete = report is not None and not report.problems
    used = (await ledgers.usage(pool)).get(name, 0)
    promise.count("answers that misbehaved", flaky.misbehaved.total())
    promise.worst("passes until nothing was missed", passes, "")
    promise.count("sizes wrong", used != sum(map(bytes_of, images)))
    assert complete
    assert used == sum(map(bytes_of, images))
    assert await ledgers.usage(pool) == await ledgers.recount(pool)


@pytest.mark.promise("registry-loss")
async def test_what_a_killed_registry_had_not_told_is_found_by_reconciliation(
    faulty: Faulty, promise: Promise, scale: Scale, tmp_path: Path
):
    name, count = f"l{uuid.uuid4().hex[:6]}", scale.pick(15, 300)
    images = [build_image([build_layer(f"{name}{number}", 700)]) for number in range(count)]
    truth = sum(map(bytes_of, images))
    async with faulty.proxies.webhook.silent():
        for number, image in enumerate(images):
            await push_image(faulty.registry, f"{name}/app", image, str(number))
        # Its queue is in memory.
        await faulty.kill("registry")
    await faulty.settled()
    before = truth - await faulty.usage(name)
    environment = {**faulty.environment, "RQ_LOG_FORMAT": "json"}
    arguments = ("reconcile", "--workspace", name, "--json")
    started = time.monotonic()
    async with running(arguments, environment, tmp_path / "log") as program:
        assert await program.wait(120) == 0, program.log()
    took = time.monotonic() - started
    after = truth - await faulty.usage(name)
    promise.count("pushes lost with the registry's queue", count)
    promise.count("drift before", before, "bytes")
    promise.count("drift after", abs(after), "bytes")
    promise.worst("reconciled in (start of the program included)", took)
    assert before > 0, "something was lost"
    assert after == 0, program.log()
    assert await faulty.drifted() == []
