"""The way of an event under kills, lost answers and duplicates: counted once, announced in order."""

import asyncio
import itertools
import os
import random
import signal
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.conftest import Faulty
from tests.support.consumers import event
from tests.support.deliveries import envelope
from tests.support.load import Load, new_connections
from tests.support.promises import Promise, Scale
from tests.support.waiting import wait_until

SEED = 20261125
EACH = 5100
"""Bytes of one event's image, shared with none."""
WORKSPACES = 6


@dataclass
class Story:
    """What was sent, and what was done to the parts meanwhile."""

    name: str
    bodies: dict[str, bytes] = field(default_factory=dict)
    """Event id → its delivery."""
    images: Counter[str] = field(default_factory=Counter)
    """Workspace → how many images were pushed to it."""
    duplicates: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        between = self.faults["kill between send and mark"]
        return self.faults["kill consumer"] + self.faults["kill api"] + 2 * between

    def one_more(self) -> tuple[str, bytes]:
        """A new image's event."""
        workspace = f"{self.name}-{len(self.bodies) % WORKSPACES}"
        made = event(f"{workspace}/app", tag=f"{len(self.bodies)}")
        body = envelope(made)
        self.bodies[made["id"]] = body
        self.images[workspace] += 1
        return made["id"], body

    @asynccontextmanager
    async def told(self, load: Load, chance: random.Random, workers: int) -> AsyncIterator[None]:
        """Deliver meanwhile as registries do: each until it is taken, and many once or more again."""
        stop = asyncio.Event()

        async def taken(name: str, body: bytes) -> None:
            for pause in itertools.repeat(0.05):
                if await load.send(http, name, body) == 202:
                    return
                await asyncio.sleep(pause)

        async def work() -> None:
            while not stop.is_set():
                name, body = self.one_more()
                await taken(name, body)
                for _ in range(chance.choice((0, 1, 1, 2, 4))):
                    again = chance.choice(list(self.bodies)[-50:])
                    self.duplicates += 1
                    await taken(again, self.bodies[again])

        async with new_connections() as http:
            tasks = [asyncio.create_task(work()) for _ in range(workers)]
            try:
                yield
            finally:
                stop.set()
                await asyncio.gather(*tasks)


def commits(chunk: bytes) -> bool:
    """Whether a client of Postgres asks for a COMMIT."""
    return b"COMMIT;\x00" in chunk


def announces(chunk: bytes) -> bool:
    """Whether a client of Kafka sends quota events."""
    return chunk[4:6] == b"\x00\x00" and b"registry.quota-events" in chunk


async def killed_before_the_mark(faulty: Faulty) -> None:
    """The relay's process dies when Kafka has its events and the outbox does not know yet."""
    killed = asyncio.Event()

    def marks(chunk: bytes) -> bool:
        pid = faulty.stack.pid("api")
        if b"UPDATE outbox SET published_at" in chunk and pid and not killed.is_set():
            os.kill(pid, signal.SIGKILL)
            killed.set()
        return False

    faulty.proxies.postgres.lose_answers_to(marks, 1)
    await faulty.kill("api")  # its successor sends that statement first of all
    await asyncio.wait_for(killed.wait(), 30)
    faulty.proxies.postgres.lose_answers_to(marks, 0)


async def recorded(faulty: Faulty, story: Story) -> int:
    """Bytes of the story's workspaces."""
    found = await faulty.pool.fetchval(
        "SELECT coalesce(sum(usage_bytes), 0) FROM workspaces WHERE name LIKE $1", f"{story.name}-%"
    )
    return int(found)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def story(shared_system: Faulty, scale: Scale) -> Story:
    """A load with duplicates while consumer and API are killed and answers are lost; settled after it."""
    faulty, chance = shared_system, random.Random(SEED)
    await faulty.whole()
    story = Story(f"s{uuid.uuid4().hex[:6]}")
    proxies = faulty.proxies

    async def lost_answer(proxy: Any, requests: Callable[[bytes], bool]) -> None:
        before = proxy.lost_answers
        proxy.lose_answers_to(requests, 1)
        await wait_until(lambda: proxy.lost_answers > before, 30, what="an answer is lost")

    async def cut() -> None:
        proxies.postgres.cut()
        proxies.kafka.cut()

    async def cut_while_rejoining() -> None:
        """A consumer that cannot know whether it has committed begins anew, and cannot."""
        await lost_answer(proxies.postgres, commits)
        await asyncio.sleep(chance.uniform(0, 0.3))
        await cut()

    faults: dict[str, Callable[[], Awaitable[None]]] = {
        "kill consumer": lambda: faulty.kill("consumer"),
        "kill api": lambda: faulty.kill("api"),
        "lost commit": lambda: lost_answer(proxies.postgres, commits),
        "lost publication": lambda: lost_answer(proxies.kafka, announces),
        "kill between send and mark": lambda: killed_before_the_mark(faulty),
        "cut": cut,
        "cut while rejoining": cut_while_rejoining,
    }
    times = {
        "lost commit": scale.pick(4, 40),
        "lost publication": scale.pick(2, 20),
        "cut while rejoining": scale.pick(4, 40),
    }
    plan = [name for name in faults for _ in range(times.get(name, scale.pick(1, 10)))]
    chance.shuffle(plan)
    async with story.told(faulty.load(), chance, workers=4):
        for name in plan:
            moved = await recorded(faulty, story)
            await faults[name]()
            story.faults[name] += 1
            # The next one hits a pipeline that works again.
            await wait_until(
                lambda: _moved(faulty, story, moved),  # noqa: B023 - awaited here
                30,
                what=f"events are recorded after: {name}",
            )
    await faulty.whole()
    return story


