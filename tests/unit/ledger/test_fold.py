"""The fold converges: any order, any repetition, the same state; and that state is the truth."""

from itertools import permutations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.facts import (
    ContentLearned,
    Fact,
    ManifestDeleted,
    ManifestPushed,
    TagRemoved,
)
from ledger.fold import State, fold
from tests.support.histories import (
    IMAGES,
    INDEXES,
    OCI_IMAGE,
    REPOSITORIES,
    deliveries,
    histories,
    stamp,
    truth_of,
)


def folded(facts: list[Fact]) -> State:
    state = State({}, {})
    for fact in facts:
        if fact.repository:  # a size alone is of no repository
            fold(state, REPOSITORIES.index(fact.repository), fact)
    return state


def without_hints(state: State) -> tuple[object, object]:
    """The convergent part: when a tag left is a hint for the grace period, not part of the account."""
    return (
        {key: msgspec.structs.replace(item, left_ns=-1) for key, item in state.manifests.items()},
        state.tags,
    )


@given(st.data())
def test_order_and_repetition_change_nothing(data):
    history = data.draw(histories())
    delivered = [fact for batch in data.draw(deliveries(history)) for fact in batch]
    assert without_hints(folded(delivered)) == without_hints(folded(history))


@given(st.data())
def test_what_comes_again_moves_nothing_at_all(data):
    history = data.draw(histories())
    once = [fact for batch in data.draw(deliveries(history)) for fact in batch]
    again = data.draw(st.permutations(once))
    assert folded([*once, *again]) == folded(once)


def test_a_manifest_told_differently_ends_the_same_in_any_order():
    named, _type, size, content = IMAGES[0]
    here = ("default", "acme/api", named)
    other = msgspec.structs.replace(content, blobs=content.blobs[:1])
    facts: list[Fact] = [
        ManifestPushed(*here, stamp(1), OCI_IMAGE, size, None, content),
        ManifestPushed(*here, stamp(2), "application/a", size + 1, None, other),
        ContentLearned(*here, OCI_IMAGE, size, msgspec.structs.replace(other, subject_known=True)),
    ]
    assert len({msgspec.json.encode(folded(list(given)).manifests[0, named])
                for given in permutations(facts)}) == 1  # fmt: skip


def test_the_rules_of_today_replace_what_earlier_ones_read_in_any_order():
    named, media_type, size, content = INDEXES[0]
    here = ("default", "acme/api", named)
    before = msgspec.structs.replace(content, blobs=(), rules=0, subject_known=True)
    again = msgspec.structs.replace(content, subject_known=True)
    facts: list[Fact] = [
        ManifestPushed(*here, stamp(1), media_type, size, None, content),
        ContentLearned(*here, media_type, size, before),
        ContentLearned(*here, media_type, size, again),
    ]
    for order in permutations(facts):
        assert folded(list(order)).manifests[0, named].content == again
    for order in permutations(facts[:2]):
        assert folded(list(order)).manifests[0, named].content == before, "it is read again first"


def test_an_untag_heard_before_the_push_tells_when_the_tag_left():
    untag: Fact = TagRemoved("default", "acme/api", "1", stamp(5))
    for facts in ([push(1), untag], [untag, push(1)], [untag, push(1), untag, push(1)]):
        assert folded(facts).manifests[0, IMAGES[0][0]].left_ns == stamp(5)[0]


@given(histories())
@settings(max_examples=200)
def test_the_folded_state_is_the_truth_of_the_history(history):
    state, truth = folded(history), truth_of(history)
    manifests = {
        (REPOSITORIES[key[0]], key[1]) for key, item in state.manifests.items() if item.present
    }
    tags = {
        (REPOSITORIES[key[0]], key[1]): tag.digest
        for key, tag in state.tags.items()
        if tag.digest is not None and tag.live(state.manifests.get((key[0], tag.digest)))
    }
    assert manifests == truth.manifests
    assert tags == truth.tags


def push(moment: int, image: int = 0, tag: str | None = "1") -> ManifestPushed:
    named, _media_type, size, content = IMAGES[image]
    return ManifestPushed(
        "default", "acme/api", named, stamp(moment), OCI_IMAGE, size, tag, content
    )


def test_a_delete_seen_before_its_push_leaves_a_tombstone():
    delete = ManifestDeleted("default", "acme/api", IMAGES[0][0], stamp(2))
    state = folded([delete, push(1)])
    assert not state.manifests[0, IMAGES[0][0]].present


def test_a_push_after_the_delete_revives():
    delete = ManifestDeleted("default", "acme/api", IMAGES[0][0], stamp(2))
    state = folded([push(1), push(3), delete])
    assert state.manifests[0, IMAGES[0][0]].present
    assert state.tags[0, "1"].live(state.manifests[0, IMAGES[0][0]])


def test_a_moved_tag_leaves_the_old_manifest_existing_and_tells_when_it_left():
    state = folded([push(1, image=0), push(5, image=1)])
    old = state.manifests[0, IMAGES[0][0]]
    assert old.present
    assert old.left_ns == stamp(5)[0]


def test_a_delete_stamped_just_after_the_newest_known_push_is_undone_by_an_unseen_one():
    known = push(1)
    own_delete = ManifestDeleted("default", "acme/api", known.digest, (known.stamp[0] + 1, b""))
    assert not folded([known, own_delete]).manifests[0, known.digest].present
    assert folded([known, own_delete, push(2)]).manifests[0, known.digest].present
