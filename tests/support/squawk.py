"""Migrations as the SQL that they run, and what squawk, a linter for such SQL, says of it."""

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import Script, ScriptDirectory

from migrations.online import timeouts

MIGRATIONS = Path(__file__).parents[2] / "migrations"

# Ours are ids of workspaces and repositories, numbers of attempts, of partitions, of rows of a run.
_NOT_OURS = ("prefer-bigint-over-int", "prefer-bigint-over-smallint")


@dataclass(frozen=True)
class Danger:
    """A statement that would hold up those who use the table, or break older programs."""

    rule: str
    message: str
    line: int


def revisions() -> list[Script]:
    """From the first to the newest."""
    return list(reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions())))


def sql_of(revision: Script) -> str:
    """What upgrading to it runs, transaction and time-outs of the environment included."""
    out = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": out}
    )
    with Operations.context(context):
        revision.module.upgrade()
    first = ";\n".join((*timeouts(), "BEGIN"))
    return f"{first};\n{out.getvalue()}COMMIT;\n"


def dangers(sql: str) -> list[Danger]:
    """What squawk finds, for the oldest Postgres that is supported."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("squawk"),
            *("--pg-version=15.0", "--reporter=json", "--no-error-on-unmatched-pattern"),
            f"--exclude={','.join(_NOT_OURS)}",
            "--stdin-filepath=migration.sql",
        ],
        input=sql,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return [
        Danger(found["rule_name"], found["message"], found["line"])
        for found in json.loads(done.stdout)
    ]
