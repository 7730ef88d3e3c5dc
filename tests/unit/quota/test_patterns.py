"""A pattern of a policy that matches nothing is told in every plan, and changes nothing in it."""

from dataclasses import replace

from quota.planner import make_plan
from tests.unit.quota.builders import Workspace, open_policy


def workspace():
    found = Workspace()
    found.series("api", 5)
    return found


def notes(*patterns, free=None):
    plan = workspace().plan(free=free, policy=open_policy(keep_tags=patterns))
    return [(note.code, note.sentence) for note in plan.notes]


def test_a_pattern_that_matches_no_tag_here_is_told():
    assert notes("1", "v*") == [
        ("pattern_matches_nothing", 'keep_tags: "v*" matches no tag of this workspace')
    ]


def test_a_kept_pattern_that_no_tag_anywhere_can_match_says_so():
    ((code, sentence),) = notes("^v.*$")
    assert code == "pattern_matches_nothing"
    assert sentence.startswith('keep_tags: no tag can match "^v.*$": "^" cannot stand there')


def test_patterns_that_match_are_not_mentioned_and_none_is_needed():
    assert notes("[1-3]", "5*") == notes() == []


def test_it_is_told_also_where_nothing_has_to_go_or_may_go():
    assert notes("v*", free=0)
    source = workspace().input(policy=open_policy(keep_tags=("v*",)))
    refused = make_plan(replace(source, configured=False))
    assert refused.blocks
    assert [note.code for note in refused.notes] == ["pattern_matches_nothing"]


def test_nothing_in_the_plan_follows_from_it():
    told = workspace().plan(policy=open_policy(keep_tags=("v*",)))
    plain = workspace().plan(policy=open_policy())
    assert [unit.sentence for unit in told.units] == [unit.sentence for unit in plain.units]
    assert (told.blocks, told.warnings) == ((), ())
