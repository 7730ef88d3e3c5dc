"""Deletions that no answer came to: what the registry made of them is asked for again, later."""

from datetime import datetime
from uuid import UUID

import msgspec

from ledger.undo import ITEMS, Kept, kept_of_row
from runtime.postgres import Connection

# What a later run has deleted (or is deleting) is that one's.
UNSURE = f"""
SELECT found.*, c.workspace_id, i.unsure_bytes, i.done_at, coalesce(m.delete_ns, -1) AS delete_ns,
       coalesce(m.present, false) AS present,
       NOT EXISTS (SELECT FROM cleanup_items first
                   WHERE first.run_id = i.run_id AND first.unit = i.unit
                     AND first.position < i.position) AS heads_its_unit
FROM ({ITEMS} WHERE i.unsure_bytes IS NOT NULL) found
JOIN cleanup_items i ON i.run_id = found.run_id AND i.position = found.position
JOIN cleanup_runs c ON c.id = i.run_id
LEFT JOIN manifests m ON m.repository_id = i.repository_id AND m.digest = i.digest
WHERE i.unsure_bytes IS NOT NULL AND i.state IN ('failed', 'skipped')
  AND CASE WHEN $1::uuid IS NULL THEN c.state <> 'running' ELSE i.run_id = $1 END
  AND NOT EXISTS (
    SELECT FROM cleanup_items later
    WHERE later.repository_id = i.repository_id AND later.digest = i.digest
      AND (later.run_id, later.position) <> (i.run_id, i.position)
      AND later.push_ns >= i.push_ns AND later.state IN ('deleting', 'deleted', 'restored')
      AND (later.done_at IS NULL OR later.done_at >= i.done_at))
ORDER BY i.run_id, i.position
"""  # noqa: S608 - a constant

# The run has ended: what it freed is told with what came later.
RECOUNT_RUN = """
UPDATE cleanup_runs c
SET freed_bytes = (SELECT coalesce(sum(i.freed_bytes), 0) FROM cleanup_items i WHERE i.run_id = c.id)
WHERE c.id = $1 AND c.state <> 'running'
"""

STAYS = """
UPDATE cleanup_items SET unsure_bytes = NULL
WHERE run_id = $1 AND position = $2 AND state IN ('failed', 'skipped')
"""


class Late(msgspec.Struct, frozen=True):
    """A deletion whose outcome is not known. Bytes; nanoseconds."""

    kept: Kept
    workspace_id: int
    unsure_bytes: int
    """What it would free, as its run saw it."""
    done_at: datetime
    """When the run gave up waiting."""
    delete_ns: int
    """The newest delete of the manifest that the ledger knows; -1: none."""
    present: bool
    """Whether the ledger has the manifest."""
    heads_its_unit: bool
    """Whether it is the image, and not what goes along with one."""

    @property
    def told(self) -> bool:
        """Whether the ledger has learned of a delete that the plan did not know."""
        return self.delete_ns > self.kept.recorded.item.push_ns


async def unsure(connection: Connection, run_id: UUID | None = None) -> list[Late]:
    """Deletions of one run whose outcome is not known; without one, of all that have ended."""
    rows = await connection.fetch(UNSURE, run_id)
    return [
        Late(
            kept_of_row(row),
            row["workspace_id"],
            row["unsure_bytes"],
            row["done_at"],
            row["delete_ns"],
            row["present"],
            row["heads_its_unit"],
        )
        for row in rows
    ]


async def recount_run(connection: Connection, run_id: UUID) -> None:
    """Tell anew what a run that has ended freed."""
    await connection.execute(RECOUNT_RUN, run_id)


async def stays(connection: Connection, run_id: UUID, position: int) -> None:
    """The registry still has it, and its DELETE is not to be expected any more."""
    await connection.execute(STAYS, run_id, position)
