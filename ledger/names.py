"""Which names are known, for whoever wrote one that is not. Reads only."""

from collections.abc import Iterable

from ledger.reading import LIVE_TAG_CONDITION
from runtime.postgres import Connection

_CANDIDATES = 500
"""How many names are worth comparing: those that begin alike and are about as long come first."""

WORKSPACES_LIKE = """
SELECT name FROM workspaces
WHERE (first_image_at IS NOT NULL OR configured) AND ($2::text[] IS NULL OR name = ANY($2))
ORDER BY left(lower(name), 2) = left(lower($1), 2) DESC, abs(length(name) - length($1)), name
LIMIT $3
"""

APPS_LIKE = """
SELECT app FROM repositories WHERE workspace_id = $1 GROUP BY app
ORDER BY app = $2 DESC, left(lower(app), 2) = left(lower($2), 2) DESC,
         abs(length(app) - length($2)), app
LIMIT $3
"""

REPOSITORIES_LIKE = """
SELECT name FROM repositories WHERE workspace_id = $1
ORDER BY name = $2 DESC, left(lower(name), 2) = left(lower($2), 2) DESC,
         abs(length(name) - length($2)), name
LIMIT $3
"""

TAGS_LIKE = f"""
SELECT DISTINCT t.name, left(lower(t.name), 2) = left(lower($2), 2) AS alike,
       abs(length(t.name) - length($2)) AS apart
FROM repositories r JOIN tags t ON t.repository_id = r.id
JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
WHERE r.workspace_id = $1 AND ($3::text IS NULL OR r.app = $3) AND ($4::text IS NULL OR r.name = $4)
  AND {LIVE_TAG_CONDITION}
ORDER BY alike DESC, apart, t.name
LIMIT $5
"""  # noqa: S608 - constants

# Of what a cleanup deleted and kept the bytes of.
DELETED_TAGS_LIKE = """
SELECT DISTINCT tag, left(lower(tag), 2) = left(lower($3), 2) AS alike,
       abs(length(tag) - length($3)) AS apart
FROM cleanup_runs c JOIN cleanup_items i ON i.run_id = c.id JOIN repositories r ON r.id = i.repository_id
CROSS JOIN jsonb_array_elements_text(i.tags) AS tag
WHERE c.workspace_id = $1 AND r.name = $2 AND i.document IS NOT NULL
ORDER BY alike DESC, apart, tag
LIMIT $4
"""

KNOWN_REPOSITORY = "SELECT EXISTS (SELECT FROM repositories WHERE registry = $1 AND name = $2)"


async def workspaces_like(
    connection: Connection, name: str, among: Iterable[str] | None
) -> list[str]:
    """Visible workspaces, the likeliest first; with `among` these alone."""
    allowed = None if among is None else sorted(among)
    return [row[0] for row in await connection.fetch(WORKSPACES_LIKE, name, allowed, _CANDIDATES)]


async def apps_like(connection: Connection, workspace_id: int, app: str) -> list[str]:
    """Apps that a workspace has ever had, the likeliest first; the very name is the first of them."""
    rows = await connection.fetch(APPS_LIKE, workspace_id, app, _CANDIDATES)
    return [row[0] for row in rows]


async def repositories_like(connection: Connection, workspace_id: int, name: str) -> list[str]:
    """Repositories that a workspace has ever had, as above."""
    rows = await connection.fetch(REPOSITORIES_LIKE, workspace_id, name, _CANDIDATES)
    return [row[0] for row in rows]


async def tags_like(
    connection: Connection,
    workspace_id: int,
    tag: str,
    *,
    app: str | None = None,
    repository: str | None = None,
) -> list[str]:
    """Tags that name something now, in a workspace, one of its apps or repositories; as above."""
    rows = await connection.fetch(TAGS_LIKE, workspace_id, tag, app, repository, _CANDIDATES)
    return [row[0] for row in rows]


async def deleted_tags_like(
    connection: Connection, workspace_id: int, repository: str, tag: str
) -> list[str]:
    """Tags of a repository's images that cleanups have deleted and can put back; as above."""
    rows = await connection.fetch(DELETED_TAGS_LIKE, workspace_id, repository, tag, _CANDIDATES)
    return [row[0] for row in rows]


async def knows_repository(connection: Connection, registry: str, name: str) -> bool:
    """Whether anything was ever heard of a repository."""
    return bool(await connection.fetchval(KNOWN_REPOSITORY, registry, name))
