"""Your own consumer of quota events: a group of its own, each event handled once, none passed over."""

import asyncio
import json
import os

from aiokafka import AIOKafkaConsumer


async def main() -> None:
    consumer = AIOKafkaConsumer(
        "registry.quota-events",
        bootstrap_servers=os.environ["RQ_KAFKA_BOOTSTRAP"],
        group_id=os.environ.get("GROUP", "my-alerts"),
        auto_offset_reset="earliest",
        enable_auto_commit=False,  # an offset moves when its event has been handled, not before
    )
    handled: set[str] = set()  # keep it where you keep your state: an event may come again
    async with consumer:
        async for record in consumer:
            event = json.loads(record.value)
            if event["id"] not in handled and event["type"].endswith("usage.level_changed.v1"):
                level, workspace = event["data"]["level"], event["subject"]
                print(f"{workspace} is {level}: {event['data']['ratio']:.0%} used", flush=True)
            handled.add(event["id"])
            await consumer.commit()


asyncio.run(main())
