"""Postgres: does it answer, is it new enough, is the schema the newest."""

from typing import Final

import asyncpg

from cli.doctor.clocks import Clock, now, skew
from cli.doctor.findings import Finding, failed, ok, skipped, warning
from ledger import unreadable
from ledger.placing import REMEDY, placing
from migrations.state import schema_state
from quota.words import plural
from registry.workspaces import NO_WORKSPACE, WorkspaceRule
from runtime.errors import text_of
from runtime.postgres import CONNECT_TIMEOUT, UNAVAILABLE
from runtime.settings import Settings, SettingsError
from runtime.tls import advice

_OLDEST: Final = 15
_IMAGES: Final = 3
"""Images that cannot be pulled, by name."""


async def check(settings: Settings, *, clock: Clock = now) -> list[Finding]:
    """Findings `postgres`, `clock`, `schema` and `workspaces`."""
    try:
        url = settings.required_database_url()
    except SettingsError as error:
        return [skipped("postgres", str(error).partition("; ")[0])]
    before = clock()
    try:
        state = await schema_state(url)
    except (*UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
        found = f"the database does not let us in: {text_of(error)}"
        mend = advice(error) or (
            "check RQ_DATABASE_URL, that Postgres runs there, and its user, password and database"
        )
        return [failed("postgres", found.rstrip(": "), mend)]
    if state.server_major < _OLDEST:
        found = f"Postgres {state.server_version} is older than {_OLDEST}"
        return [failed("postgres", found, f"use Postgres {_OLDEST} or newer")]
    answers = ok("postgres", f"Postgres {state.server_version} answers")
    clocks = skew("Postgres's", state.clock, before, clock())
    if not state.known:
        return [
            answers,
            clocks,
            failed(
                "schema",
                f"the database is at {state.current}, which this program does not know",
                "run the same version of registry-quota everywhere: this one is older",
            ),
        ]
    if state.current != state.newest:
        found = (
            f"the database is at {state.current}, this program needs {state.newest}"
            if state.current
            else "the database has no schema of ours yet"
        )
        return [answers, clocks, failed("schema", found, "run `registry-quota migrate`")]
    newest = ok("schema", f"is the newest ({state.newest})")
    placing = await _placing(url, settings.workspace_pattern)
    return [answers, clocks, newest, *placing, *await _unreadable(url)]


async def _unreadable(url: str) -> list[Finding]:
    """Finding `images`, where something was found that cannot be pulled."""
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, command_timeout=10)
        try:
            found = await unreadable.of_workspace(connection, None, limit=_IMAGES + 1)
        finally:
            await connection.close(timeout=5)
    except (*UNAVAILABLE, asyncpg.PostgresError):
        return []
    if not found:
        return []
    named = "; ".join(
        f"{image.repository}:{', '.join(image.tags)} ({image.reason})" for image in found[:_IMAGES]
    )
    more = " and more" if len(found) > _IMAGES else ""
    return [
        warning(
            "images",
            f"cannot be pulled: {named}{more}",
            "push them again, or delete them: they hold no place among the newest of their apps."
            " After a garbage collection without a restart the registry has to be restarted first",
        )
    ]


async def _placing(url: str, pattern: str) -> list[Finding]:
    """Finding `workspaces`: whether the pattern is the one that the repositories were placed by."""
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, command_timeout=10)
        try:
            found = await placing(connection, WorkspaceRule(pattern))
        finally:
            await connection.close(timeout=5)
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        return [skipped("workspaces", f"repositories are not told: {error}")]
    if not found.repositories:
        return []
    of_all = plural(found.repositories, "repository")
    if not found.matched:
        unmatched = (
            f"RQ_WORKSPACE_PATTERN ({pattern}) matches none of {of_all}, such as {found.first}:"
            f" what it does not match counts for workspace {NO_WORKSPACE}"
        )
        mend = "write a pattern that matches such names whole, from the first character on"
        return [warning("workspaces", unmatched, mend)]
    if found.elsewhere:
        return [warning("workspaces", found.text, REMEDY)]
    return [ok("workspaces", f"RQ_WORKSPACE_PATTERN places {found.matched} of {of_all}")]
