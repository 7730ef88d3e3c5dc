"""cleanup.md, "Plan": which candidates, in which order, how many."""

from quota.policy import Policy
from tests.unit.quota.builders import DAY_NS, MB, NOW_NS, Workspace, digest, open_policy


def test_nothing_goes_when_the_target_is_reached_already():
    workspace = Workspace()
    workspace.series("api", 9)
    plan = workspace.plan(free=0)
    assert (plan.units, plan.target_reached, plan.why_not) == ((), True, None)
    assert {d.sentence for d in plan.decisions} == {"kept: nothing has to go"}
    assert {d.why for d in plan.decisions} == {"nothing_to_do"}


def test_an_empty_workspace_has_an_empty_plan():
    plan = Workspace().plan()
    assert (plan.decisions, plan.steps, plan.target_reached) == ((), (), True)


def test_untagged_goes_first_then_beyond_the_newest_three_oldest_first():
    workspace = Workspace()
    workspace.series("api", 5, first_day=10)
    workspace.series("web", 5, first_day=7)
    workspace.add("gone", layers={"gone": MB}, day=60, left_day=61)
    plan = workspace.plan(free=5 * MB)
    assert workspace.deleted(plan) == ["gone", "web:1", "web:2", "api:1", "api:2"]
    assert [unit.why for unit in plan.units] == ["untagged"] + ["beyond_newest"] * 4
    assert plan.target_reached


def test_only_as_much_goes_as_the_target_needs():
    workspace = Workspace()
    workspace.series("api", 9)
    assert workspace.deleted(workspace.plan(free=2 * MB)) == ["api:1", "api:2"]
    assert workspace.deleted(workspace.plan(free=2 * MB + 1)) == ["api:1", "api:2", "api:3"]


def test_beyond_the_newest_two_only_when_the_target_is_still_not_reached():
    workspace = Workspace()
    workspace.series("api", 4, first_day=10)
    workspace.series("web", 4, first_day=5)
    enough = workspace.plan(free=2 * MB)
    assert workspace.deleted(enough) == ["web:1", "api:1"]
    more = workspace.plan(free=3 * MB)
    assert workspace.deleted(more) == ["web:1", "api:1", "web:2"]
    assert more.units[-1].why == "beyond_minimum"


def test_the_newest_two_of_every_app_stay_whatever_is_asked():
    workspace = Workspace()
    workspace.series("api", 4)
    workspace.series("web", 2)
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["api:1", "api:2"]
    assert not plan.target_reached
    assert workspace.sentence(plan, "api:3") == "kept: 2nd newest of 2 kept for app api"
    assert workspace.sentence(plan, "web:1") == "kept: 2nd newest of 3 kept for app web"


def test_how_many_are_kept_is_the_policys():
    workspace = Workspace()
    workspace.series("api", 6)
    policy = open_policy(keep_newest=5, keep_at_least=1)
    assert workspace.deleted(workspace.plan(policy=policy, free=MB)) == ["api:1"]
    assert len(workspace.deleted(workspace.plan(policy=policy))) == 5


def test_age_goes_by_the_newest_push_of_any_tag_on_the_digest():
    workspace = Workspace()
    workspace.series("api", 4, first_day=10)
    # Built first, but its newest tag was pushed last: pushed_at_ns says so.
    workspace.add("api:0", "0", "again", day=60, layers={"l0": MB})
    plan = workspace.plan()
    assert workspace.deleted(plan) == ["api:1", "api:2", "api:3"]


def test_several_tags_on_one_digest_are_one_image():
    workspace = Workspace()
    workspace.series("api", 3)
    workspace.add("api:many", "a", "b", "c", "d", day=60, layers={"many": MB})
    plan = workspace.plan(free=MB)
    assert workspace.deleted(plan) == ["api:1"]
    assert workspace.sentence(plan, "api:1").startswith("deleted: 4th newest, frees 1 MB")


