"""What a platform claims converges with everything else, and yields to whatever was read."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.claims import claimed, is_pseudo_blob
from ledger.counting import Change, Holding, contribution, count
from ledger.facts import Content, ContentLearned, ManifestDeleted, ManifestPushed, ManifestSeen
from ledger.fold import Manifest, State, fold

DIGEST = bytes(32)
OTHER = bytes([1]) * 32
READ = Content(blobs=((b"\2" * 32, 700),), subject_known=True)
REFERENCES = Content(blobs=((b"\2" * 32, 700),))


def claim(size, ns, digest=DIGEST):
    stamp = (ns, b"c" * 16)
    return ManifestSeen("r", "a/b", digest, stamp, "", 0, "1", claimed(digest, size, stamp), ns)


def push(ns, digest=DIGEST, content=REFERENCES):
    return ManifestPushed("r", "a/b", digest, (ns, b"p" * 16), "image", 500, "1", content)


FACTS = [
    claim(900, 1),
    claim(800, 2),
    claim(800, 3, OTHER),
    claim(0, 4),
    push(1000),
    push(2000, OTHER, None),
    ContentLearned("r", "a/b", OTHER, "image", 500, READ),
    ManifestDeleted("r", "a/b", DIGEST, (1500, b"d" * 16)),
]


def folded(facts):
    state = State({}, {})
    for fact in facts:
        fold(state, 1, fact)
    manifests = {
        digest: (item.push, item.seen, item.delete, item.size, item.content, item.created_ns)
        for (_repository, digest), item in state.manifests.items()
    }
    return manifests, state.tags


@given(st.lists(st.sampled_from(FACTS), min_size=1), st.randoms(use_true_random=False))
def test_claims_in_any_order_and_repetition_end_in_one_state(facts, random):
    shuffled = facts + random.sample(facts, random.randint(0, len(facts)))
    random.shuffle(shuffled)
    assert folded(shuffled) == folded(facts)


def test_the_last_claim_counts_until_something_is_read():
    def content(*facts):
        return folded(facts)[0][DIGEST][4]

    assert content(claim(900, 1), claim(800, 2)).blobs[0][1] == 800
    assert content(claim(900, 1), push(1000)) == REFERENCES
    assert content(push(1000), claim(900, 1)) == REFERENCES
    assert content(claim(900, 1), push(1000, content=None)).blobs[0][1] == 900
    learned = ContentLearned("r", "a/b", DIGEST, "image", 500, READ)
    assert content(claim(900, 1), learned, claim(800, 2)) == READ


def test_a_size_of_0_is_not_known_rather_than_nothing():
    assert folded([claim(0, 1)])[0][DIGEST][4] is None


def test_a_claimed_image_counts_its_claim_and_waits_for_no_garbage_collection():
    manifest = Manifest(content=claimed(DIGEST, 900, (1, b"")))
    holdings: dict[bytes, Holding] = {}
    change = Change()
    change.add(DIGEST, contribution(DIGEST, manifest))
    assert count(holdings, change, {}).usage_delta == 900
    gone = Change()
    gone.remove(DIGEST, contribution(DIGEST, manifest))
    assert count(holdings, gone, {}).usage_delta == -900
    assert [item.released for key, item in holdings.items() if is_pseudo_blob(key)] == [False]


def test_what_another_repository_read_of_a_manifest_stays_when_a_claim_comes():
    read = Manifest(size=500, content=REFERENCES)
    told = Manifest(content=claimed(DIGEST, 900, (1, b"")))
    holdings: dict[bytes, Holding] = {}
    for manifest, delta in ((read, 1200), (told, 900)):
        change = Change()
        change.add(DIGEST, contribution(DIGEST, manifest))
        assert count(holdings, change, {}).usage_delta == delta
    assert holdings[DIGEST].size == 500
