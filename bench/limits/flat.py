"""For scale: bare aiokafka → one flat row per event, by `unnest`. No ledger, no thinking.

`python -m bench.limits.flat BOOTSTRAP TOPIC DATABASE_URL GROUP`, until it is ended.
"""

import asyncio
import json
import sys

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer

TABLE = """
CREATE TABLE bench_flat (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id text,
  at text, action text, repository text, digest text, tag text, size int8)
"""

INSERT = """
INSERT INTO bench_flat (event_id, at, action, repository, digest, tag, size)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int8[])
"""

_BATCH = 2000


async def run(bootstrap: str, topic: str, url: str, group: str) -> None:
    """Take events."""
    connection = await asyncpg.connect(url)
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        while True:
            fetched = await consumer.getmany(timeout_ms=200, max_records=_BATCH)
            rows = [_row(record.value) for records in fetched.values() for record in records]
            if rows:
                await connection.execute(INSERT, *(list(item) for item in zip(*rows, strict=True)))
                await consumer.commit()
    finally:
        await consumer.stop()
        await connection.close()


def _row(value: bytes) -> tuple[object, ...]:
    event = json.loads(value)
    target = event["target"]
    return (
        *(event["id"], event["timestamp"], event["action"], target["repository"]),
        *(target["digest"], target["tag"], target["size"]),
    )


def main() -> None:
    """Run it."""
    uvloop.install()
    asyncio.run(run(*sys.argv[1:]))


if __name__ == "__main__":
    main()
