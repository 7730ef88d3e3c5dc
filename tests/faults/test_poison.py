"""What nobody can read is put aside, exactly once each, while everything else goes on."""

import asyncio
import json
import uuid

import msgspec
import pytest

from registry.media_types import OCI_MANIFEST
from registry.push import build_image, build_layer, push_image
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC
from runtime.producers import open_producer
from runtime.settings import Settings
from tests.faults.conftest import Faulty
from tests.support.consumers import event
from tests.support.deliveries import BAD_BODIES, envelope
from tests.support.inbox import inbox
from tests.support.promises import Promise, Scale
from tests.support.waiting import wait_until

GOOD = "event without envelope"
"""What is wrong for a receiver and right in the topic."""

PACE = 0.02
"""Seconds between two valid events."""


async def longest_pause(faulty: Faulty, workspace: str, events: int) -> float:
    """Deliver valid events at their pace; the longest time for which none was recorded."""
    loop, seen, moved, longest = asyncio.get_running_loop(), -1, 0.0, 0.0

    async def deliver() -> None:
        for number in range(events):
            body = envelope(event(f"{workspace}/app", tag=str(number)))
            assert await faulty.notify(body) == 202
            await asyncio.sleep(PACE)

    delivering = asyncio.create_task(deliver())
    begin = await faulty.usage(workspace)
    while seen < begin + events * 5100:
        now = await faulty.usage(workspace)
        if now != seen:
            longest = max(longest, loop.time() - moved) if moved else 0.0
            seen, moved = now, loop.time()
        assert loop.time() - (moved or loop.time()) < 30, "nothing is recorded any more"
        await asyncio.sleep(0.005)
    await delivering
    return longest


@pytest.mark.promise("poison")
async def test_poison_between_valid_events_blocks_nothing(
    faulty: Faulty, promise: Promise, scale: Scale
):
    """Past the receiver, straight into the topic: what it could never let through is there, too."""
    workspace, rounds = f"p{uuid.uuid4().hex[:6]}", scale.pick(2, 20)
    poison = [raw for name, raw in BAD_BODIES.items() for _ in range(rounds) if name != GOOD]
    events = scale.pick(50, 500)
    usual = await longest_pause(faulty, workspace, events)
    producer = await open_producer(Settings(kafka_bootstrap=faulty.stack.kafka_bootstrap))

    async def poisoning() -> None:
        for start in range(0, len(poison), 20):
            for raw in poison[start : start + 20]:
                await producer.send_and_wait(
                    NOTIFICATIONS_TOPIC,
                    raw,
                    key=workspace.encode(),
                    headers=[("mark", workspace.encode())],
                )
            await asyncio.sleep(events * PACE / len(poison) * 10)

    async with inbox(faulty.stack.kafka_bootstrap) as stored:
        poisoned = asyncio.create_task(poisoning())
        pause = await longest_pause(faulty, workspace, events)
        await poisoned
        await producer.stop()
        await faulty.settled()
        records = await stored.read()
    sent = {
        f"{record.topic}/{record.partition}/{record.offset}"
        for record in records
        if record.topic == NOTIFICATIONS_TOPIC and "mark" in record.headers
    }
    letters = [record for record in records if record.topic == DEAD_LETTER_TOPIC]
    origins = [record.headers["origin"].decode() for record in letters]
    promise.count("poisoned records", len(poison))
    promise.count("dead letters", len(letters))
    promise.worst("longest pause of valid events", pause)
    promise.worst("without poison", usual)
    assert len(sent) == len(poison)
    assert sorted(origins) == sorted(sent), "each once"
    assert all(record.headers["reason"] for record in letters)
    assert pause < usual + 2


@pytest.mark.promise("poison")
async def test_a_push_whose_notification_is_too_large_holds_up_no_other(
    faulty: Faulty, promise: Promise
):
    """A real registry's: a manifest just below its limit becomes a delivery above ours."""
    workspace = f"p{uuid.uuid4().hex[:6]}"
    repository, registry = f"{workspace}/huge", faulty.registry
    image = build_image([build_layer(workspace, 1000)])
    await push_image(registry, repository, image, "small")
    document = json.loads(image.manifest.content)
    # What a notification spells out in many indented lines is short in a manifest.
    layer = {"digest": document["layers"][0]["digest"], "size": 1, "urls": ["a"]}
    document["layers"] = [layer] * ((4 << 20) // (len(msgspec.json.encode(layer)) + 1) - 10)
    body = msgspec.json.encode(document)
    async with inbox(faulty.stack.kafka_bootstrap) as stored:
        await registry.put_manifest(repository, "huge", body, OCI_MANIFEST)
        await push_image(registry, f"{workspace}/next", image, "1")

        async def next_one() -> bool:
            found = await faulty.images(workspace)
            return any(item["app"] == "next" for item in found)

        await wait_until(next_one, 20, what="the push behind it is recorded")

        async def counted() -> bool:
            found = await faulty.images(workspace)
            return {"small", "huge"} <= {tag for item in found for tag in item["tags"]}

        await wait_until(counted, 20, what="the large one is counted, too")
        records = await stored.read()
        assert not any(record.topic == DEAD_LETTER_TOPIC for record in records)
    promise.count("deliveries of a real registry above the limit", 1)
