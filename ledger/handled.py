"""Dead letters that somebody has dealt with. They stay in their topic: Kafka removes no single record."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from runtime.postgres import Connection

Outcome = Literal["retried", "dropped"]

Place = tuple[int, int]
"""(partition, offset) in the dead-letter topic."""


class Handled(msgspec.Struct, frozen=True):
    """What became of a dead letter, and when (UTC)."""

    outcome: Outcome
    at: datetime


# The last word counts: what was dropped may still be retried.
MARK = """
INSERT INTO handled_dead_letters (cluster_id, partition, record_offset, outcome, handled_at)
SELECT $1, place.partition, place.record_offset, $4, $5
FROM unnest($2::int[], $3::int8[]) AS place(partition, record_offset)
ORDER BY place.partition, place.record_offset
ON CONFLICT (cluster_id, partition, record_offset)
DO UPDATE SET outcome = excluded.outcome, handled_at = excluded.handled_at
"""

FIND = """
SELECT h.partition, h.record_offset, h.outcome, h.handled_at
FROM handled_dead_letters h
JOIN unnest($2::int[], $3::int8[]) AS place(partition, record_offset)
  USING (partition, record_offset)
WHERE h.cluster_id = $1
"""

# Only those that the topic still holds: what its retention has taken is open no more, either.
COUNT = """
SELECT count(*)
FROM handled_dead_letters h
JOIN unnest($2::int[], $3::int8[]) AS held(partition, first) USING (partition)
WHERE h.cluster_id = $1 AND h.record_offset >= held.first
"""


async def mark(
    connection: Connection,
    cluster_id: str,
    places: Sequence[Place],
    outcome: Outcome,
    *,
    now: datetime,
) -> None:
    """Remember that these need nobody's attention any more."""
    await connection.execute(
        MARK, cluster_id, [p for p, _o in places], [o for _p, o in places], outcome, now
    )


async def find(
    connection: Connection, cluster_id: str, places: Sequence[Place]
) -> dict[Place, Handled]:
    """Those of the places that were handled."""
    rows = await connection.fetch(
        FIND, cluster_id, [p for p, _o in places], [o for _p, o in places]
    )
    return {
        (row["partition"], row["record_offset"]): Handled(row["outcome"], row["handled_at"])
        for row in rows
    }


async def count(connection: Connection, cluster_id: str, firsts: Mapping[int, int]) -> int:
    """How many were handled, of those at or behind the first offset that each partition holds."""
    return int(await connection.fetchval(COUNT, cluster_id, list(firsts), list(firsts.values())))
