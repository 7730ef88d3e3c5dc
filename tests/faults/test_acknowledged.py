"""Nothing that was acknowledged is lost, and nobody waits, whatever dies, freezes or goes silent."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.conftest import Faulty
from tests.support.load import new_connections, percentile
from tests.support.programs import frozen
from tests.support.promises import Promise, Scale
from tests.support.receiver_program import ReceiverProgram, receiver_program
from tests.support.waiting import wait_until
from webhook_receiver.wiring import IN_FLIGHT_BYTES

PATIENCE = 2.0
"""Seconds that a busy machine may add to a figure."""
SEED = 20261125


@pytest_asyncio.fixture(loop_scope="session")
async def deployed(faulty: Faulty, tmp_path: Path) -> AsyncIterator[ReceiverProgram]:
    """A receiver process that is ready, its Kafka behind a proxy."""
    async with receiver_program(
        tmp_path / "receiver.log", bootstrap=faulty.front, kafka=faulty.stack.kafka_bootstrap
    ) as receiver:
        yield receiver


@pytest.mark.promise("acknowledged")
async def test_killed_receivers_and_brokers_lose_nothing_that_was_acknowledged(
    faulty: Faulty, deployed: ReceiverProgram, promise: Promise, scale: Scale
):
    load = deployed.load
    kills = ["receiver"] * scale.pick(2, 20) + ["broker"] * scale.pick(1, 8)
    random.Random(SEED).shuffle(kills)
    async with load.running("killed"):
        for killed in kills:
            await load.reaches(scale.pick(150, 500))
            if killed == "receiver":
                deployed.program.kill()
                deployed.program.start()
                await wait_until(lambda: deployed.readiness_is(200), 20, what="it is ready")
            else:
                faulty.stack.kill("kafka")
                await wait_until(lambda: deployed.readiness_is(503), 10, what="it is not ready")
                await faulty.stack.wait_until_answers("kafka", within=60)
        await load.reaches(150)
    lost = await deployed.lost()
    promise.count("acknowledged", len(load.acknowledged))
    promise.count("lost", len(lost))
    promise.count("kills", len(kills))
    assert load.slowest < 0.8 + PATIENCE
    assert lost == set()


@pytest.mark.promise("acknowledged")
async def test_a_stop_under_load_loses_nothing_that_was_acknowledged(
    deployed: ReceiverProgram, promise: Promise
):
    async with deployed.load.running("stop"):
        await deployed.load.reaches(200)
        code, took = await deployed.program.stop()
    lost = await deployed.lost()
    promise.count("acknowledged", len(deployed.load.acknowledged))
    promise.count("lost", len(lost))
    assert code == 0
    assert took < 4
    assert lost == set()
    assert "Traceback" not in deployed.program.log()


@pytest.mark.promise("acknowledged")
async def test_an_acknowledgement_of_kafkas_that_is_lost_on_the_way_loses_no_event(
    faulty: Faulty, deployed: ReceiverProgram, promise: Promise, scale: Scale
):
    """Kafka has it, the receiver cannot know: sent again, or 503 and sent again by the registry."""
    load, times = deployed.load, scale.pick(5, 40)

    def produces(chunk: bytes) -> bool:
        return chunk[4:6] == b"\x00\x00" and b"registry.notifications" in chunk

    async with load.running("unknown", workers=4):
        for _ in range(times):
            before = faulty.proxies.kafka.lost_answers
            faulty.proxies.kafka.lose_answers_to(produces, 1)
            await wait_until(lambda: faulty.proxies.kafka.lost_answers > before, 10)  # noqa: B023 - awaited here
            await load.reaches(20)
    lost = await deployed.lost()
    promise.count("acknowledged", len(load.acknowledged))
    promise.count("lost", len(lost))
    promise.count("answers of Kafka cut off", times)
    assert lost == set()
    assert set(load.answers) <= {202, 503}


@pytest.mark.promise("in-time")
async def test_answers_come_inside_the_registrys_second(
    deployed: ReceiverProgram, promise: Promise, scale: Scale
):
    """An open loop: a slow answer does not slow the next event, and is counted from when it was due."""
    load, rate, seconds = deployed.load, scale.pick(60, 100), scale.pick(3, 30)
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    async with new_connections() as http:
        for _ in range(50):
            assert await load.deliver(http, "warm") == 202

        async def one(due: float) -> None:
            await asyncio.sleep(due - loop.time())
            assert await load.deliver(http, "paced") == 202
            latencies.append(loop.time() - due)

        start = loop.time() + 0.1
        await asyncio.gather(*(one(start + number / rate) for number in range(rate * seconds)))
        began, alone = loop.time(), scale.pick(200, 2000)
        for _ in range(alone):
            assert await load.deliver(http, "alone") == 202
        per_second = alone / (loop.time() - began)
    promise.count("later than a second", sum(latency > 1 for latency in latencies))
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        promise.worst(name, percentile(latencies, share))
    promise.count(f"of {rate}/s in an open loop; one registry can send", per_second, "events/s")
    assert percentile(latencies, 0.99) < 0.8
    assert await deployed.lost() == set()


@pytest.mark.promise("broker-away")
async def test_a_silent_broker_means_quick_503s_in_bounded_memory_and_recovery(
    faulty: Faulty, deployed: ReceiverProgram, promise: Promise, scale: Scale
):
    """A black hole: connections stay open, nothing comes back (aiokafka #1101, #1017)."""
    load, program = deployed.load, deployed.program
    load.padding = 100_000
    async with load.running("silent", workers=64):
        for _ in range(scale.pick(1, 4)):
            await load.reaches(300)
            before = program.memory()
            load.slowest = 0.0
            refused = load.answers[503]
            async with faulty.proxies.kafka.silent():
                await wait_until(lambda: load.answers[503] >= refused + 300, 30)  # noqa: B023 - awaited here
                await wait_until(lambda: deployed.readiness_is(503), 10)
            healed = time.monotonic()
            await load.reaches(1)
            promise.worst("time to 503", load.slowest)
            promise.worst("recovery", time.monotonic() - healed)
            assert time.monotonic() - healed < 10
    growth = program.peak_memory() - before
    promise.worst("peak memory", program.peak_memory() / 2**20, "MiB")
    promise.worst("of it grown meanwhile", max(0, growth) / 2**20, "MiB")
    assert load.slowest < 0.8 + PATIENCE
    assert growth < 3 * IN_FLIGHT_BYTES
    assert set(load.answers) == {202, 503}
    assert await deployed.lost() == set()


@pytest.mark.promise("broker-away")
async def test_a_frozen_broker_does_not_delay_the_stop(
    faulty: Faulty, deployed: ReceiverProgram, promise: Promise
):
    broker = faulty.stack.pid("kafka")
    assert broker is not None

    async def all_wait() -> bool:
        return await deployed.in_flight() >= 20 * 1024

    async with new_connections() as http:
        assert await deployed.load.deliver(http, "before") == 202
        async with frozen(broker):
            in_flight = [
                asyncio.create_task(deployed.load.deliver(http, "stopping")) for _ in range(20)
            ]
            await wait_until(all_wait, what="all of them wait for Kafka")
            code, took = await deployed.program.stop()
            answers = await asyncio.gather(*in_flight)
    promise.worst("stop", took)
    assert code == 0
    assert took < 4
    assert set(answers) == {503}, Counter(answers)
    assert "Traceback" not in deployed.program.log()


@pytest.mark.promise("broker-away")
async def test_a_receiver_that_starts_without_kafka_begins_when_it_comes(
    faulty: Faulty, deployed: ReceiverProgram
):
    await faulty.proxies.kafka.refuse()
    try:
        deployed.program.kill()
        deployed.program.start()
        await wait_until(lambda: deployed.readiness_is(503), 20, what="it says why it is not ready")
        async with new_connections() as http:
            assert await deployed.load.deliver(http, "without") == 503
    finally:
        await faulty.proxies.kafka.listen()
    await wait_until(lambda: deployed.readiness_is(200), 20, what="it is ready")
    async with new_connections() as http:
        assert await deployed.load.deliver(http, "with") == 202
    assert await deployed.lost() == set()
