"""When a tag came to name its digest: the same in any order, and never by the same push again."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ledger.facts import (
    ManifestDated,
    ManifestDeleted,
    ManifestPushed,
    ManifestSeen,
    RepositoryFact,
    Stamp,
    TagRemoved,
)
from ledger.fold import State, fold
from ledger.naming import Age, Named, age_of, heads, named
from tests.support import histories
from tests.support.histories import IMAGES, OCI_IMAGE, deliveries
from tests.support.naming import REPOSITORY, named_by, namings

A, B = IMAGES[0][0], IMAGES[1][0]
UNKNOWN = {"push_ns": -1, "dated_ns": -1, "built_ns": -1}


def stamp(minute: int) -> Stamp:
    """Minutes apart: a push within seconds of a look is what the look saw."""
    return histories.stamp(minute * 60_000_000_000)


def folded(facts: list[RepositoryFact]) -> State:
    state = State({}, {})
    for fact in facts:
        fold(state, 0, fact)
    return state


def live(state: State) -> dict[str, Named]:
    return {
        name: tag.named(manifest)
        for (_place, name), tag in state.tags.items()
        if tag.digest is not None
        and (manifest := state.manifests.get((0, tag.digest))) is not None
        and tag.live(manifest)
    }


def push(digest: bytes, moment: int, tag: str = "1.8") -> RepositoryFact:
    return ManifestPushed("default", REPOSITORY, digest, stamp(moment), OCI_IMAGE, 100, tag)


def look(digest: bytes, moment: int, known: int | None = None) -> RepositoryFact:
    named_ns = None if known is None else stamp(known)[0]
    at = stamp(moment)
    return ManifestSeen("default", REPOSITORY, digest, at, OCI_IMAGE, 1, "1.8", named_ns=named_ns)


def untag(moment: int) -> RepositoryFact:
    return TagRemoved("default", REPOSITORY, "1.8", stamp(moment))


def delete(digest: bytes, moment: int) -> RepositoryFact:
    return ManifestDeleted("default", REPOSITORY, digest, stamp(moment))


def at(moment: int) -> Named:
    return Named(stamp(moment)[0])


def by(moment: int) -> int:
    """The end of the second of a look: a tag that it saw named its image by then."""
    return stamp(moment)[0] + 10**9


def moment_of(*facts: RepositoryFact) -> Named:
    return live(folded(list(facts)))["1.8"]


def test_a_look_that_saw_a_push_before_its_event_takes_nothing_from_its_moment():
    """A cleanup's own check sees a tag that was set just now; its image is as new as the push."""
    looked = ManifestSeen("default", REPOSITORY, A, histories.stamp(0), OCI_IMAGE, 1, "1.8")
    soon = histories.stamp(1_300_000_000)
    pushed = ManifestPushed("default", REPOSITORY, A, soon, OCI_IMAGE, 100, "1.8")
    assert moment_of(looked, pushed) == moment_of(pushed, looked) == Named(soon[0])


@given(st.data())
def test_in_any_order_and_repetition_it_is_what_the_whole_set_of_facts_says(data):
    history = data.draw(namings())
    delivered = [fact for batch in data.draw(deliveries(history)) for fact in batch]
    assert live(folded(delivered)) == named_by(history)
    assert folded(delivered).tags == folded(history).tags


@given(namings(), st.data())
def test_the_same_push_again_changes_no_moment(history, data):
    state = folded(history)
    before = live(state)
    for number in range(data.draw(st.integers(1, 5))):
        for (_place, name), tag in list(state.tags.items()):
            if name in before and tag.digest is not None:
                fold(state, 0, push(tag.digest, 10**12 + number, name))
    pushed = live(state)
    assert {name: value.moment_ns for name, value in pushed.items()} == {
        name: value.moment_ns for name, value in before.items()
    }


@given(namings())
def test_a_few_sets_of_a_run_say_what_all_of_it_says(history):
    for tag in folded(history).tags.values():
        before = (tag.other, tag.untag)
        assert named(heads(tag.run), before) == named(tag.run, before)
        assert len(heads(tag.run)) <= 4


def test_a_mirrors_repetition_is_no_news_and_a_rollback_is():
    assert moment_of(push(A, 1), push(A, 5), push(A, 9)) == at(1)
    assert moment_of(push(A, 1), push(B, 5), push(A, 9), push(A, 11)) == at(9)


