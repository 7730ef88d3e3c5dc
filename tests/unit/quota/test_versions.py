"""Policy `order: semver`: within an app versions decide, between apps and for `min_age` time does."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given

from quota.planner import make_plan
from quota.policy import InvalidPolicy, Policy, parse_policy, policy_document
from quota.versions import by_version, highest, version_of
from tests.unit.quota.builders import MB, Workspace, open_policy
from tests.unit.quota.random_workspaces import inputs

DAY_S = 86_400

# https://semver.org/spec/v2.0.0.html, 11.
RISING = [
    "0.9.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2",
    "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "v1.2", "1.2.3", "1.8.0", "v1.11", "2.0.0", "v10",
]  # fmt: skip


def test_versions_rise_as_the_standard_says():
    versions = [version_of(tag) for tag in RISING]
    assert None not in versions
    for lower, higher in pairwise(versions):
        assert lower < higher  # type: ignore[operator]


@pytest.mark.parametrize(("tag", "same"), [("v1.2.3", "1.2.3"), ("1.2", "1.2.0"), ("v1", "1.0.0")])
def test_what_is_left_out_is_nought(tag, same):
    assert version_of(tag) == version_of(same)


@pytest.mark.parametrize(
    "tag",
    [
        "latest", "main", "20261201", "4711", "1", "01.2.3", "1.02", "2024.01.05", "1.2.3.4", "1.2-rc1",
        "1.2.3-", "1.2.3-01", "1.2.3-a..b", "V1.2.3", "release-1.2.3", "1.2.3_1", "v", "", "\uff11.2.3",
    ],
)  # fmt: skip
def test_what_is_no_version_is_none(tag):
    assert version_of(tag) is None


def test_an_image_is_its_highest_version():
    assert highest(["1", "latest", "1.2", "1.2.3"]) == version_of("1.2.3")
    assert highest(["latest"]) is None


def backports(**policy: object) -> tuple[Workspace, Policy]:
    """1.8.9 is a backport, made after 1.11.0; builds by commit go on every day."""
    workspace = Workspace()
    for day, tag in enumerate(["1.8.0", "1.9.0", "1.10.0", "1.11.0", "1.8.9", "c0ffee", "facade"]):
        workspace.image("api", tag, 10 + day)
    return workspace, replace(open_policy(**policy), order="semver")


def test_the_newest_are_the_highest_versions_and_what_is_none_goes_first():
    workspace, policy = backports()
    plan = workspace.plan(policy=policy, free=7 * MB)
    gone = [manifest.tags[0] for manifest in plan.steps]
    assert gone == ["c0ffee", "facade", "1.8.0", "1.8.9", "1.9.0"]
    sentences = {d.manifest.tags[0]: d.sentence for d in plan.decisions}
    assert sentences["1.11.0"] == "kept: 1st by version of 2 kept for app api"
    assert sentences["c0ffee"].startswith("deleted: 7th by version, frees ")


def test_min_age_goes_by_time_in_any_order():
    workspace, policy = backports(min_age_s=86 * DAY_S)
    plan = workspace.plan(policy=policy, free=7 * MB)
    young = {d.manifest.tags[0] for d in plan.decisions if d.why == "too_young"}
    assert young == {"c0ffee", "facade"}


def test_named_is_the_usual_order_and_nothing_else_is_taken():
    assert parse_policy({}).order == "named"
    assert policy_document(parse_policy({"order": "semver"}))["order"] == "semver"
    with pytest.raises(InvalidPolicy, match="order"):
        parse_policy({"order": "version"})


@given(inputs())
def test_an_order_by_versions_moves_moments_and_nothing_else(source):
    found = by_version(source.manifests)
    assert [m.key for m in found] == [m.key for m in source.manifests]
    for before, after in zip(source.manifests, found, strict=True):
        assert (after.named_ns, after.newest_push_ns) == (before.named_ns, before.newest_push_ns)
        assert (
            replace(after, pushed_at_ns=before.pushed_at_ns, named_at_ns=before.named_at_ns)
            == before
        )
    for one in found:
        for other in found:
            if (
                one.app == other.app
                and one.named_at_ns is not None
                and other.named_at_ns is not None
            ):
                versions = highest(one.tags), highest(other.tags)
                if None not in versions and versions[0] < versions[1]:  # type: ignore[operator]
                    assert (one.digest == other.digest) or (one.pushed_at_ns < other.pushed_at_ns)


@given(inputs())
def test_a_plan_by_versions_keeps_the_promises_of_any_plan(source):
    plan = make_plan(replace(source, policy=replace(source.policy, order="semver")))
    assert len(plan.decisions) == len(source.manifests)
    assert plan.usage_after_bytes >= 0
