"""Places are for what runs: each kind is judged for itself, and caches hold none."""

from dataclasses import replace

import pytest

from quota.planner import make_plan
from quota.policy import Policy
from registry.kinds import CACHE, Kind
from tests.unit.quota.builders import MB, Workspace, digest, open_policy

SBOM, CHART, SIGNATURE = Kind("sbom"), Kind("chart"), Kind("signature")
MODEL = Kind("artifact", "application/vnd.example.model")


def app_with_cache_and_sboms(*, sbom=SBOM):
    """Versions 1.1 … 1.4 with an SBOM each, and a build cache that is newer than all of them."""
    workspace = Workspace()
    for number in range(1, 5):
        workspace.image("api", f"1.{number}", 10 + number)
        workspace.image("api", f"1.{number}-sbom", 10.5 + number, MB // 10, kind=sbom)
    workspace.image("api", "buildcache", 30, 2 * MB, kind=CACHE)
    return workspace


@pytest.mark.parametrize("sbom", [SBOM, MODEL, SIGNATURE])
def test_versions_stay_and_the_cache_goes_first(sbom):
    workspace = app_with_cache_and_sboms(sbom=sbom)
    default = Policy(max_ratio_per_run_ppm=10**6)
    plan = workspace.plan(free=2 * MB, policy=default)
    assert workspace.deleted(plan) == ["api:buildcache"]
    assert workspace.why(plan, "api:buildcache") == "cache"
    assert workspace.sentence(plan, "api:buildcache") == "deleted: build cache, frees 2 MB"
    plan = workspace.plan(free=3 * MB, policy=default)
    assert workspace.deleted(plan) == ["api:buildcache", "api:1.1", "api:1.1-sbom"]
    assert [workspace.why(plan, f"api:1.{n}") for n in (2, 3, 4)] == ["newest"] * 3
    assert workspace.sentence(plan, "api:1.3") == "kept: 2nd newest of 3 kept for app api"
    assert workspace.sentence(plan, "api:1.4-sbom") == ("kept: refers to acme/api:1.4, which stays")


def test_with_the_target_out_of_reach_the_newest_two_versions_stay_with_their_sboms():
    workspace = app_with_cache_and_sboms()
    plan = workspace.plan()
    assert workspace.deleted(plan) == [
        "api:buildcache",
        *("api:1.1", "api:1.1-sbom", "api:1.2", "api:1.2-sbom"),
    ]


def test_each_kind_has_its_own_places_and_its_own_name_in_the_reasons():
    workspace = Workspace()
    workspace.series("api", 3, first_day=1)
    for number in range(1, 5):
        workspace.image("api", f"c{number}", 50 + number, kind=CHART)
        workspace.image("api", f"m{number}", 60 + number, kind=MODEL)
    plan = workspace.plan(free=2 * MB)
    assert workspace.deleted(plan) == ["api:c1", "api:m1"]
    assert workspace.sentence(plan, "api:c1") == "deleted: 4th newest chart, frees 1 MB"
    assert workspace.sentence(plan, "api:3") == "kept: newest of 3 kept for app api"
    assert workspace.sentence(plan, "api:m3") == (
        "kept: 2nd newest artifact application/vnd.example.model of 3 kept for app api"
    )


def test_two_types_of_artifacts_are_two_kinds():
    workspace = Workspace()
    for number in range(1, 4):
        workspace.image("api", f"a{number}", 50 + number, kind=MODEL)
        workspace.image("api", f"b{number}", 60 + number, kind=Kind("artifact", "x/y"))
    assert workspace.deleted(workspace.plan(policy=open_policy(keep_at_least=3))) == []


def test_an_apps_only_image_is_its_only_image_beside_other_kinds():
    workspace = Workspace()
    workspace.image("api", "1", 1)
    for number in range(4):
        workspace.image("api", f"c{number}", 50 + number, kind=CHART)
    plan = workspace.plan(policy=open_policy(keep_at_least=1))
    assert workspace.why(plan, "api:1") == "only_image"
    assert workspace.sentence(plan, "api:1") == "kept: the only image of app api"


def test_latest_stays_while_two_of_its_kind_remain():
    workspace = Workspace()
    workspace.image("api", "1", 1)
    workspace.add("old", "latest", day=5, layers={"l": MB})
    workspace.image("api", "2", 10)
    for number in range(4):
        workspace.image("api", f"c{number}", 50 + number, kind=CHART)
    plan = workspace.plan(policy=open_policy(keep_newest=1, keep_at_least=1))
    # Of three images one goes; then `latest` is one of two.
    assert workspace.deleted(plan) == ["api:1", "api:c0", "api:c1", "api:c2"]
    assert workspace.why(plan, "old") == "latest"
    assert workspace.sentence(plan, "old") == (
        "kept: the latest of app api, of which only 2 images remain"
    )


def test_a_cache_goes_although_it_is_an_apps_newest_its_only_one_and_its_latest():
    workspace = Workspace()
    workspace.add("cache", "latest", app="cache", day=99, layers={"c": MB}, kind=CACHE)
    assert workspace.deleted(workspace.plan(free=1)) == ["cache"]


def test_caches_go_oldest_first_and_only_as_many_as_are_needed():
    workspace = Workspace()
    for number in range(1, 5):
        workspace.image("api", f"cache{number}", number, kind=CACHE)
    workspace.series("api", 6, first_day=1)
    assert workspace.deleted(workspace.plan(free=2 * MB)) == ["api:cache1", "api:cache2"]
    plan = workspace.plan(free=5 * MB)
    assert workspace.deleted(plan) == [*(f"api:cache{n}" for n in range(1, 5)), "api:1"]


def test_what_protects_an_image_protects_a_cache():
    workspace = Workspace()
    for number, tag in enumerate(["keep", "young", "leased", "gone"]):
        workspace.image("api", tag, 99 if tag == "young" else 10 + number, kind=CACHE)
    plan = workspace.plan(
        policy=open_policy(keep_tags=("keep",), min_age_s=3 * 86_400),
        in_use=frozenset({digest("api:leased")}),
    )
    assert workspace.deleted(plan) == ["api:gone"]
    assert workspace.why(plan, "api:keep") == "keep_tag"


def test_an_untagged_cache_is_garbage_like_anything_untagged_and_no_apps_last_image():
    workspace = Workspace()
    workspace.add("cache", app="cache", day=50, layers={"c": MB}, kind=CACHE)
    workspace.add("attested", app="cache", day=60, layers={"a": MB}, kind=Kind("attestation"))
    assert workspace.deleted(workspace.plan()) == ["cache", "attested"]


def test_the_newest_untagged_of_a_kind_is_its_only_one():
    workspace = Workspace()
    for number in (1, 2):
        workspace.add(f"image{number}", day=number, layers={f"i{number}": MB})
        workspace.add(f"chart{number}", day=10 + number, layers={f"c{number}": MB}, kind=CHART)
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["image1", "chart1"]
    assert workspace.sentence(plan, "chart2") == (
        "kept: the newest chart of app api, which has no tags"
    )


def test_what_is_of_no_known_kind_is_kept_holds_no_place_and_is_to_be_read():
    workspace = Workspace()
    workspace.series("api", 4)
    workspace.image("api", "what", 90, kind=None)
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["api:1", "api:2"]
    assert workspace.why(plan, "api:what") == "kind_unknown"
    assert [workspace.name(manifest) for manifest in plan.unresolved] == ["api:what"]


def test_it_is_to_be_read_before_any_image_goes():
    workspace = Workspace()
    workspace.series("api", 5)
    workspace.image("api", "what", 90, kind=None)
    plan = workspace.plan(free=MB)
    assert [workspace.name(manifest) for manifest in plan.unresolved] == ["api:what"]
    read = replace(workspace.manifests["api:what"], kind=CACHE)
    workspace.manifests["api:what"] = read
    assert workspace.deleted(workspace.plan(free=MB)) == ["api:what"]


def test_a_tag_names_another_only_where_that_is_there_and_only_of_what_is_no_image():
    workspace = Workspace()
    workspace.series("api", 3)
    workspace.image("api", "9-sbom", 50, kind=SBOM)  # there is no 9
    workspace.image("api", "3-sbom", 51)  # an image of that name
    workspace.image("api", "2-sbom", 52, kind=None)
    workspace.image("api", "1-sbom", 53, kind=SBOM, repository="acme/api-mirror")  # elsewhere
    plan = workspace.plan(free=0, policy=open_policy())
    assert plan.why_not is None
    plan = workspace.plan()
    assert workspace.why(plan, "api:9-sbom") == "newest"
    assert workspace.why(plan, "api:3-sbom") == "newest"
    assert workspace.why(plan, "api:2-sbom") == "kind_unknown"
    assert workspace.why(plan, "api:1-sbom") == "newest"


def test_what_follows_two_tags_goes_with_the_last_of_them():
    workspace = Workspace()
    workspace.series("api", 5)
    workspace.add("both", "1-sbom", "2-sbom", day=60, layers={"s": MB}, kind=SBOM)
    assert workspace.deleted(workspace.plan(free=MB)) == ["api:1"]
    assert workspace.deleted(workspace.plan(free=2 * MB)) == ["api:1", "api:2", "both"]


def test_a_follower_of_a_follower_goes_with_the_image():
    workspace = Workspace()
    workspace.series("api", 4)
    workspace.image("api", "1-sbom", 60, kind=SBOM)
    workspace.image("api", "1-sbom-sig", 61, kind=SIGNATURE)
    assert workspace.deleted(workspace.plan(free=3 * MB)) == [
        "api:1",
        "api:1-sbom",
        "api:1-sbom-sig",
    ]


def test_what_follows_something_protected_stays_with_it():
    workspace = Workspace()
    workspace.series("api", 4)
    workspace.image("api", "1-sbom", 2, kind=SBOM)
    plan = workspace.plan(in_use=frozenset({digest("api:1")}))
    assert workspace.why(plan, "api:1-sbom") == "follows_image"
    leased = workspace.plan(in_use=frozenset({digest("api:1-sbom")}))
    assert workspace.why(leased, "api:1") == "in_use"


def test_more_caches_than_a_run_may_delete_are_refused_like_images():
    workspace = Workspace()
    for number in range(4):
        workspace.image("api", f"cache{number}", number, kind=CACHE)
    source = workspace.input(policy=open_policy(max_images_per_run=3))
    assert [block.code for block in make_plan(source).blocks] == ["max_images_per_run"]