async def _moved(faulty: Faulty, story: Story, before: int) -> bool:
    return await recorded(faulty, story) > before


async def assert_exact(faulty: Faulty, story: Story) -> dict[str, int]:
    """Counters, their recount and what was pushed are the same; returns the differences (none)."""
    rows = await faulty.pool.fetch(
        "SELECT name, usage_bytes FROM workspaces WHERE name LIKE $1", f"{story.name}-%"
    )
    drift = {
        row["name"]: row["usage_bytes"] - EACH * story.images[row["name"]]
        for row in rows
        if row["usage_bytes"] != EACH * story.images[row["name"]]
    }
    assert len(rows) == WORKSPACES
    assert await faulty.drifted() == []
    return drift


@pytest.mark.promise("exactly-once")
async def test_kills_duplicates_and_ambiguous_commits_count_every_image_once(
    faulty: Faulty, story: Story, promise: Promise
):
    drift = await assert_exact(faulty, story)
    promise.count("events", len(story.bodies))
    promise.count("duplicates", story.duplicates)
    promise.count("kills", story.kills)
    rejoining = story.faults["cut while rejoining"]
    promise.count("answers to COMMIT lost", story.faults["lost commit"] + rejoining)
    promise.count("connections cut while rejoining", rejoining)
    promise.count("counter drift", sum(map(abs, drift.values())), "bytes")
    assert drift == {}


@pytest.mark.promise("published")
async def test_every_event_is_published_in_order_whoever_dies(
    faulty: Faulty, story: Story, promise: Promise
):
    async def all_told() -> bool:
        return not await faulty.pool.fetchval(
            "SELECT count(*) FROM outbox WHERE published_at IS NULL"
        )

    await wait_until(all_told, 60, interval=0.1, what="the outbox is empty")
    rows = await faulty.pool.fetch(
        """SELECT event_id, workspace, extract(epoch FROM published_at - occurred_at) AS lag
           FROM outbox WHERE workspace LIKE $1 ORDER BY id""",
        f"{story.name}-%",
    )
    expected: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        expected[row["workspace"]].append(str(row["event_id"]))
    first_seen: defaultdict[str, dict[str, None]] = defaultdict(dict)
    published = 0
    for message in await faulty.messages("registry.quota-events"):
        if message["subject"] in expected:
            published += 1
            first_seen[message["subject"]].setdefault(message["id"])
    missing = violations = 0
    for workspace, ids in expected.items():
        seen = list(first_seen[workspace])
        missing += len(set(ids) - set(seen))
        violations += sum(1 for a, b in zip(seen, ids, strict=False) if a != b)
    lags = sorted(float(row["lag"]) for row in rows if row["lag"] is not None)
    promise.count("events", len(rows))
    promise.count("missing", missing)
    promise.count("order violations", violations)
    promise.count("kills between send and mark", story.faults["kill between send and mark"])
    promise.count("sent again under the same id", published - len(rows))
    promise.worst("lag p50", lags[len(lags) // 2])
    promise.worst("lag p99 (kills included)", lags[int(len(lags) * 0.99)])
    assert (missing, violations) == (0, 0)
    assert published > len(rows), "a relay was killed between send and mark"
    recorded = Counter(row["workspace"] for row in rows)
    assert all(recorded[name] >= count for name, count in story.images.items())


@pytest.mark.promise("exactly-once")
async def test_a_replay_from_offset_0_changes_nothing(
    faulty: Faulty, story: Story, promise: Promise
):
    before = await faulty.pool.fetchval("SELECT sum(next_offset) FROM consumer_offsets")
    await faulty.stack.pause("consumer")
    await faulty.pool.execute("UPDATE consumer_offsets SET next_offset = 0")
    await faulty.stack.resume("consumer")
    await faulty.settled()
    drift = await assert_exact(faulty, story)
    promise.count("events replayed from offset 0", int(before))
    promise.count("counter drift", sum(map(abs, drift.values())), "bytes")
    assert drift == {}


@pytest.mark.promise("database-away")
async def test_without_a_database_nothing_is_lost_and_it_catches_up(
    faulty: Faulty, promise: Promise, scale: Scale
):
    story, chance = Story(f"d{uuid.uuid4().hex[:6]}"), random.Random(SEED)
    load, loop = faulty.load(), asyncio.get_running_loop()
    rounds = scale.pick(1, 4)
    logs = [faulty.stack.run_dir.log(part) for part in ("consumer", "api")]
    told_before = [len(log.read_text()) for log in logs]
    for number in range(rounds):
        async with story.told(load, chance, workers=4):
            await load.reaches(50)
            if number % 2:
                faulty.stack.kill("postgres")
                await load.reaches(scale.pick(200, 1500))
                await faulty.stack.wait_until_answers("postgres", within=60)
            else:
                await faulty.stack.pause("postgres")
                await load.reaches(scale.pick(200, 1500))
                await faulty.stack.resume("postgres")
        back = loop.time()
        await faulty.settled()
        promise.worst("catch-up", loop.time() - back)
    drift = await assert_exact(faulty, story)
    promise.count("outages", rounds)
    promise.count("events taken", len(story.bodies))
    promise.count("lost", sum(map(abs, drift.values())) // EACH)
    assert set(load.answers) == {202}, "the receiver needs no database"
    assert drift == {}
    for log, before in zip(logs, told_before, strict=True):
        assert "Traceback" not in log.read_text()[before:], "an outage is no error of ours"
