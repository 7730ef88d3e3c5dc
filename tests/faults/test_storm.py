"""Faults that come together, at moments nobody chose: when they are over, everything moves again by itself."""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.conftest import Faulty
from tests.faults.test_pipeline import Story, announces, assert_exact, commits, recorded
from tests.support.fault_proxy import FaultProxy
from tests.support.programs import frozen
from tests.support.promises import Promise, Scale
from tests.support.waiting import wait_until

SEED = 20261125
AT_ONCE = 3
"""Faults of one round, at most."""
WITHIN = 1.0
"""Seconds in which they begin, and the longest that one lasts."""
MOVES_AGAIN = 60.0
"""Seconds after which what stands still counts as stalled; its watchdog would end it after 240."""

Fault = Callable[[], Awaitable[None]]


def _faults(faulty: Faulty, chance: random.Random) -> tuple[Fault, ...]:
    """What may happen, some of it more often; each is over when its coroutine is."""
    proxies, refusing = faulty.proxies, asyncio.Lock()

    def some() -> list[FaultProxy]:
        return chance.sample((proxies.kafka, proxies.postgres, proxies.registry), k=2)

    async def cut() -> None:
        for proxy in some():
            proxy.cut()

    async def silence() -> None:
        proxy = chance.choice(some())
        async with proxy.silent():
            await asyncio.sleep(chance.uniform(0, WITHIN))

    async def abandon() -> None:
        # To the registry: what is open to the others for good is noticed after a minute or two.
        proxies.registry.abandon()

    async def refuse() -> None:
        async with refusing:  # one at a time: a port is listened at once
            proxy = chance.choice(some())
            await proxy.refuse()
            await asyncio.sleep(chance.uniform(0, WITHIN))
            await proxy.listen()

    async def slow() -> None:
        proxy = chance.choice(some())
        proxy.delay = 0.02
        await asyncio.sleep(chance.uniform(0, WITHIN))
        proxy.delay = 0.0

    async def lose_a_commit() -> None:
        proxies.postgres.lose_answers_to(commits, 1)

    async def lose_a_publication() -> None:
        proxies.kafka.lose_answers_to(announces, 1)

    async def kill() -> None:
        part = chance.choice(("receiver", "consumer", "api"))
        if faulty.stack.pid(part) is not None:
            faulty.stack.kill(part)

    async def freeze() -> None:
        part = chance.choice(("receiver", "consumer", "api", "kafka"))
        pid = faulty.stack.pid(part)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                async with frozen(pid):
                    await asyncio.sleep(chance.uniform(0, WITHIN))

    return (
        cut, cut, cut, silence, abandon, refuse, slow, lose_a_commit, lose_a_commit,
        lose_a_publication, kill, freeze,
    )  # fmt: skip


@pytest.mark.promise("storm")
async def test_after_whatever_came_together_everything_moves_again(
    faulty: Faulty, promise: Promise, scale: Scale
):
    chance = random.Random(SEED)
    story, faults = Story(f"t{uuid.uuid4().hex[:6]}"), _faults(faulty, chance)
    rounds = scale.pick(6, 150)
    begun = 0

    async def after(seconds: float, fault: Fault) -> None:
        await asyncio.sleep(seconds)
        await fault()

    async def told() -> int:
        found: int = await faulty.pool.fetchval(
            "SELECT count(*) FROM outbox WHERE published_at IS NOT NULL"
        )
        return found

    async with story.told(faulty.load(), chance, workers=4):
        for number in range(rounds):
            chosen = [chance.choice(faults) for _ in range(chance.randint(1, AT_ONCE))]
            await asyncio.gather(*(after(chance.uniform(0, WITHIN), fault) for fault in chosen))
            begun += len(chosen)
            over, had, had_told = time.monotonic(), await recorded(faulty, story), await told()

            async def records(had: int = had) -> bool:
                return await recorded(faulty, story) > had

            async def announces_more(had_told: int = had_told) -> bool:
                return await told() > had_told

            happened = f"round {number}: {', '.join(fault.__name__ for fault in chosen)}"
            await wait_until(records, MOVES_AGAIN, what=f"events are recorded after {happened}")
            promise.worst("until events are recorded again", time.monotonic() - over)
            await wait_until(announces_more, MOVES_AGAIN, what=f"it is told after {happened}")
            promise.worst("until quota events are published again", time.monotonic() - over)
    await faulty.whole()
    drift = await assert_exact(faulty, story)
    promise.count("rounds", rounds)
    promise.count("faults", begun)
    promise.count("events", len(story.bodies))
    promise.count("counter drift", sum(map(abs, drift.values())), "bytes")
    assert drift == {}
