"""Cleanups that a person or program asks for, and the record of all of them."""

import asyncio
from typing import Any
from uuid import UUID

from ledger import runs as rows
from ledger.reading import WorkspaceView
from quota.cleanup import Cleaner, Outcome
from quota.decision import target_bytes
from quota.snapshot import Incoming
from registry.names import format_digest
from runtime.postgres import Pool


class Runs:
    """Plans, starts and remembers cleanups."""

    def __init__(self, pool: Pool, cleaner: Cleaner) -> None:
        self._pool = pool
        self._cleaner = cleaner

    async def plan(self, view: WorkspaceView) -> dict[str, Any]:
        """A dry run: every image with keep or delete, why, and the bytes."""
        planned = await self._cleaner.plan(view.name, Incoming(reserved_bytes=view.reserved_bytes))
        if planned is None:  # pragma: no cover - the view was read a moment ago
            raise LookupError(view.name)
        snapshot, plan = planned
        return {
            "workspace": view.name,
            "usage_bytes": plan.usage_before_bytes,
            "usage_after_bytes": plan.usage_after_bytes,
            "target_bytes": target_bytes(snapshot.workspace.quota_bytes, snapshot.policy),
            "freed_bytes": plan.freed_bytes,
            "target_reached": plan.target_reached,
            "why_not": plan.why_not,
            "blocks": [{"code": block.code, "why": block.sentence} for block in plan.blocks],
            "images": [
                {
                    "repository": decision.manifest.repository,
                    "app": decision.manifest.app,
                    "digest": format_digest(decision.manifest.digest),
                    "tags": list(decision.manifest.tags),
                    "action": "keep" if decision.keep else "delete",
                    "code": decision.why,
                    "why": decision.sentence,
                    "freed_bytes": decision.freed_bytes,
                }
                for decision in plan.decisions
            ],
        }

    async def clean(self, view: WorkspaceView, timeout_s: float) -> Outcome:
        """Clean now, towards the target; what is not done within the time goes on behind."""
        task, outcome, _own = self._cleaner.start(
            view.name, Incoming(reserved_bytes=view.reserved_bytes), cause="asked for"
        )
        await asyncio.wait([task], timeout=timeout_s)
        return task.result() if task.done() else outcome

    async def list(self, view: WorkspaceView, limit: int) -> list[dict[str, Any]]:
        """Runs, newest first."""
        async with self._pool.acquire() as connection:
            return [_run(row) for row in await rows.runs_of(connection, view.id, limit)]

    async def get(self, view: WorkspaceView, run_id: UUID) -> dict[str, Any] | None:
        """One run with what became of each image."""
        async with self._pool.acquire() as connection:
            row = await rows.run_of(connection, view.id, run_id)
        if row is None:
            return None
        items = [{**item, "digest": format_digest(item["digest"])} for item in row.pop("items")]
        return {**_run(row), "items": items}


def _run(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "id": str(row["id"])}
