"""A stored plan holds while a plan made now would do the same; otherwise it says what changed."""

from dataclasses import replace

from hypothesis import given, settings

from quota.plan import PlanInput
from quota.planner import make_plan
from quota.stored import changes, steps_of
from tests.unit.quota.builders import MB, Workspace, digest
from tests.unit.quota.random_workspaces import inputs


def holdings(source: PlanInput) -> dict[bytes, tuple[int, int]]:
    """What the ledger would say: how many manifests contain a digest, and its bytes."""
    counted: dict[bytes, int] = {}
    for manifest in source.manifests:
        for held in {manifest.digest, *manifest.blobs}:
            counted[held] = counted.get(held, 0) + 1
    return {held: (count, source.sizes[held]) for held, count in counted.items()}


def signs(source: PlanInput):
    return {manifest.key: manifest.pushed_at_ns for manifest in source.manifests}


def store(source: PlanInput):
    return steps_of(make_plan(source), signs(source))


def what_changed(stored, source: PlanInput) -> list[str]:
    return changes(stored, make_plan(source), signs(source), holdings(source))


def seven() -> Workspace:
    workspace = Workspace()
    workspace.series("api", 7)
    return workspace


def test_what_has_not_changed_holds():
    source = seven().input(free=2 * MB)
    assert what_changed(store(source), source) == []


@settings(max_examples=150, deadline=None)
@given(inputs())
def test_every_plan_holds_at_the_moment_when_it_was_made(source):
    plan = make_plan(source)
    stored = steps_of(plan, signs(source))
    assert stored.freed_bytes == plan.freed_bytes
    found = changes(stored, plan, signs(source), holdings(source))
    assert found == [block.sentence for block in plan.blocks]


def test_an_image_beside_it_that_is_deleted_as_well_now_changes_nothing():
    workspace = seven()
    stored = store(workspace.input(free=2 * MB))
    workspace.image("web", "new", 99)
    assert what_changed(stored, workspace.input(free=3 * MB)) == []


def test_an_image_that_is_gone_is_named():
    workspace = seven()
    stored = store(workspace.input(free=2 * MB))
    del workspace.manifests["api:1"]
    assert "acme/api:1 is gone already" in what_changed(stored, workspace.input(free=2 * MB))


def test_a_tag_that_was_added_is_named():
    workspace = seven()
    stored = store(workspace.input(free=2 * MB))
    workspace.manifests["api:1"] = replace(workspace.manifests["api:1"], tags=("1", "stable"))
    found = what_changed(stored, workspace.input(free=2 * MB))
    assert "acme/api:1 has other tags now: 1, stable" in found


def test_an_image_that_was_pushed_again_is_named():
    workspace = seven()
    stored = store(workspace.input(free=2 * MB))
    again = replace(workspace.manifests["api:1"], pushed_at_ns=99 * 86_400 * 10**9)
    workspace.manifests["api:1"] = again
    assert "acme/api:1 was pushed again" in what_changed(stored, workspace.input(free=2 * MB))


def test_an_image_that_is_in_use_now_is_named_with_the_reason():
    workspace = seven()
    stored = store(workspace.input(free=2 * MB))
    source = workspace.input(free=2 * MB, in_use=frozenset({digest("api:1")}))
    assert "acme/api:1 is kept now: in use" in what_changed(stored, source)


def test_nothing_goes_when_the_target_is_reached_meanwhile():
    workspace = seven()
    stored = store(workspace.input(free=2 * MB))
    found = what_changed(stored, workspace.input(free=0))
    assert found == [f"acme/api:{n} is kept now: nothing has to go" for n in (1, 2)]


def test_a_signature_that_would_go_along_now_is_named():
    workspace = seven()
    stored = store(workspace.input(free=2 * MB))
    workspace.add("sbom", day=60, subject="api:1", size=10)
    found = what_changed(stored, workspace.input(free=2 * MB))
    assert len(found) == 1
    assert "would go along with acme/api:1 now" in found[0]


def test_bytes_that_something_else_holds_meanwhile_break_the_promise():
    workspace = seven()
    workspace.add("api:0", "0", day=0, layers={"own": MB, "base": MB})
    stored = store(workspace.input())
    workspace.add("web:1", "1", app="web", layers={"base": MB})
    found = what_changed(stored, workspace.input())
    assert found == ["acme/api:0 would free 1 MB now, not 2 MB"]
