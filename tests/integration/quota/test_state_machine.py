"""Random histories on the real registry: nothing protected or needed goes, what stays is whole."""

import asyncio
import os
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quota.metrics import QuotaMetrics
from quota.repair import Repairer
from quota.restore import Restorer
from quota.snapshot import Incoming
from registry.errors import NotFound
from registry.push import (
    build_image,
    build_index,
    build_layer,
    build_referrer,
    push_image,
    push_manifest,
)
from tests.integration.quota.conftest import service_of
from tests.integration.quota.test_take_over import Ending
from tests.support import ledgers
from tests.support.cleanups import cleaner_of, later
from tests.support.memory_ledger import Crash

HISTORIES = 8 * int(os.environ.get("RQ_TEST_HISTORIES", "1"))
LAYERS = [build_layer(f"machine {number}", 20_000) for number in range(6)]
IMAGES = [
    build_image([LAYERS[number % 6], LAYERS[(number * 5 + 1) % 6]], label=f"machine {number}")
    for number in range(10)
]
INDEXES = [build_index({"amd64": IMAGES[n], "arm64": IMAGES[n + 1]}) for n in (0, 3, 6)]
SBOMS = [build_referrer(IMAGES[n].manifest, content=b"sbom %d" % n) for n in (0, 2, 5)]
TAGS = ["1", "2", "3", "latest", "keep-1", "keep-2"]

PUSH = st.tuples(
    st.just("push"),
    st.sampled_from(["api", "web"]),
    st.one_of(st.integers(0, 9), st.integers(20, 22), st.integers(30, 32)),
    st.sampled_from(TAGS),
)
CLEAN = st.tuples(st.just("clean"), st.integers(1, 5), st.integers(0, 60))
RESTORE = st.tuples(st.just("restore"))
LEASE = st.tuples(st.just("lease"), st.integers(0, 9))
FIGURES = {"histories": 0, "deletes": 0, "taken over": 0, "surviving tags pulled": 0}
HISTORY = st.lists(
    st.one_of(PUSH, PUSH, PUSH, PUSH, CLEAN, RESTORE, LEASE), min_size=8, max_size=24
)


