"""cleanup.md, "Plan": indexes and their children, referrers and their subjects, shared digests."""

import pytest

from quota.policy import Policy
from tests.unit.quota.builders import HOUR_NS, MB, NOW_NS, Workspace, digest, open_policy

DAY_S = 86_400


def fallback_tag(name: str, suffix: str = "") -> str:
    return f"sha256-{digest(name).hex()}{suffix}"


def with_new_images() -> Workspace:
    workspace = Workspace()
    workspace.series("api", 3, first_day=80)
    return workspace


def with_old_index(**child) -> Workspace:
    """Three new images and an old index of two platforms."""
    workspace = with_new_images()
    workspace.add("arm", day=10, layers={"arm layer": MB, "common": MB}, **child)
    workspace.add("amd", day=10, layers={"amd layer": MB, "common": MB})
    workspace.add("old", "1.0", day=11, children=("amd", "arm"))
    return workspace


def test_an_index_goes_with_its_children_after_it():
    workspace = with_old_index()
    plan = workspace.plan(free=MB)
    assert workspace.deleted(plan) == ["old", "amd", "arm"]
    (unit,) = plan.units
    assert unit.freed_bytes == plan.freed_bytes == 3 * MB
    assert workspace.sentence(plan, "old") == (
        "deleted: 4th newest, frees 3 MB with 2 manifests that belong to it"
    )
    assert workspace.sentence(plan, "amd") == (
        "deleted: child of acme/api:1.0, goes with it, frees 1 MB"
    )
    assert workspace.why(plan, "arm") == "goes_with_index"


def test_children_of_a_kept_index_stay():
    workspace = with_old_index()
    plan = workspace.plan(in_use=frozenset({digest("old")}))
    assert workspace.deleted(plan) == ["api:1"]
    assert workspace.sentence(plan, "amd") == "kept: needed by the index acme/api:1.0"


def test_a_child_of_two_indexes_goes_with_the_last_of_them():
    workspace = with_old_index()
    workspace.add("older", "0.9", day=5, children=("arm", "missing"), size=7)
    assert workspace.deleted(workspace.plan(free=1)) == ["older"]
    both = workspace.plan(free=MB)
    assert workspace.deleted(both) == ["old", "amd"]  # `older` is not needed, and keeps arm
    assert both.freed_bytes == MB
    everything = workspace.plan(free=3 * MB)
    assert workspace.deleted(everything) == ["older", "old", "amd", "arm"]
    assert workspace.sentence(everything, "older") == "deleted: 5th newest, frees 7 B"


def test_nested_indexes_go_from_the_top_down():
    workspace = with_new_images()
    workspace.add("leaf", day=1, layers={"leaf": MB})
    workspace.add("middle", day=2, children=("leaf",))
    workspace.add("top", "1", day=3, children=("middle", "leaf"))
    assert workspace.deleted(workspace.plan(free=MB)) == ["top", "middle", "leaf"]


def test_a_child_with_a_tag_of_its_own_does_not_go_with_its_index_but_by_its_own_age():
    workspace = with_new_images()
    workspace.add("old", "1.0", day=10, children=("arm", "amd"))
    workspace.add("arm", "1.0-arm", day=9, layers={"arm": MB})
    workspace.add("amd", "1.0-amd", day=95, layers={"amd": MB})
    plan = workspace.plan(free=MB)
    assert workspace.deleted(plan) == ["old", "arm"]
    assert workspace.why(plan, "arm") == "beyond_newest"
    assert workspace.sentence(workspace.plan(), "amd") == (
        "kept: has a tag of its own and is as new as the newest 2 of app api"
    )


@pytest.mark.parametrize(("day", "rank"), [(82, 1), (81.5, 2), (81, 2), (80, 3), (79, 4)])
def test_a_tagged_child_stands_behind_the_images_that_are_newer(day, rank):
    workspace = with_new_images()
    workspace.add("old", "1.0", day=10, children=("arm",))
    workspace.add("arm", "1.0-arm", day=day, layers={"arm": MB})
    assert ("arm" in workspace.deleted(workspace.plan())) is (rank > 2)
    plan = workspace.plan(policy=open_policy(keep_at_least=3))
    assert ("arm" in workspace.deleted(plan)) is (rank > 3)


