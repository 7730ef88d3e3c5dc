"""cleanup.md, "Plan": what is kept always, judged on what remains; breakers and leases."""

from dataclasses import replace
from typing import Any

import pytest

from quota.planner import make_plan
from quota.policy import Policy
from tests.unit.quota.builders import HOUR_NS, MB, NOW_NS, Workspace, digest, open_policy, stale

DAY_S = 86_400


def crowded(**old) -> Workspace:
    """Three new images, and one that has to go unless something protects it."""
    workspace = Workspace()
    workspace.series("api", 3, first_day=80)
    workspace.image("api", "old", 1, **old)
    return workspace


def verdict(workspace: Workspace, name: str = "api:old", **changes) -> tuple[str, str]:
    plan = workspace.plan(free=MB, **changes)
    assert plan.freed_bytes == workspace.usage - plan.usage_after_bytes
    decision = workspace.decision(plan, name)
    assert decision.keep is (decision.manifest not in plan.steps)
    return decision.why, decision.sentence


def test_without_any_protection_it_goes():
    assert verdict(crowded()) == ("beyond_newest", "deleted: 4th newest, frees 1 MB")


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_only_image_of_an_app_stays(keep):
    workspace = Workspace()
    workspace.image("api", "1", 1)
    policy = open_policy(keep_newest=keep, keep_at_least=1)
    assert verdict(workspace, "api:1", policy=policy) == (
        "only_image",
        "kept: the only image of app api",
    )


def test_the_only_image_stays_when_all_others_are_deleted_in_the_same_plan():
    workspace = Workspace()
    workspace.series("api", 4)
    plan = workspace.plan(policy=open_policy(keep_newest=1, keep_at_least=1))
    assert workspace.deleted(plan) == ["api:1", "api:2", "api:3"]


def test_the_newest_untagged_manifest_of_an_app_without_tags_is_its_only_image():
    workspace = Workspace()
    workspace.add("a", day=1, layers={"a": MB})
    workspace.add("b", day=2, layers={"b": MB})
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["a"]
    assert workspace.why(plan, "b") == "only_image"


def test_a_referrer_is_not_the_only_image_of_an_app():
    workspace = Workspace()
    workspace.add("image", day=1, layers={"i": MB})
    workspace.add("orphan", day=2, subject="gone", layers={"o": MB})
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["orphan"]
    assert workspace.why(plan, "image") == "only_image"


def test_an_image_remains_while_one_of_its_copies_remains():
    workspace = Workspace()
    for repository in ("acme/api", "acme/api-mirror"):
        workspace.add("copied", "1", day=1, layers={"c": MB}, repository=repository, size=1)
    workspace.add("copied", "old", day=1, layers={"c": MB}, app="web", size=1)
    workspace.series("web", 1, first_day=50)
    workspace.add("api:latest", "latest", day=2, layers={"l": MB})
    workspace.image("api", "3", 3)
    mirror = frozenset({workspace.manifests["copied in acme/api-mirror"].key})
    policy = open_policy(keep_newest=1, keep_at_least=1)
    plan = workspace.plan(policy=policy, failed=mirror)
    # Three images of app api remain at its turn, although a copy of one has gone before.
    assert "api:latest" in workspace.deleted(plan)


@pytest.mark.parametrize(
    ("newer", "goes"),
    [
        (3, True),
        (2, True),  # three remain at its turn
        (1, False),  # two remain
    ],
)
def test_latest_stays_while_two_or_fewer_remain(newer, goes):
    workspace = Workspace()
    workspace.add("api:latest", "latest", day=1, layers={"l": MB})
    workspace.series("api", newer, first_day=80)
    plan = workspace.plan(policy=open_policy(keep_newest=1, keep_at_least=1))
    assert ("api:latest" in workspace.deleted(plan)) is goes
    if not goes:
        assert workspace.why(plan, "api:latest") == "latest"


