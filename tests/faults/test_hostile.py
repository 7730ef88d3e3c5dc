"""What no honest client sends: bounded in memory, answered below 500, and nothing is asked for it."""

import asyncio
import gzip
import io
import json
import uuid
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.conftest import Faulty
from tests.support.deliveries import BAD_BODIES, envelope, event
from tests.support.load import new_connections
from tests.support.promises import Promise, Scale
from tests.support.receiver_program import TOKEN, receiver_program
from tests.support.waiting import wait_until
from webhook_receiver.wiring import IN_FLIGHT_BYTES

pytestmark = pytest.mark.promise("hostile-input")

MOST_GROWTH = 2 * IN_FLIGHT_BYTES
"""Bytes: what the receiver lets be in flight, and once more where Kafka's client copies it."""
MILLIONS = 2_000_000


async def test_hostile_deliveries_are_answered_in_bounded_memory(
    faulty: Faulty, promise: Promise, scale: Scale, tmp_path: Path
):
    bomb = gzip.compress(b'{"events": [' + b" " * 100_000_000 + b"]}")
    bodies = [
        *BAD_BODIES.values(),
        b"[" * 4_000_000,
        b'{"events":' * 500_000,
        b'{"events": [' + b"1," * MILLIONS + b"1]}",
        b'{"events": [' + b"{}," * MILLIONS,
        envelope(event(references="?")).replace(b'"?"', b"[" + b"{}," * MILLIONS + b"{}]"),
        envelope(*(event(event_id=str(n), size=2**63 + n) for n in range(2000))),
        envelope(event(tag="x" * 7_000_000)),
        b"x" * (9 << 20),
    ]
    answers: Counter[int | str] = Counter()
    bootstrap = faulty.stack.kafka_bootstrap
    async with receiver_program(tmp_path / "log", bootstrap=bootstrap, kafka=bootstrap) as receiver:
        before = receiver.program.memory()
        gate = asyncio.Semaphore(12)

        async def send(body: bytes, **headers: str) -> None:
            authorized = {"Authorization": f"Bearer {TOKEN}", **headers}
            async with (
                gate,
                http.post(receiver.load.url, data=io.BytesIO(body), headers=authorized) as answer,
            ):
                answers[answer.status] += 1

        async def dribble() -> None:
            """Bytes that come slowly, and stop."""
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = (
                f"POST /v1/notifications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            )
            writer.write(head.encode() + b"Content-Length: 1000000\r\n\r\n")
            for _ in range(20):
                writer.write(b"{")
                await asyncio.sleep(0.05)
            writer.transport.abort()

        port = int(receiver.url.rsplit(":", 1)[1])
        async with new_connections() as http:
            slow = [asyncio.create_task(dribble()) for _ in range(50)]
            for _ in range(scale.pick(1, 20)):
                await asyncio.gather(
                    *(send(body) for body in bodies),
                    *(send(bomb, **{"Content-Encoding": "gzip"}) for _ in range(20)),
                )
            await asyncio.gather(*slow)
            await send(envelope(event()))
        growth = receiver.program.peak_memory() - before
    promise.count("hostile deliveries", answers.total())
    promise.count(
        "answers of 500 and above but 503",
        sum(n for s, n in answers.items() if int(s) >= 500 and s != 503),
    )
    promise.count("told to come again (503)", answers[503])
    promise.worst("memory grown", growth / 2**20, "MiB")
    assert set(answers) <= {202, 503}, answers
    assert growth < MOST_GROWTH


async def test_nothing_that_is_said_is_ever_asked_for(faulty: Faulty, promise: Promise):
    """Addresses in events are a client's: nobody goes there."""
    knocks = 0

    async def knocked(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.close()

    canary = await asyncio.start_server(knocked, "127.0.0.1", 0)
    address = "{}:{}".format(*canary.sockets[0].getsockname())
    name = f"h{uuid.uuid4().hex[:6]}"
    sent = 0
    async with canary:
        for number in range(20):
            told = event(f"{name}/app{number}", url=f"http://{address}/v2/x")
            del told["target"]["references"]
            told["target"]["digest"] = f"sha256:{uuid.uuid4().hex * 2}"
            told["target"]["urls"] = [f"http://{address}/layer"]
            told["request"] |= {"host": address, "addr": address}
            told["source"] |= {"addr": address}
            told["actor"] = {"name": f"http://{address}"}
            assert await faulty.notify(json.dumps({"events": [told]}).encode()) == 202
            sent += 1
        await faulty.settled()

        async def asked_for() -> bool:
            tried = """SELECT count(*) FROM manifests m JOIN repositories r ON r.id = m.repository_id
                       WHERE r.name LIKE $1 AND m.fetch_attempts > 0"""
            return bool(await faulty.pool.fetchval(tried, f"{name}/%") == sent)

        # At the configured registry, which has none of them.
        await wait_until(asked_for, 30, what="the sizes of all of them were asked for")
        for path in ("/v1/workspaces", f"/v1/workspaces/{name}/images", "/v1/status"):
            await faulty.get(path)
    promise.count("events that name an address", sent)
    promise.count("outbound requests caused", knocks)
    assert knocks == 0