def test_a_tagged_child_stays_while_its_index_stays():
    workspace = with_new_images()
    workspace.add("new", "1.0", day=90, children=("arm",))
    workspace.add("arm", "1.0-arm", day=9, layers={"arm": MB})
    plan = workspace.plan()
    assert workspace.why(plan, "arm") == "child_of_index"
    assert workspace.deleted(plan) == ["api:1", "api:2"]


def test_taking_an_index_back_takes_its_tagged_child_back():
    workspace = with_new_images()
    workspace.add("arm", "1.0-arm", day=9, layers={"arm": MB})
    workspace.add("old", "1.0", day=10, children=("arm",), size=10)
    workspace.image("api", "big", 11, 100 * MB)
    plan = workspace.plan(free=100 * MB)
    assert workspace.deleted(plan) == ["api:big"]


def test_an_untagged_index_goes_with_its_children():
    workspace = with_new_images()
    workspace.add("child", day=1, layers={"child": MB})
    workspace.add("index", day=2, left_day=3, children=("child",))
    plan = workspace.plan(free=MB)
    assert workspace.deleted(plan) == ["index", "child"]
    assert workspace.why(plan, "index") == "untagged"


def test_referrers_of_kept_images_stay_and_those_of_deleted_ones_go_after_them():
    workspace = with_new_images()
    workspace.image("api", "old", 1)
    workspace.add("sbom", day=99, subject="api:old", layers={"sbom": MB})
    workspace.add("signature of sbom", day=99, subject="sbom", layers={"s": MB})
    workspace.add("new sbom", day=1, subject="api:3", layers={"new sbom": MB})
    workspace.add("its signature", day=1, subject="new sbom", layers={"n": MB})
    plan = workspace.plan(free=MB)
    assert workspace.deleted(plan) == ["api:old", "sbom", "signature of sbom"]
    assert workspace.sentence(plan, "sbom") == (
        "deleted: refers to acme/api:old, goes with it, frees 1 MB"
    )
    assert workspace.sentence(plan, "new sbom") == "kept: refers to acme/api:3, which stays"
    assert workspace.sentence(plan, "its signature") == "kept: refers to acme/api:3, which stays"


@pytest.mark.parametrize("suffix", [".sig", ".att", ".sbom", ".src", ""])
def test_a_tag_that_names_a_subject_follows_it_and_does_not_count(suffix):
    workspace = with_new_images()
    workspace.image("api", "old", 1)
    workspace.add("old's", fallback_tag("api:old", suffix), day=99, layers={"o": MB})
    workspace.add("new's", fallback_tag("api:3", suffix), day=1, layers={"n": MB})
    plan = workspace.plan(free=MB)
    assert workspace.deleted(plan) == ["api:old", "old's"]
    assert workspace.why(plan, "new's") == "follows_image"
    assert workspace.sentence(plan, "api:1") == "kept: 3rd newest of 3 kept for app api"


def test_the_fallback_index_of_referrers_goes_with_its_subject_and_before_the_referrers():
    workspace = with_new_images()
    workspace.image("api", "old", 1)
    workspace.add("sbom", day=2, subject="api:old", layers={"sbom": MB})
    workspace.add("list", fallback_tag("api:old"), day=3, children=("sbom",))
    assert workspace.deleted(workspace.plan(free=MB)) == ["api:old", "list", "sbom"]
    kept = workspace.plan(in_use=frozenset({digest("api:old")}))
    assert workspace.deleted(kept) == ["api:1"]


def test_a_tag_that_names_a_subject_which_is_not_here_is_left_alone():
    workspace = with_new_images()
    workspace.add("elsewhere", fallback_tag("other", ".sig"), day=1, layers={"e": MB})
    plan = workspace.plan()
    assert "elsewhere" not in workspace.deleted(plan)
    assert workspace.why(plan, "elsewhere") == "subject_missing"