def test_one_digest_in_two_repositories_of_an_app_is_one_image():
    workspace = Workspace()
    workspace.series("api", 3)
    workspace.add("both", "9", day=60, layers={"both": MB})
    workspace.add("both", "9", day=61, layers={"both": MB}, repository="acme/api-mirror")
    assert workspace.deleted(workspace.plan()) == ["api:1", "api:2"]


def test_untagged_referrers_and_children_do_not_count_among_the_newest():
    workspace = Workspace()
    workspace.series("api", 3)
    workspace.add("arm", day=70, layers={"arm": MB})
    workspace.add("index", "9", day=71, children=("arm",))
    workspace.add("signature", day=72, subject="index", layers={"s": 1})
    workspace.add("cosign", f"sha256-{digest('index').hex()}.sig", day=73, layers={"c": 1})
    workspace.add("moved", day=74, left_day=99.99, layers={"m": MB})
    plan = workspace.plan(policy=Policy(max_ratio_per_run_ppm=10**6))
    assert workspace.deleted(plan) == ["api:1", "api:2"]
    assert workspace.sentence(plan, "index") == "kept: newest of 2 kept for app api"


def test_a_deletion_that_turns_out_not_to_be_needed_is_taken_back():
    workspace = Workspace()
    workspace.series("api", 3, first_day=80)
    workspace.image("api", "small", 1, MB)
    workspace.image("api", "large", 2, 10 * MB)
    plan = workspace.plan(free=10 * MB)
    assert workspace.deleted(plan) == ["api:large"]
    assert (
        workspace.sentence(plan, "api:small")
        == "kept: 5th newest, the target is reached without it"
    )


def test_the_newest_is_taken_back_first():
    workspace = Workspace()
    workspace.series("api", 3, first_day=80)
    for tag, day, size in (("a", 1, 2), ("b", 2, 2), ("c", 3, 2), ("d", 4, 9)):
        workspace.image("api", tag, day, size * MB)
    # a + b + c + d = 15; 11 is reached with d and one of the others: c and b come back.
    assert workspace.deleted(workspace.plan(free=11 * MB)) == ["api:a", "api:d"]


def test_what_goes_only_as_a_last_resort_is_taken_back_before_what_is_beyond_the_newest_three():
    workspace = Workspace()
    workspace.series("web", 3, first_day=80)
    workspace.image("web", "old", 70, 2 * MB)
    workspace.series("api", 3, first_day=10, size=2 * MB)
    workspace.series("job", 3, first_day=12, size=10 * MB)
    # 2 + 2 + 10 MB go at first, 12 are asked for. web:old is newer than api:1, but api:1 is one of
    # the newest three of its app.
    plan = workspace.plan(free=12 * MB)
    assert workspace.deleted(plan) == ["web:old", "job:1"]


def test_layers_shared_by_deleted_images_are_freed_with_the_last_of_them():
    workspace = Workspace()
    workspace.series("api", 3, first_day=80)
    for day in (1, 2, 3):
        workspace.add(
            f"api:old{day}", f"old{day}", day=day, layers={"base": 100 * MB, f"l{day}": MB}
        )
    plan = workspace.plan(free=103 * MB)
    assert [unit.freed_bytes for unit in plan.units] == [MB, MB, 101 * MB]
    assert plan.freed_bytes == 103 * MB
    assert plan.usage_after_bytes == workspace.usage - 103 * MB


def test_what_the_incoming_build_brings_again_is_promised_and_wins_no_room():
    workspace = Workspace()
    workspace.series("api", 3, first_day=80)
    workspace.add("api:old", "old", day=1, layers={"base": 100 * MB, "own": MB})
    plan = workspace.plan(free=2 * MB, incoming_digests=frozenset({digest("base")}))
    assert workspace.why(plan, "api:old") == "beyond_newest"
    assert plan.freed_bytes == 102 * MB  # with api:1
    assert plan.returning_bytes == 100 * MB
    assert plan.usage_after_bytes == workspace.usage - 102 * MB
    assert plan.target_reached
    assert (
        workspace.sentence(plan, "api:old")
        == "deleted: 4th newest, frees 101 MB, of which 100 MB come again with the incoming build"
    )


