"""`alerts forward` as a process: real Kafka in, a local HTTP sink out."""

import asyncio
import base64
import json
import os
import re
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest_asyncio
from aiohttp import web
from aiokafka import AIOKafkaConsumer, TopicPartition

from alerts.render import sign, signing_key
from runtime.http import serving
from runtime.kafka import ALERTS_DEAD_LETTER_TOPIC, QUOTA_EVENTS_TOPIC, create_topics
from runtime.producers import open_producer
from runtime.settings import Settings
from tests.support.inbox import inbox
from tests.support.programs import running
from tests.support.waiting import wait_until

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "consume_quota_events.py"


@dataclass
class Sink:
    """What arrived, and what is answered: statuses one after another, then 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        status = self.statuses.pop(0) if self.statuses else 200
        body = await request.read()
        if status == 200:
            self.got.append(({k.lower(): v for k, v in request.headers.items()}, body))
        return web.Response(status=status)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _body in self.got]

    async def has(self, count: int, deadline: float = 30) -> None:
        async def arrived() -> bool:
            return len(self.got) >= count

        await wait_until(arrived, deadline, what=f"{count} deliveries")


@dataclass
class Bus:
    """The session's Kafka, a workspace of the test's own, a sink and forwarders."""

    settings: Settings
    workspace: str
    sink: Sink
    folder: Path

    async def announce(self, *kinds: str, ids: list[str] | None = None, **data: Any) -> list[str]:
        ids = ids or [str(uuid.uuid4()) for _ in kinds]
        producer = await open_producer(self.settings)
        for event_id, kind in zip(ids, kinds, strict=True):
            await producer.send_and_wait(
                QUOTA_EVENTS_TOPIC,
                key=self.workspace.encode(),
                value=self.event(event_id, kind, **data),
            )
        await producer.stop()
        return ids

    def event(self, event_id: str, kind: str, **more: Any) -> bytes:
        data: dict[str, Any] = {"ratio": 0.91, "usage_bytes": 91, "quota_bytes": 100}
        data |= {"level": "critical", "previous_level": "warning"} | more
        return json.dumps(
            {
                "specversion": "1.0",
                "id": event_id,
                "source": "/registry-quota",
                "type": f"io.registryquota.{kind}.v1",
                "subject": self.workspace,
                "time": datetime.now(UTC).isoformat(),
                "data": data,
            }
        ).encode()

    @asynccontextmanager
    async def forwarding(self, to: str = "webhook", *more: str) -> AsyncIterator[Any]:
        """A group of this test's workspace, which begins at the topic's start."""
        arguments = ["alerts", "forward", "--to", to, "--from-start", "--workspace", self.workspace]
        settings = {
            "RQ_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "RQ_KAFKA_GROUP": self.workspace,
            "RQ_ALERTS_URL": self.sink.url,
            "RQ_ALERTS_SECRET": SECRET,
        }
        log = self.folder / "forward.log"
        async with running([*arguments, *more], settings, log) as program:
            yield program


@pytest_asyncio.fixture
async def bus(kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Bus]:
    settings = Settings(kafka_bootstrap=kafka_bootstrap)
    await create_topics(settings)
    sink, app = Sink(), web.Application()
    app.router.add_post("/{path:.*}", sink.take)
    async with serving(app, host="127.0.0.1", port=0, drain_seconds=0.1) as port:
        sink.url = f"http://127.0.0.1:{port}/hook"
        yield Bus(settings, f"ws-{uuid.uuid4().hex[:8]}", sink, tmp_path)


async def test_each_event_arrives_once_signed_and_in_order_also_over_restarts(bus):
    first = await bus.announce("usage.level_changed", "build.denied", "image.recorded")
    async with bus.forwarding() as program:
        await bus.sink.has(3)
        # The relay died between Kafka and its mark: the same event again.
        await bus.announce("build.denied", ids=first[1:2])
        second = await bus.announce("cleanup.finished")
        await bus.sink.has(4)
        assert (await program.stop())[0] == 0
    await bus.announce("usage.level_changed", ids=first[:1])
    third = await bus.announce("build.denied")
    bus.sink.statuses = [500, 429, 503]
    async with bus.forwarding():
        await bus.sink.has(5)
    assert bus.sink.ids == [*first, *second, *third]
    for headers, body in bus.sink.got:
        assert headers["webhook-signature"] == sign(
            signing_key(SECRET), headers["webhook-id"], headers["webhook-timestamp"], body
        )
        assert json.loads(body)["id"] == headers["webhook-id"]


async def test_what_the_other_side_will_never_take_is_dead_lettered_and_the_rest_goes_on(bus):
    async with inbox(bus.settings.kafka_bootstrap, QUOTA_EVENTS_TOPIC):
        await create_topics(bus.settings, (ALERTS_DEAD_LETTER_TOPIC,))
    async with inbox(bus.settings.kafka_bootstrap, ALERTS_DEAD_LETTER_TOPIC) as dead:
        bus.sink.statuses = [422, 500, 500]
        ids = await bus.announce("build.denied", "build.denied", "build.denied")
        async with bus.forwarding("webhook", "--attempts", "2"):
            await bus.sink.has(1)
        letters = [record for record in await dead.read() if record.key == bus.workspace.encode()]
    assert bus.sink.ids == ids[2:]
    assert [json.loads(letter.value)["id"] for letter in letters] == ids[:2]
    assert [letter.headers["reason"] for letter in letters] == [
        b"answered 422, 1 try",
        b"answered 500, 2 tries",
    ]
    assert letters[0].headers["origin"].startswith(b"registry.quota-events/")


async def test_a_side_that_takes_nothing_ends_it_before_the_topic_is_dead_lettered(bus):
    bus.sink.statuses = [404] * 1000
    ids = await bus.announce(*["build.denied"] * 12)
    async with bus.forwarding("webhook", "--attempts", "1") as program:
        assert await program.wait() == 1
        assert "10 events in a row could not be delivered" in program.log()
    bus.sink.statuses = []
    async with bus.forwarding():
        await bus.sink.has(2)
    assert bus.sink.ids == ids[10:]


async def test_slack_and_alertmanager_get_what_they_understand_and_no_push(bus):
    await bus.announce("image.recorded", "usage.level_changed")
    async with bus.forwarding("slack"):
        await bus.sink.has(1)
    assert "critical (was warning)" in json.loads(bus.sink.got[0][1])["text"]
    async with bus.forwarding("alertmanager"):
        await bus.sink.has(2)
    severities = [alert["labels"]["severity"] for alert in json.loads(bus.sink.got[1][1])]
    assert severities == ["warning", "critical"]


NOTHING_STANDS = r"workspaces\W+0\b"


async def more_of(program: Any, pattern: str) -> None:
    """It is in the log once more than now."""
    before = len(re.findall(pattern, program.log()))

    async def said() -> bool:
        return len(re.findall(pattern, program.log())) > before

    await wait_until(said, 120, what=f"{pattern} in the log")


async def test_a_level_is_told_again_while_it_stands_also_after_a_restart_and_not_longer(bus):
    """Alertmanager ends an alert that nobody repeats, and forgets all of them when it restarts."""
    repeating = ("alertmanager", "--repeat-every", "1")
    await bus.announce("usage.level_changed", level="exceeded", previous_level="ok")
    async with bus.forwarding(*repeating):
        await bus.sink.has(2, 120)
    told = [alert for _headers, body in bus.sink.got for alert in json.loads(body)]
    assert {alert["labels"]["severity"] for alert in told} == {"exceeded"}
    assert len({alert["startsAt"] for alert in told}) == 1
    ends = [datetime.fromisoformat(alert["endsAt"]) for alert in told]
    assert ends == sorted(ends)
    assert ends[0] < ends[-1]
    bus.sink.got.clear()
    async with bus.forwarding(*repeating) as program:
        await bus.sink.has(1, 120)
        await bus.announce("usage.level_changed", level="ok", previous_level="exceeded")
        await more_of(program, NOTHING_STANDS)
    (ended,) = json.loads(bus.sink.got[-1][1])
    assert datetime.fromisoformat(ended["endsAt"]) <= datetime.now(UTC)
    bus.sink.got.clear()
    async with bus.forwarding(*repeating) as program:
        await more_of(program, NOTHING_STANDS)
    assert bus.sink.got == []


async def test_what_stood_before_it_was_kept_is_learned_once_from_the_events(bus):
    """An earlier release has delivered the event, and its group stands behind it."""
    await bus.announce("usage.level_changed", level="critical", previous_level="ok")
    group = f"{bus.workspace}-alerts-alertmanager"
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bus.settings.kafka_bootstrap, group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    partitions = [
        TopicPartition(QUOTA_EVENTS_TOPIC, number)
        for number in range(bus.settings.kafka_partitions)
    ]
    consumer.assign(partitions)
    await consumer.commit(await consumer.end_offsets(partitions))
    await consumer.stop()
    async with bus.forwarding("alertmanager"):
        await bus.sink.has(1)
    (alert,) = json.loads(bus.sink.got[0][1])
    assert (alert["labels"]["severity"], alert["labels"]["workspace"]) == (
        "critical",
        bus.workspace,
    )


async def test_a_missing_secret_or_address_starts_nothing(bus):
    async with running(["alerts", "forward", "--to", "webhook"], {}, bus.folder / "a") as program:
        assert await program.wait() == 2
        assert "set RQ_ALERTS_URL" in program.log()
    url = {"RQ_ALERTS_URL": bus.sink.url}
    async with running(["alerts", "forward", "--to", "webhook"], url, bus.folder / "b") as program:
        assert await program.wait() == 2
        assert "RQ_ALERTS_SECRET: the signing secret must be" in program.log()


async def test_a_type_that_does_not_exist_is_refused_with_near_ones(bus):
    only = ["alerts", "forward", "--to", "slack", "--only", "usage.level_change"]
    url = {"RQ_ALERTS_URL": bus.sink.url}
    async with running(only, url, bus.folder / "c") as program:
        assert await program.wait() == 2
        assert "did you mean usage.level_changed?" in " ".join(program.log().split())


async def test_the_example_of_the_docs_consumes_each_event_once(bus):
    assert len(EXAMPLE.read_text().splitlines()) <= 30
    ids = await bus.announce("usage.level_changed", "build.denied")
    await bus.announce("usage.level_changed", ids=ids[:1])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLE),
        env={
            "PATH": os.environ["PATH"],
            "RQ_KAFKA_BOOTSTRAP": bus.settings.kafka_bootstrap,
            "GROUP": bus.workspace,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        await bus.announce("usage.level_changed")
        lines: list[str] = []
        async with asyncio.timeout(30):
            while len(lines) < 2:
                line = (await process.stdout.readline()).decode().strip()
                if bus.workspace in line:
                    lines.append(line)
    finally:
        process.terminate()
        await process.wait()
    assert lines == [f"{bus.workspace} is critical: 91% used"] * 2
