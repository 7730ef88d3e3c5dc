"""What pushes do to reservations, and what is remembered of them."""

from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.facts import Content, ManifestPushed
from ledger.fold import State, fold
from ledger.settlement import (
    MOST_REMEMBERED,
    Arrival,
    Remembered,
    Reserved,
    TaggedPush,
    pack_history,
    remember,
    samples,
    settle,
    tagged_push,
    unpack_history,
)
from registry.media_types import OCI_CONFIG, OCI_EMPTY, OCI_MANIFEST

SECOND = 1_000_000_000


def digest(number):
    return number.to_bytes(32, "big") if number > 255 else bytes([number]) * 32


def reserved(number, created, size=1000):
    return Reserved(UUID(int=number), created * SECOND, size)


def arrival(at, number, new_bytes, *children, more=False):
    return Arrival(at * SECOND, digest(number), new_bytes, tuple(map(digest, children)), more=more)


def tagged(at, number, tag="1", *, moved=True):
    return TaggedPush(at * SECOND, digest(number), tag, moved)


def pushed(at, number, tag):
    return ManifestPushed("default", "acme/api", digest(number), (at * SECOND, b""), "", 1, tag)


def test_new_bytes_reduce_the_oldest_and_a_tag_closes_it():
    first, second = reserved(1, 10), reserved(2, 20)
    settle([first, second], [arrival(30, 7, 400)], [])
    assert (first.left_bytes, second.left_bytes) == (600, 1000)
    settle([first, second], [arrival(31, 8, 10)], [tagged(31, 8)])
    assert (first.open, first.left_bytes) == (False, 0)
    assert (second.open, second.left_bytes) == (True, 1000)


def test_more_than_was_reserved_takes_nothing_from_another_build():
    first, second = reserved(1, 10), reserved(2, 20)
    settle([first, second], [arrival(30, 7, 5000)], [])
    assert (first.left_bytes, second.left_bytes) == (0, 1000)


def test_a_push_before_a_reservation_does_not_touch_it():
    only = reserved(1, 10)
    assert not settle([only], [arrival(10, 7, 400)], [tagged(10, 7)])
    assert (only.open, only.left_bytes) == (True, 1000)


def test_further_tags_on_an_image_are_the_same_build():
    first, second = reserved(1, 10), reserved(2, 20)
    settle([first, second], [], [tagged(30, 7, "1.2"), tagged(60, 7, "latest")])
    assert second.open
    settle([first, second], [], [tagged(90, 7, "latest", moved=False)])
    assert not second.open, "the same tag was pushed again: another build with the same outcome"


def test_children_under_the_tag_of_their_index_are_the_same_build():
    first, second = reserved(1, 10), reserved(2, 20)
    settle([first, second], [], [tagged(30, 7), tagged(31, 8), tagged(32, 9)])
    assert second.open
    settle([first, second], [], [tagged(100, 11)])
    assert not second.open


def test_content_that_comes_late_belongs_to_the_push_that_brought_it():
    first, second = reserved(1, 10), reserved(2, 20)
    settle([first, second], [], [tagged(30, 7)])
    settle([first, second], [arrival(30, 7, 800, more=True)], [])
    assert second.left_bytes == 1000


@given(
    facts=st.lists(
        st.builds(
            pushed,
            at=st.integers(1, 50),
            number=st.integers(1, 4),
            tag=st.sampled_from([None, "a", "b"]),
        ),
        max_size=12,
    ),
    again=st.randoms(use_true_random=False),
)
def test_what_was_folded_once_is_no_new_push(facts, again):
    state = State({}, {})
    for fact in facts:
        fold(state, 1, fact)
    repeated = facts * 2
    again.shuffle(repeated)
    assert not any(tagged_push(state, 1, fact) for fact in repeated)


def test_signatures_are_no_pushes_of_a_build():
    for tag in ("sha256-" + "a" * 64, "sha256-" + "a" * 64 + ".sig"):
        assert tagged_push(State({}, {}), 1, pushed(1, 1, tag)) is None
    assert tagged_push(State({}, {}), 1, pushed(1, 1, "sha256-release")) is not None


def test_an_index_and_its_children_are_one_push():
    history = remember([], [arrival(1, 1, 100), arrival(2, 2, 50)], [])
    assert samples(history) == []
    history = remember(history, [arrival(3, 3, 5, 1, 2)], [tagged(3, 3)])
    assert samples(history) == [155]


def test_an_image_counts_once_however_often_it_is_pushed():
    history = remember([], [arrival(1, 1, 100)], [tagged(1, 1)])
    history = remember(history, [], [tagged(5, 1, "latest")])
    history = remember(history, [arrival(9, 1, 40)], [tagged(9, 1)])
    assert samples(history) == [100]


def test_late_content_completes_its_push():
    history = remember([], [arrival(1, 1, 3)], [tagged(1, 1)])
    history = remember(history, [arrival(1, 1, 97, more=True)], [])
    assert samples(history) == [100]


@given(
    st.lists(
        st.builds(
            Remembered, st.binary(min_size=8, max_size=8), st.integers(0, 2**62), st.booleans()
        )
    )
)
def test_a_history_survives_packing(history):
    assert unpack_history(pack_history(history)) == history


def test_a_history_is_bounded_and_the_newest_stay():
    history = remember(
        [], [arrival(n, n, n) for n in range(1, 200)], [tagged(n, n) for n in range(1, 200)]
    )
    assert samples(history) == list(range(200 - MOST_REMEMBERED, 200))


@pytest.mark.parametrize(
    ("tag", "config", "artifact_type", "closes"),
    [
        ("1.4", OCI_CONFIG, "", True),
        ("1.4-sbom", OCI_CONFIG, "", True),
        ("1.4", "application/vnd.cncf.helm.config.v1+json", "", True),
        ("x", "application/vnd.buildkit.cacheconfig.v0", "", False),
        ("x", OCI_EMPTY, "application/spdx+json", False),
        ("x", OCI_CONFIG, "application/vnd.dev.cosign.simplesigning.v1+json", False),
        ("1.4-sbom", OCI_EMPTY, "", False),
        ("model", OCI_EMPTY, "", True),
        ("1.4-sbom", "", "", True),
    ],
)
def test_what_comes_along_with_an_image_is_nothing_that_a_build_is_for(
    tag, config, artifact_type, closes
):
    fact = msgspec.structs.replace(
        pushed(1, 1, tag),
        media_type=OCI_MANIFEST,
        content=Content(config_media_type=config, artifact_type=artifact_type),
    )
    assert (tagged_push(State({}, {}), 1, fact) is not None) is closes
