"""Revisions stand in one line and run while programs use the tables.

Two heads, from two changes that met, upgrade nowhere; a statement that rewrites or reads a whole table
under a lock stops consumers and builds for as long as it takes.
"""

import pytest
from alembic.script import ScriptDirectory

from tests.support.squawk import MIGRATIONS, dangers, revisions, sql_of

REVISIONS = {revision.revision: revision for revision in revisions()}
IN_A_TRANSACTION = (
    "SET lock_timeout = '1s';\nSET statement_timeout = '1min';\nBEGIN;\n{};\nCOMMIT;\n"
)


def test_there_is_one_newest_revision():
    heads = ScriptDirectory(str(MIGRATIONS)).get_heads()
    assert len(heads) == 1, f"set the down_revision of one of {sorted(heads)} to the other"


@pytest.mark.parametrize("name", REVISIONS)
def test_a_revision_holds_up_nobody_and_breaks_no_older_program(name):
    """What the linter finds all the same is an exception of the revision, with its reason."""
    revision = REVISIONS[name]
    excused: dict[str, str] = getattr(revision.module, "exceptions", {})
    found = dangers(sql_of(revision))
    assert [danger for danger in found if danger.rule not in excused] == []
    assert excused.keys() <= {danger.rule for danger in found}, "an exception that nothing needs"


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("CREATE INDEX i ON manifests (size)", "require-concurrent-index-creation"),
        ("DROP INDEX manifests_pending_idx", "require-concurrent-index-deletion"),
        ("ALTER TABLE tags ALTER COLUMN name TYPE varchar", "changing-column-type"),
        ("ALTER TABLE tags ALTER COLUMN digest SET NOT NULL", "adding-not-nullable-field"),
        ("ALTER TABLE tags ADD COLUMN c text NOT NULL", "adding-required-field"),
        (
            "ALTER TABLE tags ADD COLUMN c uuid DEFAULT gen_random_uuid()",
            "adding-field-with-default",
        ),
        ("ALTER TABLE tags ADD CONSTRAINT c CHECK (set_ns > 0)", "constraint-missing-not-valid"),
        ("ALTER TABLE tags ADD CONSTRAINT c UNIQUE (digest)", "disallowed-unique-constraint"),
        ("ALTER TABLE tags RENAME COLUMN digest TO d", "renaming-column"),
        ("ALTER TABLE tags DROP COLUMN digest", "ban-drop-column"),
        ("DROP TABLE tags", "ban-drop-table"),
    ],
)
def test_what_would_hold_up_a_running_system_is_found(statement, rule):
    assert rule in {danger.rule for danger in dangers(IN_A_TRANSACTION.format(statement))}


def test_what_holds_up_nobody_is_not_complained_of():
    harmless = "ALTER TABLE tags ADD COLUMN c bigint DEFAULT 0 NOT NULL"
    assert dangers(IN_A_TRANSACTION.format(harmless)) == []
