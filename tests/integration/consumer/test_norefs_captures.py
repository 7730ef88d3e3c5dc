"""Events without references: the sizes come from the registry, verified, and end byte-exact."""

import asyncio
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiohttp import web

from consumer.metrics import ConsumerMetrics
from consumer.sizes import SizeResolver
from consumer.translate import facts_of
from registry.notifications import decode_event
from runtime.lifecycle import Stopping
from tests.support import ledgers
from tests.support.captures import all_captures
from tests.support.fake_registry import REGISTRY, serving_fake

NOW = datetime(2026, 11, 23, tzinfo=UTC)
CAPTURES = [capture for capture in all_captures() if not capture.has_references]


def serving(capture, *, wrong=False):
    """Answers with the capture's manifests by digest; the wrong ones are longer than they say."""
    manifests = capture.manifests()

    async def answer(request: web.Request) -> web.StreamResponse:
        digest = request.path.rsplit("/", 1)[-1]
        found = manifests.get(digest)
        if found is None:
            return web.Response(status=404, headers=REGISTRY)
        return web.Response(
            body=found.body + (b" " if wrong else b""),
            headers=REGISTRY | {"Content-Type": found.media_type, "Docker-Content-Digest": digest},
        )

    return answer


@asynccontextmanager
async def resolving(pool, capture, **options):
    async with serving_fake() as fake:
        fake.script = [serving(capture, **options)]
        async with fake.client() as client:
            yield SizeResolver(
                pool=pool,
                recorder=ledgers.recorder(pool),
                client=client,
                metrics=ConsumerMetrics(),
                stopping=Stopping(),
                clock=lambda: NOW,
            )


def told(capture):
    return [
        fact
        for raw in capture.raw_events()
        if (fact := facts_of("default", decode_event(raw))) is not None
    ]


async def record(pool, facts):
    await ledgers.recorder(pool).record(facts, now=NOW)


def orders(facts):
    yield "in order", [facts]
    yield "backwards, one by one", [[fact] for fact in reversed(facts)]
    yield "doubled", [facts[::2], facts, facts[1::2], facts]


@pytest.mark.parametrize("capture", CAPTURES, ids=str)
async def test_the_sizes_that_events_kept_back_are_exact_once_they_were_fetched(pool, capture):
    truth = capture.truth()
    single = {name for name in truth["repositories"] if "/" not in name}
    expected: dict[str, int] = {}
    for name, item in truth["workspaces"].items():
        if size := item["bytes"]["c_workspace_dedup_all"]:
            workspace = "_" if name in single else name
            expected[workspace] = expected.get(workspace, 0) + size
    for order, batches in orders(told(capture)):
        await ledgers.empty(pool)
        for batch in batches:
            await record(pool, batch)
        async with resolving(pool, capture) as resolver:
            while await resolver.resolve_due():
                pass
        assert await ledgers.usage(pool) == expected == await ledgers.recount(pool), order
        assert await ledgers.references_agree(pool), order
        assert not await pool.fetchval(
            "SELECT count(*) FROM manifests WHERE present AND blobs IS NULL"
        ), order


async def test_a_body_that_is_not_what_its_digest_says_changes_nothing(pool):
    if not CAPTURES:
        pytest.skip("no captured notifications beside this checkout (set RQ_CAPTURES)")
    capture = next(item for item in CAPTURES if item.scenario.startswith("push_oci_image"))
    await record(pool, told(capture))
    before = await ledgers.rows(pool)
    async with asyncio.timeout(60), resolving(pool, capture, wrong=True) as resolver:
        assert await resolver.resolve_due() > 0
        assert await resolver.resolve_due() == 0, "it is tried again later"
    assert await ledgers.rows(pool) == before
    pending = await pool.fetchval("SELECT count(*) FROM manifests WHERE blobs IS NULL AND present")
    assert pending > 0
    async with resolving(pool, capture) as resolver:
        await pool.execute("UPDATE manifests SET fetch_after = NULL")
        assert await resolver.resolve_due() == pending
    assert await ledgers.usage(pool) == await ledgers.recount(pool)
    sys.stdout.write(f"\nwithout references: {len(CAPTURES)} captures in 3 orders\n")
