"""What a rehearsal says is what a cleanup, plan after plan, would come to."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from quota.plan import PlanInput
from quota.planner import make_plan
from quota.rounds import after, rehearsed, rounds
from tests.unit.quota.builders import MB, Workspace, open_policy, recount
from tests.unit.quota.random_workspaces import inputs


@st.composite
def with_breakers(draw: st.DrawFn) -> PlanInput:
    """Above the quota or below it, with a limit that often refuses."""
    source = draw(inputs())
    room = draw(st.integers(0, source.usage_bytes + 1))
    reserved = source.quota_bytes - room
    policy = replace(
        source.policy,
        max_ratio_per_run_ppm=draw(st.integers(1, 10)) * 100_000,
        target_ppm=draw(st.integers(1, 100)) * 10_000,
    )
    return replace(source, reserved_bytes=reserved, policy=policy)


@settings(deadline=None)
@given(source=st.one_of(inputs(), with_breakers()))
def test_a_rehearsal_ends_where_nothing_more_would_go_and_with_what_a_recount_finds(source):
    done = list(rounds(source, make_plan(source)))
    for made_from, plan in done:
        left = after(made_from, plan)
        assert left.usage_bytes == recount(left.manifests, dict(source.sizes))
    end, last = done[-1]
    assert not last.steps
    images, let_go = rehearsed(source, [plan for _source, plan in done])
    assert len({(i.repository, i.digest) for i in images}) == len(images)
    freed = source.usage_bytes - end.usage_bytes
    assert freed == sum(image.freed_bytes for image in images)
    assert freed == sum(source.sizes[digest] for digest in let_go)


def test_what_a_breaker_lets_through_is_followed_by_its_refusal():
    workspace = Workspace()
    workspace.series("api", 10)
    policy = replace(open_policy(), max_ratio_per_run_ppm=500_000, target_ppm=600_000)
    source = workspace.input(
        quota_bytes=10 * MB, reserved_bytes=0, incoming_bytes=3 * MB, policy=policy
    )
    first, last = (plan for _source, plan in rounds(source, make_plan(source)))
    assert (len(first.steps), first.blocks) == (3, ())
    assert [block.sentence for block in last.blocks] == [
        "7 of 10 images would be deleted, max_ratio_per_run (0.5) allows 5"
    ]