def test_a_manifest_with_tags_of_two_subjects_stays_when_one_of_them_is_not_here():
    workspace = with_new_images()
    workspace.image("api", "old", 1)
    tags = (fallback_tag("api:old", ".sig"), fallback_tag("other", ".sig"))
    workspace.add("both", *tags, day=1, layers={"b": MB})
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["api:1"]
    assert workspace.sentence(plan, "api:old").endswith("is not in its repository")


def test_a_signature_with_an_ordinary_tag_too_is_judged_by_its_own_age():
    workspace = with_new_images()
    workspace.image("api", "old", 1)
    workspace.add("both", fallback_tag("api:old", ".sig"), "keepsake", day=99, layers={"b": MB})
    plan = workspace.plan()
    assert "both" not in workspace.deleted(plan)
    assert workspace.why(plan, "both") == "newest"


def test_a_tagged_image_that_names_another_as_its_subject_does_not_vanish_with_it():
    workspace = with_new_images()
    workspace.image("api", "base", 1)
    workspace.add("derived", "derived", day=99, subject="api:base", layers={"d": MB})
    plan = workspace.plan()
    assert "api:base" in workspace.deleted(plan)
    assert "derived" not in workspace.deleted(plan)


def test_a_tagged_referrer_does_not_count_even_when_its_subject_is_gone():
    workspace = with_new_images()
    workspace.add("sbom", "sbom", day=99, subject="gone", layers={"sbom": MB})
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["api:1"]
    assert workspace.sentence(plan, "api:3") == "kept: newest of 2 kept for app api"


def test_an_untagged_referrer_whose_subject_is_gone_is_untagged_garbage_after_its_grace():
    workspace = with_new_images()
    workspace.add("orphan", day=1, left_day=99.99, subject="gone", layers={"o": MB})
    patient = workspace.plan(policy=Policy(max_ratio_per_run_ppm=10**6))
    assert workspace.why(patient, "orphan") == "in_grace"
    assert workspace.deleted(workspace.plan(free=MB)) == ["orphan"]


@pytest.mark.parametrize("leased", ["old", "amd", "arm", "sbom"])
def test_a_lease_on_any_part_keeps_index_children_and_referrers(leased):
    workspace = with_old_index()
    workspace.add("sbom", day=12, subject="amd", layers={"sbom": 1})
    plan = workspace.plan(in_use=frozenset({digest(leased)}))
    assert workspace.deleted(plan) == ["api:1"]
    assert workspace.why(plan, "old") == "in_use"


@pytest.mark.parametrize("pulled", ["old", "amd"])
def test_a_pull_of_a_part_keeps_the_whole(pulled):
    workspace = with_old_index()
    workspace.add(
        pulled,
        *(("1.0",) if pulled == "old" else ()),
        day=10,
        layers={} if pulled == "old" else {"amd layer": MB},
        children=("amd", "arm") if pulled == "old" else (),
        pulled_day=99,
    )
    workspace.manifests[pulled] = workspace.manifests.pop(f"{pulled} in acme/api")
    plan = workspace.plan(policy=open_policy(keep_pulled_days=7))
    assert workspace.deleted(plan) == ["api:1"]
    assert workspace.why(plan, "old") == "pulled_recently"


@pytest.mark.parametrize("fact", ["age_known", "subject_known", "size_known"])
def test_a_part_that_has_to_stay_keeps_what_it_would_have_to_go_with(fact):
    workspace = with_old_index(**{fact: False})
    plan = workspace.plan(free=3 * MB)
    assert workspace.deleted(plan) == ["api:1"]
    assert workspace.why(plan, "old") == "part_kept"
    assert workspace.why(plan, "amd") == "child_of_index"
    assert plan.unresolved == (() if fact == "age_known" else (workspace.manifests["arm"],))


def test_the_last_of_two_indexes_stays_for_a_part_that_has_to_stay():
    workspace = with_old_index(subject_known=False)
    workspace.add("older", "0.9", day=5, children=("arm",), size=7)
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["older", "api:1"]


