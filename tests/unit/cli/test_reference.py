"""The pages that are written from the code: current, complete, and as the contract names things."""

from pathlib import Path

import pytest

from cli import command_table, setting_table

REFERENCE = Path(__file__).resolve().parents[3] / "docs/reference"

PROMISED = {
    *("serve", "dev up", "demo", "migrate", "doctor", "images", "plan", "cleanup", "restore"),
    *("workspaces list", "workspaces show", "workspaces set", "workspaces delete", "reconcile"),
    *("dead-letters list", "dead-letters show", "dead-letters retry", "dead-letters drop"),
    *("status", "replay", "tokens create", "tokens list", "tokens revoke", "verify", "gc verify"),
    *("leases put", "leases list", "leases retire", "alerts forward", "version", "events tail"),
}
WITHOUT_RESULT = {"serve", "dev up", "demo", "alerts forward"}
"""What runs until it is stopped, or tells a story."""


@pytest.mark.parametrize(
    ("file", "table"), [("commands.md", command_table), ("settings.md", setting_table)]
)
def test_the_page_is_that_of_the_code(file, table):
    assert (REFERENCE / file).read_text() == table.document(), "run `make reference`"


def test_every_command_of_the_contract_exists_and_answers_programs():
    commands = {item.name: item for item in command_table.commands()}
    assert commands.keys() >= PROMISED
    assert {name for name, item in commands.items() if not item.has_json} == WITHOUT_RESULT


def test_every_command_argument_and_option_has_a_meaning():
    for item in command_table.commands():
        assert item.help, item.name
        for parameter in item.parameters:
            assert len(parameter.meaning) > 5, (item.name, parameter)


def test_every_setting_has_a_meaning_and_no_secret_a_default():
    known = setting_table.settings()
    for item in known:
        assert len(item.meaning) > 10, item.variable
    secrets = {item.variable for item in known if item.default == "secret"}
    assert secrets >= {"RQ_DATABASE_URL", "RQ_WEBHOOK_TOKENS", "RQ_API_TOKEN", "RQ_ALERTS_SECRET"}
