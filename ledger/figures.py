"""Figures of everything at once, for the status and for metrics. Reads only."""

import msgspec

from runtime.postgres import Connection


class Fullness(msgspec.Struct, frozen=True):
    """How full a workspace is. Bytes."""

    workspace: str
    usage_bytes: int
    quota_bytes: int
    level: str


# Every one that is over its quota is among them: somebody has to be told of each.
FULLEST = """
SELECT name, usage_bytes, quota_bytes, level FROM (
  SELECT name, usage_bytes, quota_bytes, level,
         row_number() OVER (ORDER BY usage_bytes::numeric / quota_bytes DESC, name) AS place
  FROM workspaces WHERE first_image_at IS NOT NULL OR configured) ranked
WHERE place <= $1 OR level = 'exceeded' ORDER BY place LIMIT $2
"""

# Levels that nobody has are absent.
LEVELS = """
SELECT level, count(*) AS workspaces, sum(usage_bytes)::int8 AS usage_bytes
FROM workspaces WHERE first_image_at IS NOT NULL OR configured GROUP BY level
"""

# What was not recorded yet may belong to any partition that is known; positions of other clusters
# mean nothing here.
NEXT_OFFSETS = """
SELECT partition, next_offset FROM consumer_offsets WHERE cluster_id = $1 AND topic = $2
"""


async def fullest(connection: Connection, limit: int, *, most: int) -> list[Fullness]:
    """Visible workspaces by used share of their quota: the fullest, and all that exceed it; `most` in all."""
    return [Fullness(*row.values()) for row in await connection.fetch(FULLEST, limit, most)]


async def levels(connection: Connection) -> dict[str, tuple[int, int]]:
    """Level → how many workspaces have it, and their bytes."""
    rows = await connection.fetch(LEVELS)
    return {row["level"]: (row["workspaces"], row["usage_bytes"]) for row in rows}


async def next_offsets(connection: Connection, cluster_id: str, topic: str) -> dict[int, int]:
    """Partition → the first offset that is not recorded."""
    rows = await connection.fetch(NEXT_OFFSETS, cluster_id, topic)
    return {row["partition"]: row["next_offset"] for row in rows}
