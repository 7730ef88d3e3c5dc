"""Postgres: does it answer, is it new enough, is the schema the newest."""

from typing import Final

import asyncpg

from cli.doctor.clocks import Clock, now, skew
from cli.doctor.findings import Finding, failed, ok, skipped
from migrations.state import schema_state
from runtime.postgres import UNAVAILABLE
from runtime.settings import Settings, SettingsError
from runtime.tls import advice

_OLDEST: Final = 15


async def check(settings: Settings, *, clock: Clock = now) -> list[Finding]:
    """Findings `postgres`, `clock` and `schema`."""
    try:
        url = settings.required_database_url()
    except SettingsError as error:
        return [skipped("postgres", str(error).partition("; ")[0])]
    before = clock()
    try:
        state = await schema_state(url)
    except (*UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
        found = f"the database does not let us in: {type(error).__name__}: {error}"
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
    return [answers, clocks, ok("schema", f"is the newest ({state.newest})")]