def test_latest_is_judged_on_what_remains_not_on_what_was_there():
    workspace = Workspace()
    workspace.image("api", "1", 1)
    workspace.add("api:latest", "latest", day=2, layers={"l": MB})
    workspace.image("api", "3", 3)
    plan = workspace.plan(policy=open_policy(keep_newest=1, keep_at_least=1))
    assert workspace.deleted(plan) == ["api:1"]
    assert (
        workspace.sentence(plan, "api:latest")
        == "kept: the latest of app api, of which only 2 images remain"
    )


def test_one_protected_tag_protects_the_digest_with_all_its_tags():
    workspace = Workspace()
    workspace.series("api", 3, first_day=80)
    workspace.add("api:old", "1.0", "release-1", day=1, layers={"l": MB})
    policy = open_policy(keep_tags=("release-*",))
    assert verdict(workspace, policy=policy) == (
        "keep_tag",
        "kept: its tag release-1 matches keep_tags",
    )


@pytest.mark.parametrize(
    ("pattern", "keeps"),
    [
        ("old", True),
        ("OLD", False),
        ("o*", True),
        ("o", False),
        ("*l*", True),
        ("?ld", True),
        ("?", False),
        ("[m-p]ld", True),
        ("[!o]ld", False),
        ("old\n", False),
    ],
)
def test_keep_tags_are_globs_for_the_whole_tag_and_case_matters(pattern, keeps):
    why, _ = verdict(crowded(), policy=open_policy(keep_tags=("never", pattern)))
    assert (why == "keep_tag") is keeps


@pytest.mark.parametrize(("days", "stays"), [(98, False), (99, False), (100, True)])
def test_younger_than_min_age_stays(days, stays):
    # Pushed on day 1; now is day 100.
    why, sentence = verdict(crowded(), policy=open_policy(min_age_s=days * DAY_S))
    assert (why == "too_young") is stays
    if stays:
        assert sentence == "kept: tagged 99 days ago, min_age is 100 days"


def test_a_push_that_a_registry_dates_into_the_future_is_new_and_nothing_worse():
    workspace = Workspace()
    workspace.series("api", 4, first_day=101)
    assert workspace.deleted(workspace.plan(free=MB)) == ["api:1"]
    assert workspace.deleted(workspace.plan(free=MB, policy=open_policy(min_age_s=60))) == []


@pytest.mark.parametrize(
    ("pulled_day", "days", "stays"),
    [(None, 30, False), (60, 30, False), (70, 30, False), (70.1, 30, True), (99, None, False)],
)
def test_pulled_within_keep_pulled_days_stays(pulled_day, days, stays):
    workspace = crowded(pulled_day=pulled_day)
    why, sentence = verdict(workspace, policy=open_policy(keep_pulled_days=days))
    assert (why == "pulled_recently") is stays
    if stays:
        assert sentence == "kept: pulled 29 days ago"


def test_a_leased_digest_stays_in_every_repository():
    workspace = crowded()
    workspace.series("web", 3, first_day=80)
    workspace.add("api:old", "copy", app="web", day=1, layers={"layer of api:old": MB})
    plan = workspace.plan(in_use=frozenset({digest("api:old")}))
    assert workspace.sentence(plan, "api:old") == "kept: in use"
    assert workspace.sentence(plan, "api:old in acme/web") == "kept: in use"


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        ("age_known", "age_unknown"),
        ("subject_known", "subject_unknown"),
        ("size_known", "size_pending"),
    ],
)
def test_what_is_not_known_is_kept_and_what_can_be_fetched_is_named(fact, why):
    workspace = crowded(**{fact: False})
    plan = workspace.plan(free=MB)
    assert workspace.why(plan, "api:old") == why
    named = () if fact == "age_known" else (workspace.manifests["api:old"],)
    assert plan.unresolved == named


def test_images_of_unknown_age_push_nothing_out_of_the_newest():
    workspace = Workspace()
    workspace.series("api", 3, first_day=10)
    for number in range(4):
        workspace.image("api", f"found{number}", 90, age_known=False)
    plan = workspace.plan(policy=open_policy(keep_newest=3, keep_at_least=3))
    assert workspace.deleted(plan) == []
    assert workspace.why(plan, "api:1") == "newest"
    assert workspace.why(plan, "api:found0") == "age_unknown"


