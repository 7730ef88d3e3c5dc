"""The fold converges: any order, any repetition, the same state; and that state is the truth."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.facts import BlobStored, Fact, ManifestDeleted, ManifestPushed
from ledger.fold import State, fold
from tests.support.histories import (
    IMAGES,
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
        if not isinstance(fact, BlobStored):
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
