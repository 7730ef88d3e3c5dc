"""A page of images as `GET …/images` and the pages tell it: what has to be read beside the page."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ledger import images as rows
from ledger import reading
from ledger.leases import leases_of
from ledger.reading import ManifestView, WorkspaceView
from quota.images import describe, digests_of
from quota.policy import parse_policy
from quota.protected import Rules, subjects_of
from registry.timestamps import to_ns
from runtime.postgres import Connection


async def describe_page(
    connection: Connection, workspace: WorkspaceView, page: Sequence[ManifestView], now: datetime
) -> list[dict[str, Any]]:
    """Items of a page, within the transaction in which it was read."""
    policy = parse_policy(workspace.policy)
    views = await rows.with_children(connection, page)
    parents = await rows.indexes(connection, (view.repository_id for view in page))
    held = await reading.held(connection, workspace.id, digests_of(views.values()))
    subjects = [(view.repository_id, digest) for view in page for digest in subjects_of(view)]
    rules = Rules(
        policy=policy,
        now_ns=to_ns(now),
        leases=tuple(await leases_of(connection, workspace.id)),
        newest=await rows.newest(
            connection, workspace.id, (view.app for view in page), policy.keep_newest
        ),
        subjects=await rows.present(connection, subjects),
    )
    return describe(page, views, parents, held, rules)