@pytest.mark.parametrize(
    ("pushed_h", "left_h", "stays"),
    [
        (5, None, False),
        (1, None, False),
        (0.99, None, True),
        (5, 0.5, True),  # its tag moved half an hour ago
        (0.5, 5, True),  # pushed again since
        (5, 1, False),
    ],
)
def test_untagged_has_its_grace_from_the_later_of_push_and_leaving(pushed_h, left_h, stays):
    workspace = crowded()
    manifest = workspace.add("gone", layers={"gone": MB})
    workspace.manifests["gone"] = replace(
        manifest,
        pushed_at_ns=NOW_NS - int(pushed_h * HOUR_NS),
        unreferenced_since_ns=None if left_h is None else NOW_NS - int(left_h * HOUR_NS),
    )
    policy = Policy(untagged_grace_s=3600, max_ratio_per_run_ppm=10**6)
    why, sentence = verdict(workspace, "gone", policy=policy)
    assert why == ("in_grace" if stays else "untagged")
    if not stays:
        assert sentence == "deleted: untagged and needed by nothing, frees 1 MB"
    elif pushed_h != 0.99:
        assert sentence == "kept: untagged for 30 minutes, the grace is 1 hour"


def test_a_stale_lease_source_stops_everything_in_its_workspace():
    plan = crowded().plan(stale_sources=stale("k8s-prod"))
    assert (plan.units, plan.steps, plan.target_reached) == ((), (), False)
    assert [block.code for block in plan.blocks] == ["stale_lease"]
    assert "k8s-prod" in plan.blocks[0].sentence
    assert {d.why for d in plan.decisions} == {"stale_lease"}
    assert plan.why_not is not None


def test_a_stale_lease_source_of_one_repository_stops_only_that():
    workspace = crowded()
    workspace.series("web", 4)
    plan = workspace.plan(free=MB, stale_sources=stale("k8s-prod", "acme/api"))
    assert workspace.deleted(plan) == ["web:1"]
    assert workspace.why(plan, "api:old") == "stale_lease"
    assert plan.blocks == ()
    assert [warning.code for warning in plan.warnings] == ["stale_lease"]


def test_a_workspace_first_seen_by_reconciliation_is_not_cleaned_until_somebody_configures_it():
    plan = crowded().plan(configured=False)
    assert ([b.code for b in plan.blocks], plan.steps) == (["not_configured"], ())


def test_nothing_is_deleted_for_a_build_that_is_larger_than_the_quota():
    source = crowded().input()
    plan = make_plan(replace(source, incoming_bytes=source.quota_bytes + 1, reserved_bytes=0))
    assert ([b.code for b in plan.blocks], plan.steps) == (["over_quota"], ())


def test_nothing_is_forbidden_when_nothing_has_to_go():
    plan = crowded().plan(free=0, configured=False, stale_sources=stale("k8s"))
    assert (plan.blocks, plan.target_reached) == ((), True)


@pytest.mark.parametrize(("limit", "refused"), [(4, True), (5, False)])
def test_max_images_per_run_refuses_a_larger_run_as_a_whole(limit, refused):
    workspace = Workspace()
    workspace.series("api", 20)
    policy = Policy(max_images_per_run=limit, untagged_grace_s=0)
    plan = workspace.plan(free=5 * MB, policy=policy)
    assert len(plan.units) == 5
    assert [b.code for b in plan.blocks] == (["max_images_per_run"] if refused else [])
    assert len(plan.steps) == (0 if refused else 5)
    assert plan.target_reached is not refused
    if refused:
        assert plan.blocks[0].sentence == "5 images would be deleted, max_images_per_run allows 4"


@pytest.mark.parametrize(("freed", "refused"), [(5, False), (6, True)])
def test_max_ratio_per_run_refuses_a_run_over_that_share_of_the_images(freed, refused):
    workspace = Workspace()
    workspace.series("api", 10)
    plan = workspace.plan(free=freed * MB, policy=Policy())
    assert [b.code for b in plan.blocks] == (["max_ratio_per_run"] if refused else [])
    if refused:
        assert plan.blocks[0].sentence == (
            "6 of 10 images would be deleted, max_ratio_per_run (0.5) allows 5"
        )


