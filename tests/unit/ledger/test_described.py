"""A digest fixes what a manifest is: where facts tell it differently, who has read the document is right."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.facts import Content, ContentLearned, ManifestPushed
from ledger.fold import State, fold
from registry.media_types import OCI_INDEX
from tests.support.histories import IMAGES, OCI_IMAGE, digest, stamp

KEY = (1, IMAGES[0][0])
WHERE = ("default", "acme/api", IMAGES[0][0])
TRUE = Content(blobs=((digest("a"), 10),), subject_known=True, rules=1)
READ = ContentLearned(*WHERE, OCI_IMAGE, 100, TRUE)
FORGED = st.builds(
    lambda moment, media_type, size, content, tag: ManifestPushed(
        *WHERE, stamp(moment), media_type, size, tag, content
    ),
    st.integers(0, 50),
    st.sampled_from((OCI_IMAGE, OCI_INDEX, "application/zzz", "")),
    st.sampled_from((0, 1, 100, 2**42)),
    st.none()
    | st.builds(
        lambda size, children: Content(
            blobs=((digest("a"), size), (digest("b"), 2**41)), children=children, rules=1
        ),
        st.integers(1, 2**42),
        st.sampled_from(((), (digest("b"),))),
    ),
    st.sampled_from((None, "1")),
)


def folded(facts) -> State:
    state = State({}, {})
    for fact in facts:
        fold(state, 1, fact)
    return state


@given(events=st.lists(FORGED, max_size=6), data=st.data())
def test_the_document_wins_for_all_of_it_in_any_order(events, data):
    facts = data.draw(st.permutations([*events, READ, *events, READ]))
    manifest = folded(facts).manifests[KEY]
    assert (manifest.media_type, manifest.size, manifest.content) == (OCI_IMAGE, 100, TRUE)


@given(events=st.lists(FORGED, min_size=1, max_size=5), data=st.data())
def test_without_it_order_plays_no_part(events, data):
    one, other = folded(events), folded(data.draw(st.permutations(events + events)))
    assert one.manifests == other.manifests


@given(event=FORGED, other=FORGED)
def test_what_is_told_differently_is_asked_for_and_what_was_read_is_not(event, other):
    differs = (
        (event.size and other.size and event.size != other.size)
        or (
            (event.size and event.media_type and other.media_type)
            and event.media_type != other.media_type
        )
        or ((event.size and event.content and other.content) and event.content != other.content)
    )
    asked = KEY in folded([event, other]).doubted
    assert asked == bool(differs)
    assert KEY not in folded([READ, event, other]).doubted