def test_a_move_that_is_heard_of_late_divides_what_looked_like_repetitions():
    nights = [push(A, moment) for moment in range(0, 4000, 10)]
    assert moment_of(*nights) == at(0)
    assert moment_of(*nights, push(B, 1995)) == at(2000)


def test_a_tag_that_was_removed_or_whose_image_was_deleted_comes_to_name_it_anew():
    assert moment_of(push(A, 1), untag(3), push(A, 5), push(A, 7)) == at(5)
    assert moment_of(push(A, 1), delete(A, 3), push(A, 5), push(A, 7)) == at(5)
    assert moment_of(push(A, 1), delete(B, 3), push(A, 5)) == at(1)


def test_a_look_at_what_was_there_says_nothing_until_somebody_pushes_it():
    assert moment_of(look(A, 3)) == Named(latest_ns=by(3))
    assert moment_of(look(A, 3), push(A, 5), push(A, 7)) == Named(-1, stamp(5)[0], by(3))


def test_a_look_that_knew_a_moment_or_a_tag_that_named_something_else_tells_the_earliest():
    assert moment_of(look(A, 9, known=4), push(A, 11)) == Named(stamp(4)[0], latest_ns=by(9))
    assert moment_of(push(B, 3), look(A, 9), look(A, 12)) == Named(stamp(3)[0], latest_ns=by(9))
    assert moment_of(look(A, 9, known=4), push(A, 6)) == at(6), "its push was heard of in the end"


@given(st.integers(-4_000_000_000, 4_000_000_000), st.permutations(range(5)))
def test_what_is_put_back_is_as_old_as_it_was_whatever_its_registry_told_of_that_push(after, order):
    back = msgspec.structs.replace(look(A, 9, known=1), put_back=True)
    own_push = msgspec.structs.replace(push(A, 9), stamp=histories.stamp(9 * 60 * 10**9 + after))
    facts = [push(A, 1), delete(A, 5), untag(5), back, own_push]
    assert moment_of(*[facts[number] for number in order]) == at(1)
    assert moment_of(*facts, push(A, 30)) == at(1), "a repetition"
    assert moment_of(*facts, push(B, 30), push(A, 40)) == at(40)


def test_the_newest_tag_tells_an_images_age_and_after_it_who_knows_best():
    tags = [Named(5), Named(7), Named(-1, 9)]
    known = {"push_ns": 20, "dated_ns": 3, "built_ns": 2}
    assert age_of(tags, **known) == Age(7, "tag")
    assert age_of(tags[2:], **known) == Age(3, "date")
    assert age_of(tags[2:], **known | {"dated_ns": -1}) == Age(2, "image")
    assert age_of(tags[2:], **UNKNOWN | {"push_ns": 20}) == Age(9, "push")
    assert age_of([Named()], **UNKNOWN | {"push_ns": 20}) == Age(20, "push")
    assert age_of([Named()], **UNKNOWN) == Age()


def test_an_image_may_be_as_new_as_the_look_that_found_a_tag_of_it():
    found = Named(5, latest_ns=9)
    assert age_of([found, Named(7)], **UNKNOWN) == Age(7, "tag", 9)
    assert age_of([found, Named(9)], **UNKNOWN) == Age(9, "tag"), "a push that was told of is newer"
    assert age_of([Named(latest_ns=9)], **UNKNOWN | {"push_ns": 6}) == Age(6, "push", 9)
    assert age_of([Named(latest_ns=9)], **UNKNOWN | {"built_ns": 2}) == Age(2, "image"), (
        "the first installation"
    )
    assert age_of([Named(latest_ns=9)], **UNKNOWN | {"dated_ns": 3}) == Age(3, "date")


@given(st.permutations([(1, 30), (2, 10), (3, 20)]), st.integers(1, 3))
def test_of_several_dates_that_people_said_the_last_one_counts(said, times):
    facts: list[RepositoryFact] = [
        ManifestDated("default", REPOSITORY, A, stamp(moment), date) for moment, date in said
    ]
    assert folded(facts * times).manifests[0, A].dated == (stamp(3), 20)


def test_what_has_no_tag_is_as_old_as_its_newest_push():
    assert age_of([], push_ns=20, dated_ns=30, built_ns=40) == Age(20, "push")
    assert age_of([], push_ns=-1, dated_ns=-1, built_ns=40) == Age(40, "image")