def above_the_quota(images: int, **rules: Any):
    """Ten images of 1 MB, and a build for which so many have to go; the target wants eight of them."""
    workspace = Workspace()
    workspace.series("api", 10)
    return workspace.plan(
        quota_bytes=20 * MB,
        reserved_bytes=2 * MB,
        incoming_bytes=8 * MB + images * MB,
        policy=Policy(target_ppm=600_000 + 50_000 * images, **rules),
    )


@pytest.mark.parametrize(("needed", "going"), [(0, 0), (1, 1), (4, 4), (5, 5), (6, 0), (8, 0)])
def test_where_a_breaker_refuses_the_target_as_much_goes_as_makes_the_build_fit(needed, going):
    plan = above_the_quota(needed)
    assert len(plan.steps) == going
    named = plan.warnings if going else plan.blocks
    assert [block.code for block in named] == ["max_ratio_per_run"]
    assert not plan.target_reached
    assert going == 0 or "8 of 10 images would be deleted, max_ratio_per_run (0.5) allows 5" in (
        plan.why_not or ""
    )


def test_what_stays_because_a_breaker_allows_no_more_says_so():
    plan = above_the_quota(4)
    stays = [d.sentence for d in plan.decisions if d.why == "target_reached"]
    assert stays == [
        f"kept: {n} newest, the quota is kept without it" for n in ("6th", "5th", "4th")
    ]
    assert above_the_quota(4, max_images_per_run=3).steps == ()


def test_what_goes_along_counts_for_the_breakers_as_the_image_it_belongs_to():
    workspace = Workspace()
    workspace.series("api", 3, first_day=80)
    for number in range(3):
        children = tuple(f"child {number}.{n}" for n in range(5))
        for child in children:
            workspace.add(child, day=number, layers={child: MB})
        workspace.add(f"index {number}", f"i{number}", day=number, children=children)
    plan = workspace.plan(free=15 * MB, policy=Policy(max_images_per_run=3))
    assert (len(plan.units), len(plan.steps), plan.blocks) == (3, 18, ())


def test_a_failed_deletion_stays_and_the_next_candidate_takes_its_place():
    workspace = Workspace()
    workspace.series("api", 6)
    failed = frozenset({workspace.manifests["api:1"].key})
    plan = workspace.plan(free=MB, failed=failed)
    assert workspace.deleted(plan) == ["api:2"]
    assert workspace.sentence(plan, "api:1") == "kept: its deletion has failed in this run"


def test_no_image_goes_because_of_newer_ones_that_the_registry_does_not_have():
    workspace = Workspace()
    workspace.series("api", 6)
    gone = frozenset(workspace.manifests[f"api:{number}"].key for number in (4, 5, 6))
    plan = workspace.plan(not_found=gone)
    assert workspace.deleted(plan) == ["api:1"]
    assert workspace.why(plan, "api:3") == "newest"
    assert workspace.decision(plan, "api:6").why == "not_found"
    assert (
        workspace.sentence(plan, "api:6")
        == "kept: the registry answers for none of its tags just now"
    )


def test_of_an_app_whose_tagged_images_are_not_found_the_newest_untagged_one_stays():
    workspace = Workspace()
    workspace.series("api", 3)
    workspace.add("loose", day=10, layers={"loose layer": MB})
    gone = frozenset(manifest.key for manifest in workspace.manifests.values() if manifest.tags)
    assert workspace.deleted(workspace.plan(not_found=gone)) == []
    assert workspace.deleted(workspace.plan()) == ["loose", "api:1"]


def test_why_the_target_is_not_reached_is_told():
    workspace = Workspace()
    workspace.series("api", 3, first_day=80)
    workspace.image("api", "old", 1, 5 * MB)
    in_use = frozenset({digest("api:old")})
    plan = workspace.plan(free=7 * MB, in_use=in_use)
    assert not plan.target_reached
    assert plan.why_not == (
        "6 MB above the target; what stays: 2 manifests among the newest of their app,"
        " 1 manifest in use"
    )
    assert plan.kept_by == {"newest": 2, "in_use": 1}
    hopeless = workspace.plan(free=20 * MB, in_use=in_use)
    assert hopeless.why_not is not None
    assert "what stays: incoming and reserved bytes alone are" in hopeless.why_not


