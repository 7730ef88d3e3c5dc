"""Which names are known, for whoever wrote one that is not. Reads only."""

from collections.abc import Iterable

from runtime.postgres import Connection

_CANDIDATES = 2000
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


async def knows_repository(connection: Connection, registry: str, name: str) -> bool:
    """Whether anything was ever heard of a repository."""
    return bool(await connection.fetchval(KNOWN_REPOSITORY, registry, name))
