"""What stands in the way is one text for as long as the same does."""

from hypothesis import given
from hypothesis import strategies as st

from quota.reasons import _PASSING, KEPT_AS, obstacle_of
from tests.unit.quota.builders import MB, Workspace, digest, open_policy

WHYS = st.lists(st.sampled_from(sorted(KEPT_AS)))


@given(WHYS, st.randoms())
def test_neither_order_nor_number_changes_it(whys, random):
    again = whys + whys[: len(whys) // 2]
    random.shuffle(again)
    assert obstacle_of(again) == obstacle_of(whys)


@given(WHYS, WHYS)
def test_what_passes_by_itself_changes_nothing_beside_what_does_not(whys, more):
    lasting = [why for why in whys if why not in _PASSING]
    passing = [why for why in more if why in _PASSING]
    if lasting:
        assert obstacle_of(lasting + passing) == obstacle_of(lasting)


@given(st.frozensets(st.sampled_from(sorted(set(KEPT_AS) - _PASSING)), min_size=1), WHYS)
def test_another_lasting_obstacle_is_another_text(lasting, more):
    if not set(more) - _PASSING <= lasting:
        assert obstacle_of([*lasting, *more]) != obstacle_of(lasting)


def test_what_stands_in_the_way_is_named_or_said_to_be_more():
    """Each kind of obstacle is another reason to look: a sentence that ends early says so."""
    workspace = Workspace()
    workspace.series("api", 3, first_day=20)
    workspace.image("api", "used", 1)
    workspace.image("api", "keep-me", 2)
    workspace.image("api", "pulled", 3, pulled_day=99.9)
    workspace.image("web", "only", 4)
    workspace.image("api", "undated", 5, age_known=False)
    policy = open_policy(keep_tags=("keep-*",), keep_pulled_days=1)
    plan = workspace.plan(free=7 * MB, in_use=frozenset({digest("api:used")}), policy=policy)
    assert plan.why_not is not None
    named = plan.why_not.partition("what stays: ")[2]
    said = sum(words in named for why, words in KEPT_AS.items() if why in plan.kept_by)
    more = len(plan.kept_by) - said
    assert more > 0
    assert named.endswith(f" and {more} other obstacle{'s' if more > 1 else ''}")