def test_nothing_goes_beside_an_index_whose_children_are_not_known():
    workspace = with_old_index()
    workspace.add("unread", "2", day=90, is_index=True, size_known=False)
    workspace.series("web", 4)
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["web:1", "web:2"]
    assert workspace.sentence(plan, "old") == (
        "kept: the index acme/api:2 is not read yet and may need it"
    )
    assert plan.unresolved == (workspace.manifests["unread"],)


def test_a_child_pushed_again_a_moment_ago_may_belong_to_a_push_under_way():
    now_day = NOW_NS / (24 * HOUR_NS)
    workspace = with_new_images()
    workspace.add("old", "1.0", day=1, children=("arm",))
    workspace.add("arm", day=now_day - 0.01, layers={"arm": MB})
    policy = Policy(max_ratio_per_run_ppm=10**6)
    plan = workspace.plan(policy=policy)
    assert workspace.deleted(plan) == ["api:1"]
    assert workspace.sentence(plan, "old").endswith(
        "would go with it: pushed again after its index, 14 minutes ago: a push may be under way"
    )
    assert workspace.deleted(workspace.plan(policy=policy, now_ns=NOW_NS + HOUR_NS)) == [
        "old",
        "arm",
        "api:1",
    ]


def test_a_child_of_the_same_moment_as_its_index_goes_with_it():
    now_day = NOW_NS / (24 * HOUR_NS)
    workspace = Workspace()
    workspace.add("old", "1.0", day=now_day - 0.02, children=("arm",))
    workspace.add("arm", day=now_day - 0.02, layers={"arm": MB})
    workspace.series("api", 3, first_day=101)
    policy = Policy(max_ratio_per_run_ppm=10**6)
    assert workspace.deleted(workspace.plan(free=MB, policy=policy)) == ["old", "arm"]


def test_a_referrer_newer_than_the_list_that_names_it_goes_with_its_subject():
    now_day = NOW_NS / (24 * HOUR_NS)
    workspace = with_new_images()
    workspace.image("api", "old", 1)
    workspace.add("sbom", day=now_day - 0.01, subject="api:old", layers={"sbom": MB})
    workspace.add("list", fallback_tag("api:old"), day=2, children=("sbom",))
    policy = Policy(max_ratio_per_run_ppm=10**6)
    plan = workspace.plan(free=2 * MB, policy=policy)
    assert workspace.deleted(plan) == ["api:old", "list", "sbom"]


def test_one_manifest_in_two_repositories_counts_once_and_is_freed_with_the_last():
    workspace = with_new_images()
    workspace.series("web", 3, first_day=80)
    workspace.add("twin", "1", day=1, layers={"twin layer": MB}, size=100)
    workspace.add("twin", "1", day=2, layers={"twin layer": MB}, size=100, app="web")
    plan = workspace.plan(free=MB)
    assert workspace.deleted(plan) == ["twin", "twin in acme/web"]
    assert [unit.freed_bytes for unit in plan.units] == [0, MB + 100]
    assert plan.usage_after_bytes == workspace.usage - MB - 100


def test_children_and_subjects_are_looked_for_in_their_own_repository_only():
    workspace = with_new_images()
    workspace.add("index", "1", app="web", day=90, children=("stray",))
    workspace.add("stray", day=1, layers={"stray": MB})
    workspace.add("sbom", app="web", day=1, subject="api:3", layers={"sbom": MB})
    assert workspace.deleted(workspace.plan(free=2 * MB)) == ["stray", "sbom"]


def test_an_index_that_is_its_childs_referrer_keeps_itself_alive():
    # Legal, and senseless: each of the two would have to go before the other.
    workspace = with_new_images()
    workspace.add("image", "1", day=1, layers={"i": MB})
    workspace.add("list", "2", day=2, children=("image",), subject="image")
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["api:1"]
    assert workspace.why(plan, "image") == "child_of_index"


def test_a_tag_that_names_its_own_manifest_is_left_alone():
    workspace = with_new_images()
    workspace.add("self", fallback_tag("self", ".sig"), day=1, layers={"s": MB})
    plan = workspace.plan()
    assert "self" not in workspace.deleted(plan)
    assert workspace.why(plan, "self") == "subject_missing"
