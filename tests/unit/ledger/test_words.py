"""Whose word a size is: what storage answered outweighs what anybody tells, in whatever order it comes."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.facts import BlobStored
from ledger.words import greatest

DIGEST = bytes(32)
SIZES = st.integers(1, 2**42)
EVENTS = st.builds(
    BlobStored, st.just(DIGEST), SIZES, st.sampled_from(("default", "other")), st.just("acme/api")
)
ANSWERS = st.builds(BlobStored, st.just(DIGEST), SIZES, asked_ns=st.integers(-1, 3))


@given(events=st.lists(EVENTS), answers=st.lists(ANSWERS, min_size=1), data=st.data())
def test_the_newest_answer_counts_whatever_events_say(events, answers, data):
    facts = data.draw(st.permutations(events + answers + answers))
    newest = max(answers, key=lambda fact: (fact.asked_ns, fact.size))
    assert greatest(facts)[DIGEST][2] == newest.size


@given(events=st.lists(EVENTS, min_size=1), data=st.data())
def test_of_events_those_of_the_registry_that_is_asked_count_for_more(events, data):
    facts = data.draw(st.permutations(events + events))
    own = [fact.size for fact in events if fact.registry == "default"]
    assert greatest(facts)[DIGEST][2] == max(own or [fact.size for fact in events])