def test_impossible_figures_are_refused():
    source = crowded().input()
    with pytest.raises(ValueError, match="quota must be positive"):
        make_plan(replace(source, quota_bytes=0))
    with pytest.raises(ValueError, match="no size for sha256:"):
        make_plan(replace(source, sizes={}))
    with pytest.raises(ValueError, match="given twice"):
        make_plan(replace(source, manifests=source.manifests * 2))


def test_the_same_name_in_another_registry_is_another_repository():
    workspace = crowded()
    workspace.add("elsewhere", day=90, children=("api:old",), registry="second")
    assert verdict(workspace)[0] == "beyond_newest"


def test_newer_images_in_a_registry_out_of_reach_take_no_place():
    workspace = Workspace()
    workspace.series("api", 4)
    here = workspace.deleted(workspace.plan(free=MB))
    for number in range(3):
        workspace.add(f"far {number}", f"far-{number}", day=95, layers={f"far {number}": MB},
                      app="api", registry="second")  # fmt: skip
    assert workspace.deleted(workspace.plan(free=MB, out_of_reach=frozenset({"second"}))) == here


def test_what_is_in_a_registry_that_cannot_be_cleaned_is_not_promised():
    workspace = Workspace()
    workspace.series("api", 4)
    workspace.add("far", "far", day=0, layers={"far layer": MB}, registry="second")
    plan = workspace.plan(out_of_reach=frozenset({"second"}))
    assert workspace.deleted(plan) == ["api:1", "api:2"]
    assert (
        workspace.sentence(plan, "far")
        == "kept: it is in registry second, which cannot be cleaned from here"
    )


def test_what_cannot_be_pulled_holds_no_place_and_says_so():
    """The newest two: with them among the newest, all that can be pulled would go."""
    workspace = Workspace()
    workspace.series("api", 6)
    broken = {workspace.manifests[f"api:{n}"].key: "404" for n in (5, 6)}
    policy = open_policy(keep_newest=2, keep_at_least=2)
    plan = workspace.plan(policy=policy, unreadable=broken)
    assert workspace.deleted(plan) == ["api:1", "api:2"]
    assert workspace.sentence(plan, "api:6") == (
        "kept: holds no place, because it cannot be pulled: 404"
    )
    assert [workspace.name(manifest) for manifest in plan.places] == ["api:3", "api:4"]


def test_an_apps_last_untagged_image_is_one_that_can_be_pulled():
    workspace = Workspace()
    for day in (1, 2, 3):
        workspace.add(f"u{day}", day=day, layers={f"layer {day}": MB})
    broken = {workspace.manifests["u3"].key: "404"}
    plan = workspace.plan(unreadable=broken)
    assert workspace.deleted(plan) == ["u1", "u3"]
    assert [workspace.name(manifest) for manifest in plan.places] == ["u2"]


def test_the_places_of_a_plan_are_those_of_apps_that_something_goes_of():
    workspace = Workspace()
    workspace.series("api", 5)
    workspace.series("web", 2)
    workspace.image("job", "latest", 1)
    for tag in ("1", "2", "3"):
        workspace.image("job", tag, 10 + int(tag))
    policy = open_policy(keep_newest=1, keep_at_least=1)
    plan = workspace.plan(free=5 * MB, policy=policy, in_use=frozenset({digest("web:1")}))
    named = [workspace.name(manifest) for manifest in plan.places]
    # Two of `job`, because its `latest` goes: it would stay if only two remained.
    assert named == ["api:5", "job:2", "job:3"]


def test_what_is_doubted_stays_and_names_the_doubt():
    workspace = crowded()
    doubts = {workspace.manifests["api:old"].key: ("doubted", "HEAD was 500")}
    plan = workspace.plan(policy=open_policy(keep_at_least=3), spared=doubts)
    assert plan.steps == ()
    assert workspace.sentence(plan, "api:old") == "kept: HEAD was 500"
