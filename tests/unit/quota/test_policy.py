"""Policies: cleanup.md's defaults, exact ratios, and contradictions refused with the field named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from quota.policy import (
    InvalidPolicy,
    Policy,
    PolicyDocument,
    change_policy,
    parse_policy,
    policy_document,
)

policies = st.builds(
    lambda ratios, keeps, **rest: Policy(
        target_ppm=min(ratios),
        trigger_ppm=max(ratios),
        keep_at_least=min(keeps),
        keep_newest=max(keeps),
        **rest,
    ),
    ratios=st.sets(st.integers(1, 10**6), min_size=2, max_size=2),
    keeps=st.lists(st.integers(1, 10**6), min_size=2, max_size=2),
    min_age_s=st.integers(0, 10**9),
    keep_tags=st.lists(
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=256),
        max_size=9,
    ).map(tuple),
    cache_repositories=st.lists(st.sampled_from(["*/cache", "acme/*"]), max_size=2).map(tuple),
    keep_pulled_days=st.none() | st.integers(1, 36_600),
    untagged_grace_s=st.integers(0, 10**9),
    max_images_per_run=st.integers(1, 10**6),
    max_ratio_per_run_ppm=st.integers(1, 10**6),
)


def test_an_empty_document_is_the_default_policy_of_the_specification():
    assert policy_document(parse_policy({})) == {
        "trigger": 0.8,
        "target": 0.7,
        "keep_newest": 3,
        "keep_at_least": 2,
        "order": "named",
        "min_age": 0,
        "keep_tags": [],
        "cache_repositories": ["*/cache"],
        "keep_pulled_days": None,
        "untagged_grace": 3600,
        "max_images_per_run": 500,
        "max_ratio_per_run": 0.5,
    }


@given(policies)
def test_a_policy_survives_its_json_exactly(policy):
    text = json.dumps(policy_document(policy))
    assert parse_policy(json.loads(text)) == policy
    assert json.loads(PolicyDocument.model_validate_json(text).model_dump_json()) == json.loads(
        text
    )


def test_part_of_a_document_changes_only_that_part():
    changed = parse_policy({**policy_document(Policy()), "keep_newest": 10})
    assert changed == Policy(keep_newest=10)


def test_a_change_keeps_what_it_leaves_out():
    assert change_policy(Policy(min_age_s=60), {"keep_newest": 10}) == Policy(
        min_age_s=60, keep_newest=10
    )


@pytest.mark.parametrize(
    ("pattern", "character"),
    [
        ("^v.*$", "^"),
        (r"v\d+", "\\"),
        ("(a|b)", "("),
        ("v*,prod", ","),
        ("release/*", "/"),
        ("api:v*", ":"),
    ],
)
def test_a_change_to_a_pattern_that_no_tag_can_match_is_refused(pattern, character):
    with pytest.raises(InvalidPolicy) as refused:
        change_policy(Policy(), {"keep_tags": ["ok-*", pattern]})
    ((field, message),) = refused.value.errors
    assert field == "keep_tags.1"
    assert f'"{character}" cannot stand there' in message


def test_every_pattern_that_can_match_nothing_is_named_at_once():
    with pytest.raises(InvalidPolicy) as refused:
        change_policy(Policy(), {"keep_tags": ["a/b", "ok", "c:d"], "keep_newest": 0})
    assert [field for field, _ in refused.value.errors] == [
        "keep_newest",
        "keep_tags.0",
        "keep_tags.2",
    ]


def test_a_pattern_that_is_kept_already_is_read_and_stays_when_something_else_changes():
    kept = parse_policy({"keep_tags": ["^v.*$"]})
    assert kept.keep_tags == ("^v.*$",)
    assert change_policy(kept, {"keep_newest": 5}) == Policy(keep_tags=("^v.*$",), keep_newest=5)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(0, 0), (90, 90), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800)],
)
def test_times_are_seconds_or_text(written, seconds):
    policy = parse_policy({"min_age": written, "untagged_grace": written})
    assert (policy.min_age_s, policy.untagged_grace_s) == (seconds, seconds)


@pytest.mark.parametrize(("written", "ppm"), [(0.1, 100_000), (0.29, 290_000), (1e-6, 1)])
def test_ratios_are_exact(written, ppm):
    assert parse_policy({"target": written}).target_ppm == ppm


@pytest.mark.parametrize(
    ("document", "field", "said"),
    [
        ({"target": 0.8}, "target", "must be below trigger"),
        ({"target": 0.9, "trigger": 0.85}, "target", "0.9 is not below 0.85"),
        ({"trigger": 0.7}, "target", "0.7 is not below 0.7"),
        ({"trigger": 0}, "trigger", "above 0"),
        ({"trigger": 1.01}, "trigger", "at most 1"),
        ({"trigger": 80}, "trigger", "at most 1"),
        ({"trigger": "0.8"}, "trigger", "number"),
        ({"trigger": True}, "trigger", "number"),
        ({"trigger": None}, "trigger", "number"),
        ({"trigger": float("nan")}, "trigger", "above 0"),
        ({"trigger": float("inf")}, "trigger", "at most 1"),
        ({"target": -0.5}, "target", "above 0"),
        ({"target": 0.1234567}, "target", "six decimal places"),
        ({"keep_newest": 0}, "keep_newest", "greater than or equal to 1"),
        ({"keep_newest": -1}, "keep_newest", "greater than or equal to 1"),
        ({"keep_newest": 2.5}, "keep_newest", "integer"),
        ({"keep_newest": "3"}, "keep_newest", "integer"),
        ({"keep_newest": True}, "keep_newest", "integer"),
        ({"keep_at_least": 0}, "keep_at_least", "greater than or equal to 1"),
        ({"keep_at_least": 4}, "keep_at_least", "at most keep_newest (4 is more than 3)"),
        ({"min_age": -1}, "min_age", "from 0 on"),
        ({"min_age": 1.5}, "min_age", "whole seconds"),
        ({"min_age": "1 week"}, "min_age", '"7d"'),
        ({"min_age": "-1h"}, "min_age", '"7d"'),
        ({"min_age": "9999999999d"}, "min_age", "whole seconds"),
        ({"min_age": False}, "min_age", "whole seconds"),
        ({"untagged_grace": None}, "untagged_grace", "whole seconds"),
        ({"keep_tags": "release-*"}, "keep_tags", "list"),
        ({"keep_tags": [""]}, "keep_tags.0", "at least 1 character"),
        ({"keep_tags": ["ok", 7]}, "keep_tags.1", "string"),
        ({"keep_tags": ["x" * 257]}, "keep_tags.0", "at most 256 characters"),
        ({"keep_tags": ["x"] * 101}, "keep_tags", "at most 100 items"),
        ({"keep_pulled_days": 0}, "keep_pulled_days", "greater than or equal to 1"),
        ({"keep_pulled_days": "off"}, "keep_pulled_days", "integer"),
        ({"max_images_per_run": 0}, "max_images_per_run", "greater than or equal to 1"),
        ({"max_ratio_per_run": 0}, "max_ratio_per_run", "above 0"),
        ({"max_ratio_per_run": 2}, "max_ratio_per_run", "at most 1"),
        ({"keep": 3}, "keep", "there is no such field; there are trigger, target, keep_newest"),
        ({"Trigger": 0.8}, "Trigger", "there is no such field"),
        ({"min_age_s": 1}, "min_age_s", "there is no such field"),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_field_named(document, field, said):
    with pytest.raises(InvalidPolicy) as refused:
        parse_policy(document)
    ((named, message),) = refused.value.errors
    assert named == field
    assert said in message
    assert str(refused.value) == f"policy.{field}: {message}"


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(InvalidPolicy) as refused:
        parse_policy({"keep_newest": 0, "trigger": 7, "colour": "red"})
    assert {field for field, _ in refused.value.errors} == {"keep_newest", "trigger", "colour"}


@pytest.mark.parametrize("document", [None, [], "policy", 3])
def test_a_policy_is_an_object(document):
    with pytest.raises(InvalidPolicy):
        parse_policy(document)


def test_inside_a_request_the_field_is_named_with_its_path():
    class Request(BaseModel):
        policy: PolicyDocument

    with pytest.raises(ValidationError) as refused:
        Request.model_validate_json('{"policy": {"target": 0.9}}')
    assert [error["loc"] for error in refused.value.errors()] == [("policy", "target")]
    accepted = Request.model_validate_json('{"policy": {"keep_tags": ["v*"], "min_age": "1d"}}')
    assert accepted.policy.to_policy() == Policy(keep_tags=("v*",), min_age_s=86_400)


def test_the_schema_shows_what_people_write():
    properties = PolicyDocument.model_json_schema()["properties"]
    assert properties["trigger"]["default"] == 0.8
    assert properties["trigger"]["type"] == "number"
    assert all("description" in field for field in properties.values())