def test_a_deletion_that_frees_nothing_is_not_made():
    workspace = Workspace()
    workspace.series("api", 2, first_day=80)
    workspace.add("twin", "1", app="web", day=1, layers={"twin": MB})
    workspace.add("twin", "old", day=1, layers={"twin": MB})
    plan = workspace.plan()
    assert workspace.deleted(plan) == []
    decision = workspace.decision(plan, "twin in acme/api")
    assert decision.why == "newest"  # of three; with one more it is beyond them
    workspace.image("api", "9", 90)
    plan = workspace.plan()
    assert "twin in acme/api" not in workspace.deleted(plan)
    assert workspace.decision(plan, "twin in acme/api").why == "frees_nothing"


def test_sizes_and_ranks_are_told_as_in_the_specification():
    workspace = Workspace()
    for number in range(1, 7):
        workspace.add(f"api:{number}", str(number), day=20 + number, size=43_201_331)
    workspace.add("api:0", "0", day=1, size=43_201_331, layers={"shared": 12 * MB})
    workspace.add("web:3", "3", app="web", day=1, layers={"shared": 12 * MB})
    plan = workspace.plan(free=1)
    assert (
        workspace.sentence(plan, "api:0")
        == "deleted: 7th newest, frees 41.2 MB; 12 MB stay shared with acme/web:3"
    )
    assert workspace.sentence(plan, "api:5") == "kept: 2nd newest of 3 kept for app api"


def test_the_order_of_the_input_does_not_matter():
    workspace = Workspace()
    workspace.series("api", 6)
    workspace.series("web", 6)
    forth = workspace.input(free=5 * MB)
    names = workspace.deleted(workspace.plan(free=5 * MB))
    back = workspace.plan(free=5 * MB, manifests=tuple(reversed(forth.manifests)))
    assert workspace.deleted(back) == names
    assert [d.manifest for d in back.decisions] == list(reversed(forth.manifests))


def test_what_goes_is_listed_first_in_its_order_then_what_stays_the_newest_first():
    workspace = Workspace()
    workspace.series("api", 5, first_day=10)
    plan = workspace.plan(free=2 * MB)
    listed = [
        next(n for n, m in workspace.manifests.items() if m is d.manifest) for d in plan.as_listed
    ]
    gone = workspace.deleted(plan)
    assert gone
    assert listed[: len(gone)] == gone
    stays = [workspace.manifests[name].pushed_at_ns for name in listed[len(gone) :]]
    assert stays == sorted(stays, reverse=True)
    assert len(listed) == len(plan.decisions)


def test_the_clock_is_an_argument():
    workspace = Workspace()
    workspace.series("api", 4)
    policy = open_policy(min_age_s=200 * 86_400)
    assert workspace.deleted(workspace.plan(policy=policy)) == []
    later = workspace.plan(policy=policy, now_ns=NOW_NS + 300 * DAY_NS)
    assert workspace.deleted(later) == ["api:1", "api:2"]


def test_what_is_new_by_somebodys_word_keeps_its_place_and_takes_no_other():
    """As an image whose tag is said to have left it and come back: a rollback, or two forged events."""
    workspace = Workspace()
    workspace.series("api", 5)
    workspace.image("api", "back", 10, surely_ns=0)
    plan = workspace.plan()
    assert set(workspace.deleted(plan)) == {"api:1", "api:2", "api:3"}
    assert workspace.sentence(plan, "api:back").startswith("kept: newest")


def test_of_untagged_images_the_newest_stays_whatever_was_pushed_again():
    workspace = Workspace()
    for day in (1, 2, 3):
        workspace.add(f"day {day}", day=day, layers={f"layer of day {day}": MB})
    again = workspace.add("again", day=9, surely_ns=0, layers={"layer of again": MB})
    assert workspace.deleted(workspace.plan()) == ["day 1", "day 2"]
    assert again.takes_from_ns == 0
