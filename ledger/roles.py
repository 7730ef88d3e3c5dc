"""What each process may do in the database: exactly what it needs.

An operator makes the group roles once (docs/security.md) and every `registry-quota migrate` gives them
their rights anew, so that a new table has them too. Without the roles nothing happens: then everybody
is the one user of `RQ_DATABASE_URL`.
"""

from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import Final

from runtime.postgres import Connection

CONSUMER: Final = "registry_quota_consumer"
API: Final = "registry_quota_api"
REPORT: Final = "registry_quota_report"
"""Looks: dashboards, people with a question."""
ROLES: Final = (CONSUMER, API, REPORT)

_READ, _ADD, _CHANGE, _KEEP, _ALL = (
    "SELECT",
    "SELECT, INSERT",
    "SELECT, UPDATE",
    "SELECT, INSERT, UPDATE",
    "SELECT, INSERT, UPDATE, DELETE",
)
_SHOWN_OF_TOKENS: Final = (
    "id, name, scopes, workspaces, created_by, created_at, expires_at, revoked_at, last_used_at"
)

RIGHTS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        # The account: both fold facts into it, the API what the registry tells it itself.
        "workspaces": {CONSUMER: _KEEP, API: _KEEP, REPORT: _READ},
        "repositories": {CONSUMER: _KEEP, API: _KEEP, REPORT: _READ},
        "manifests": {CONSUMER: _KEEP, API: _KEEP, REPORT: _READ},
        "tags": {CONSUMER: _KEEP, API: _KEEP, REPORT: _READ},
        "tag_repeats": {CONSUMER: _ALL, API: _ALL, REPORT: _READ},
        "workspace_digests": {CONSUMER: _KEEP, API: _KEEP, REPORT: _READ},
        "repository_blobs": {CONSUMER: _ADD, API: _ADD, REPORT: _READ},
        "stored_blobs": {CONSUMER: _KEEP, API: _KEEP, REPORT: _READ},
        "observations": {CONSUMER: _ADD, API: _ADD, REPORT: _READ},
        "outbox": {CONSUMER: _ADD, API: _KEEP, REPORT: _READ},
        "usage_history": {CONSUMER: _KEEP, API: _ALL, REPORT: _READ},
        "app_pushes": {CONSUMER: _KEEP, API: _KEEP, REPORT: _READ},
        "reservations": {CONSUMER: _CHANGE, API: _ALL, REPORT: _READ},
        # Work that the consumer does, on what either has recorded.
        "tag_checks": {CONSUMER: _ALL, API: _KEEP, REPORT: _READ},
        "manifest_checks": {CONSUMER: _ALL, API: _KEEP, REPORT: _READ},
        "size_checks": {CONSUMER: _ALL, API: _KEEP, REPORT: _READ},
        # Where the consumer stands. Nobody else moves it.
        "consumer_offsets": {CONSUMER: _KEEP, API: _READ, REPORT: _READ},
        "log_breaks": {CONSUMER: _ADD, API: _CHANGE, REPORT: _READ},
        # The API's own.
        "handled_dead_letters": {API: _KEEP, REPORT: _READ},
        "reconcile_passes": {API: _KEEP, REPORT: _READ},
        "repository_walks": {API: _KEEP, REPORT: _READ},
        "reconcile_drift": {API: _KEEP, REPORT: _READ},
        "suspected_absences": {API: _ALL, REPORT: _READ},
        "unreadable_images": {API: _ALL, REPORT: _READ},
        "recounts": {API: _KEEP, REPORT: _READ},
        "leases": {API: _ALL, REPORT: _READ},
        "cleanup_plans": {API: _ALL, REPORT: _READ},
        "cleanup_runs": {API: _ALL, REPORT: _READ},
        "cleanup_items": {API: _KEEP, REPORT: _READ},
        "gc_verifications": {API: _KEEP, REPORT: _READ},
        # A secret: who only looks needs it even less.
        "own_marks": {CONSUMER: _READ, API: _READ},
        # Hashes of secrets: nobody who only looks needs them.
        "api_tokens": {API: _KEEP, REPORT: f"SELECT ({_SHOWN_OF_TOKENS})"},
        # Alembic's own: `doctor` compares it.
        "alembic_version": dict.fromkeys(ROLES, _READ),
    }
)
"""Table → role → privileges. A table that is not here fails a test."""

_THERE = "SELECT rolname FROM pg_roles WHERE rolname = ANY($1::text[])"

_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"

# To others Postgres only gives a warning.
_IS_OWNER = """
SELECT bool_and(pg_has_role(c.relowner, 'USAGE')) FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relname = 'workspaces'
"""

_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(5921, 12)"


async def grant(connection: Connection) -> list[str]:
    """Give the roles that exist their rights and take all others; their names.

    Only the owner of the tables can: called by anybody else it changes nothing.
    """
    if not await connection.fetchval(_IS_OWNER):
        return []
    there = {row["rolname"] for row in await connection.fetch(_THERE, list(ROLES))}
    roles = [role for role in ROLES if role in there]
    tables = {row["tablename"] for row in await connection.fetch(_TABLES)}
    async with connection.transaction():
        # Postgres fails where two change one table's rights at once.
        await connection.execute(_ONE_AT_A_TIME)
        for role in roles:
            await connection.execute(_statements(role, tables))
    return roles


def _statements(role: str, tables: Container[str]) -> str:
    """Names and rights are ours alone: nothing from outside is in them."""
    return "".join(
        f"{statement};\n"
        for statement in (
            f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
            f"GRANT USAGE ON SCHEMA public TO {role}",
            *(
                f"GRANT {rights[role]} ON public.{table} TO {role}"
                for table, rights in RIGHTS.items()
                if role in rights and table in tables
            ),
        )
    )
