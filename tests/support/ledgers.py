"""Reading a ledger back, and counting it again without any of its counters."""

from typing import Any

from ledger.facts import names_only
from ledger.packing import unpack_blobs
from ledger.reading import LIVE_TAG_CONDITION
from ledger.record import Recorder
from quota.levels import level
from registry.workspaces import WorkspaceRule
from runtime.postgres import Pool
from runtime.settings import Settings

PATTERN = Settings.model_fields["workspace_pattern"].default


def recorder(pool: Pool, *, quota_bytes: int = 10 * 1024**3) -> Recorder:
    return Recorder(
        pool, rule=WorkspaceRule(PATTERN), default_quota_bytes=quota_bytes, level_of=level
    )


async def tags(pool: Pool) -> dict[str, dict[str, bytes]]:
    """Repository → tag → digest, as the ledger has them."""
    found: dict[str, dict[str, bytes]] = {}
    for row in await pool.fetch(
        f"""SELECT r.name AS repository, t.name, t.digest FROM repositories r
            JOIN tags t ON t.repository_id = r.id
            JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
            WHERE {LIVE_TAG_CONDITION}"""
    ):
        found.setdefault(row["repository"], {})[row["name"]] = row["digest"]
    return found


async def manifests(pool: Pool) -> set[tuple[str, bytes]]:
    rows = await pool.fetch(
        "SELECT r.name, m.digest FROM repositories r JOIN manifests m ON m.repository_id = r.id"
        " WHERE m.present"
    )
    return {(row["name"], row["digest"]) for row in rows}


async def usage(pool: Pool) -> dict[str, int]:
    """Workspace → bytes, by the counter; workspaces that hold nothing are left out."""
    rows = await pool.fetch("SELECT name, usage_bytes FROM workspaces WHERE usage_bytes <> 0")
    return {row["name"]: row["usage_bytes"] for row in rows}


async def recount(pool: Pool) -> dict[str, int]:
    """Workspace → bytes, from the manifests alone: storage's word first, then a manifest's own
    document, then the largest size that is declared."""
    stored = {
        row["digest"]: row["size"]
        for row in await pool.fetch("SELECT * FROM stored_blobs WHERE size >= 0")
    }
    documents: dict[str, dict[bytes, int]] = {}
    declared: dict[str, dict[bytes, int]] = {}
    for row in await pool.fetch(
        """SELECT w.name AS workspace, m.digest, m.size, m.blobs FROM manifests m
           JOIN repositories r ON r.id = m.repository_id JOIN workspaces w ON w.id = r.workspace_id
           WHERE m.present ORDER BY m.subject_known, m.size"""
    ):
        sizes = documents.setdefault(row["workspace"], {})
        sizes[row["digest"]] = row["size"]  # the largest, of those that were read
        largest = declared.setdefault(row["workspace"], {})
        for digest, size in unpack_blobs(row["blobs"] or b""):
            largest[digest] = max(size, largest.get(digest, 0))  # 0: only named
    return {
        workspace: sum((declared[workspace] | documents[workspace] | stored_here).values())
        for workspace in documents
        for stored_here in [
            {
                digest: stored[digest]
                for digest in declared[workspace] | documents[workspace]
                if digest in stored
            }
        ]
    }


async def drift(pool: Pool) -> int:
    """Bytes by which the counters differ from a recount, over all workspaces."""
    counted, truth = await usage(pool), await recount(pool)
    return sum(abs(counted.get(name, 0) - truth.get(name, 0)) for name in counted | truth)


async def references_agree(pool: Pool) -> bool:
    """Whether every reference count equals the number of existing manifests with that digest.

    And of those that only name it, which storage has not spoken of.
    """
    counted: dict[tuple[int, bytes], tuple[int, int]] = {}
    told = {row["digest"] for row in await pool.fetch("SELECT digest FROM stored_blobs")}
    for row in await pool.fetch(
        """SELECT r.workspace_id, m.digest, m.blobs FROM manifests m
           JOIN repositories r ON r.id = m.repository_id WHERE m.present"""
    ):
        members = dict(unpack_blobs(row["blobs"] or b""))
        for digest in members.keys() | {row["digest"]}:
            named = digest != row["digest"] and digest not in told
            named = named and names_only(digest, members[digest])
            key = (row["workspace_id"], digest)
            refs, names = counted.get(key, (0, 0))
            counted[key] = (refs + 1, names + named)
    rows = await pool.fetch(
        "SELECT workspace_id, digest, refs, names FROM workspace_digests WHERE refs > 0"
    )
    return counted == {
        (row["workspace_id"], row["digest"]): (row["refs"], row["names"]) for row in rows
    }


async def rows(pool: Pool) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that convergence is about, without surrogate ids and moments of recording."""
    statements = {
        "manifests": """SELECT r.name, m.digest, r.registry, m.push_ns, m.push_id, m.seen_ns, m.seen_id,
              m.delete_ns, m.delete_id, m.sure_ns, m.sure_id, m.heard_ns, m.heard_id, m.created_ns, m.dated_ns, m.pulled_ns, m.first_ns, m.size, m.media_type, m.blobs, m.children, m.present
              FROM manifests m JOIN repositories r ON r.id = m.repository_id ORDER BY 1, 2, 3""",
        "tags": """SELECT r.name, t.name, r.registry, t.digest, t.set_ns, t.untag_ns, t.named_ns, t.first_push_ns
              FROM tags t JOIN repositories r ON r.id = t.repository_id ORDER BY 1, 2, 3""",
        "repeats": """SELECT r.name, s.name, s.set_ns, s.set_id, s.moment_ns, s.pushed
              FROM tag_repeats s JOIN repositories r ON r.id = s.repository_id ORDER BY 1, 2, 3, 4""",
        "digests": """SELECT w.name, d.digest, d.refs, d.names, CASE WHEN d.refs > d.names THEN d.size END
              FROM workspace_digests d JOIN workspaces w ON w.id = d.workspace_id WHERE d.refs > 0 ORDER BY 1, 2""",
        "stored": "SELECT digest, size, word, asked_ns FROM stored_blobs WHERE size >= 0 ORDER BY 1",
        "usage": "SELECT name, usage_bytes FROM workspaces WHERE usage_bytes <> 0 ORDER BY 1",
    }
    return {
        name: [tuple(row.values()) for row in await pool.fetch(statement)]
        for name, statement in statements.items()
    }


async def empty(pool: Pool) -> None:
    """Forget everything (a test that tries many histories in one database)."""
    await pool.execute(
        """TRUNCATE workspaces, repositories, manifests, tags, tag_repeats, workspace_digests, stored_blobs,
           outbox, observations, consumer_offsets, size_checks, reconcile_passes
           RESTART IDENTITY CASCADE"""
    )
