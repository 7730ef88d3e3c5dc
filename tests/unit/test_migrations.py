"""Revisions stand in one line: two heads, from two changes that met, upgrade nowhere."""

from pathlib import Path

from alembic.script import ScriptDirectory

ROOT = Path(__file__).parents[2]


def test_there_is_one_newest_revision():
    heads = ScriptDirectory(str(ROOT / "migrations")).get_heads()
    assert len(heads) == 1, f"set the down_revision of one of {sorted(heads)} to the other"