class Machine:
    """What a history does, and what must hold after each of its steps."""

    def __init__(self, service):
        self.service = service
        self.name = f"m{uuid.uuid4().hex[:8]}"
        self.in_use: set[bytes] = set()
        self.removed: list[str] = []
        """What is gone although it was protected, or needed by something that stays."""

    async def push(self, app, number, tag):
        repository, service = f"{self.name}/{app}", self.service
        if number >= 30:
            await self.put(repository, SBOMS[number - 30], None)
        elif number >= 20:
            index = INDEXES[number - 20]
            for image in index.images:
                await self.put(repository, image, None)
            await push_manifest(service.registry, repository, index.manifest, tag)
            await service.tell(repository, tag, index.manifest.content, index.manifest.media_type)
        else:
            await self.put(repository, IMAGES[number], tag)

    async def put(self, repository, image, tag):
        tags = () if tag is None else (tag,)
        await push_image(self.service.registry, repository, image, *tags)
        await self.service.tell(repository, tag, image.manifest.content, image.manifest.media_type)

    async def lease(self, number):
        self.in_use.add(IMAGES[number].digest)
        await self.service.configure(self.name, 10**9)
        await self.service.pool.execute(
            """INSERT INTO leases (workspace_id, source, digests, reported_at, expires_at)
               SELECT id, 'a test', $2::jsonb, now(), now() + interval '1 day'
               FROM workspaces WHERE name = $1
               ON CONFLICT (workspace_id, source) DO UPDATE SET digests = excluded.digests""",
            self.name,
            "[" + ",".join(f'"sha256:{digest.hex()}"' for digest in sorted(self.in_use)) + "]",
        )

    async def clean(self, share, ends_after):
        """Ask for less than there is; the process may end in the middle and is taken over."""
        service = self.service
        usage = await service.usage(self.name)
        policy = {"keep_tags": ["keep-*"], "untagged_grace": 0, "max_ratio_per_run": 1}
        await service.configure(self.name, max(usage * 10 * share // 70, 1), **policy)
        before = await self.tags()
        with pytest.MonkeyPatch.context() as patch:
            ending = Ending(service, patch, ends_after)
            task, _outcome, _own = cleaner_of(service.registry, ending.pool).start(
                self.name, Incoming(), cause="a test"
            )
            await asyncio.wait([task])
        assert task.exception() is None or isinstance(task.exception(), Crash)
        successor = cleaner_of(service.registry, service.pool, clock=later)
        for taken in await successor.take_over_stale():
            await taken
        await self.whole()
        after = await self.tags()
        for repository, tags in before.items():
            kept = after.get(repository, {})
            for tag, digest in tags.items():
                protected = tag.startswith("keep-") or digest in self.in_use
                if protected and kept.get(tag) != digest:
                    self.removed.append(f"{repository}:{tag}")
            missing = min(2, len(set(tags.values()))) - len(set(kept.values()))
            self.removed += [f"{repository}: one of the last two"] * missing

    async def restore(self):
        pool = self.service.pool
        run = await pool.fetchval(
            """SELECT c.id FROM cleanup_runs c JOIN workspaces w ON w.id = c.workspace_id
               WHERE w.name = $1 ORDER BY c.started_at DESC LIMIT 1""",
            self.name,
        )
        if run is not None:
            view = await self.service.accounts.workspace(self.name)
            done = await Restorer(self.service.cleaner).run(view, run)
            assert done.count("lost") == done.count("failed") == 0, done

    async def tags(self):
        found = await ledgers.tags(self.service.pool)
        return {name: tags for name, tags in found.items() if name.startswith(f"{self.name}/")}

    async def whole(self):
        """Every tag of the ledger is pullable with all that it needs; nothing is half recorded."""
        service = self.service
        assert await Repairer(service.cleaner.tools, QuotaMetrics().put_back).sweep() == 0
        for repository, tags in (await self.tags()).items():
            assert tags.keys() == await service.tags(repository)
            for tag, digest in tags.items():
                assert (await service.registry.tag_digest(repository, tag)).digest == digest
                try:
                    await self.pull(repository, digest)
                except NotFound as error:
                    self.removed.append(str(error))
        assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)
        states = await service.pool.fetch("SELECT DISTINCT state FROM cleanup_items")
        assert {row["state"] for row in states} <= {"deleted", "skipped", "restored"}

    async def pull(self, repository, digest):
        fetched = await self.service.registry.get_manifest(repository, digest)
        assert fetched.body
        for index in INDEXES:
            for child in index.images if index.digest == digest else ():
                await self.pull(repository, child.digest)
        for image in IMAGES:
            for blob in image.blobs if image.digest == digest else ():
                if not await self.service.registry.has_blob(repository, blob.digest):
                    self.removed.append(f"{repository}@sha256:{blob.digest.hex()}")


@pytest.mark.promise("safe-deletes")
@settings(
    max_examples=HISTORIES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=HISTORY)
async def test_cleanup_never_takes_what_is_protected_or_needed(service, promise, history):
    await ledgers.empty(service.pool)
    machine = Machine(service_of(service.pool, service.registry))
    for step, *arguments in history:
        await getattr(machine, step)(*arguments)
    await machine.whole()
    FIGURES["histories"] += 1
    FIGURES["deletes"] += await service.pool.fetchval(
        "SELECT count(*) FROM cleanup_items WHERE state IN ('deleted', 'restored')"
    )
    FIGURES["taken over"] += await service.pool.fetchval(
        "SELECT count(*) FROM cleanup_runs WHERE epoch > 1"
    )
    FIGURES["surviving tags pulled"] += sum(map(len, (await machine.tags()).values()))
    for label, value in FIGURES.items():
        promise.worst(label, value, "")
    promise.count("protected or needed removed", len(machine.removed))
    assert machine.removed == []


def test_the_histories_had_something_to_delete():
    """Figures of the test above, which pytest runs first; `-s` shows them."""
    print(FIGURES)  # noqa: T201 - for the long form
    assert FIGURES["histories"] == 0 or FIGURES["deletes"] > 0
