"""What commands make of what is typed, without anything running."""

import pytest

from cli.cleanup import exit_code, outcome_of
from cli.client import near_names
from cli.console import CommandError, aligned
from cli.workspaces import parse_rules


def test_near_names_are_those_that_a_person_meant():
    names = ["acme", "acme-tools", "Beta", "zeta"]
    assert near_names("acmee", names) == "; did you mean acme?"
    assert near_names("ac", names) == "; did you mean acme or acme-tools?"
    assert near_names("beta", names).startswith("; did you mean Beta or zeta?")
    assert "workspaces list" in near_names("qqqq", names)
    assert "workspaces list" in near_names("acme", [])


def test_columns_of_a_pipe_stand_under_each_other_also_with_wide_characters():
    rows = [["name", "size"], ["船", "1 B"], ["acme", "10 MB"]]
    assert aligned(rows, [False, True]) == ["name   size", "船      1 B", "acme  10 MB"]


def test_rules_of_a_policy_are_read_as_json_lists_by_commas_or_text():
    rules = parse_rules(["keep_newest=5", "min_age=3d", "keep_tags=v*, stable", "trigger=0.9"])
    assert rules == {
        "keep_newest": 5,
        "min_age": "3d",
        "keep_tags": ["v*", "stable"],
        "trigger": 0.9,
    }
    assert parse_rules(['keep_tags=["a,b"]']) == {"keep_tags": ["a,b"]}
    assert parse_rules(["keep_tags=[a-z]*,[0-9]*"]) == {"keep_tags": ["[a-z]*", "[0-9]*"]}
    assert parse_rules(["keep_tags=", "keep_newest=", "keep_pulled_days=null"]) == {
        "keep_tags": [],
        "keep_newest": 3,
        "keep_pulled_days": None,
    }


@pytest.mark.parametrize("text", ["keep_newest", "=5", ""])
def test_what_is_no_rule_is_a_mistake_of_usage(text):
    with pytest.raises(CommandError) as caught:
        parse_rules([text])
    assert caught.value.exit_code == 2


def run_item(**fields):
    item = {"repository": "acme/api", "app": "api", "digest": "sha256:1", "tags": ["1"]}
    return item | {"freed_bytes": 10, "why": "oldest", "state": "deleted", "failure": None} | fields


def test_a_run_that_was_waited_for_ends_like_one_that_answered_at_once():
    run = {
        "id": "r",
        "freed_bytes": 10,
        "target_reached": False,
        "warnings": ["registry_unavailable"],
        "items": [
            run_item(),
            run_item(state="failed", failure="503", freed_bytes=0),
            run_item(state="skipped", freed_bytes=0),
        ],
    }
    outcome = outcome_of(run)
    assert [image["digest"] for image in outcome["images"]] == ["sha256:1"]
    assert outcome["failed"] == [{"repository": "acme/api", "digest": "sha256:1", "reason": "503"}]
    assert (outcome["run_id"], outcome["freed_bytes"], outcome["done"]) == ("r", 10, True)
    assert exit_code(outcome) == 1
    assert exit_code(outcome_of(run | {"items": [], "warnings": [], "target_reached": True})) == 0
