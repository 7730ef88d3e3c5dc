"""Nothing in the schema is without an owner of its rights."""

from ledger.roles import API, CONSUMER, REPORT, RIGHTS, ROLES
from ledger.tables import api_tokens, metadata


def test_every_table_says_who_may_do_what_with_it():
    assert set(RIGHTS) == {*metadata.tables, "alembic_version"}


def test_reports_only_look_and_never_at_what_is_kept_of_a_secret():
    assert all(rights.get(REPORT, "SELECT").startswith("SELECT") for rights in RIGHTS.values())
    assert not any(
        word in rights.get(REPORT, "")
        for rights in RIGHTS.values()
        for word in ("INSERT", "UPDATE", "DELETE")
    )
    shown = set(RIGHTS["api_tokens"][REPORT].removeprefix("SELECT (").rstrip(")").split(", "))
    assert shown == {column.name for column in api_tokens.columns} - {"secret_hash"}


def test_the_consumer_sees_no_token_and_the_api_moves_no_offset():
    assert CONSUMER not in RIGHTS["api_tokens"]
    assert RIGHTS["consumer_offsets"][API] == "SELECT"


def test_nobody_may_empty_a_table_or_give_rights_on():
    for rights in RIGHTS.values():
        for role in ROLES:
            assert not {"TRUNCATE", "ALL", "TRIGGER", "REFERENCES"} & set(
                rights.get(role, "").replace(",", "").split()
            )
