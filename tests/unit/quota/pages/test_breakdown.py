"""Shares of apps add up to what the workspace uses."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ledger.browsing import Contents
from ledger.packing import pack_blobs, pack_digests, unpack_blobs
from ledger.reading import Held
from quota.pages.breakdown import break_down


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


IMAGES = st.lists(
    st.tuples(
        st.sampled_from(["api", "web", "docs"]),
        st.sets(st.integers(1, 12), max_size=6),
        st.booleans(),
    ),
    max_size=12,
)


@given(IMAGES)
def test_own_bytes_and_shared_bytes_are_what_is_used(images):
    contents = [
        Contents(
            1,
            app,
            digest(1000 + n),
            pack_blobs((digest(x), x * 10) for x in sorted(layers)),
            None,
            None,
            tagged,
        )
        for n, (app, layers, tagged) in enumerate(images)
    ]
    references = Counter(x for _app, layers, _tagged in images for x in layers)
    held = {digest(x): Held(count, x * 10) for x, count in references.items()}
    held |= {item.digest: Held(1, 7) for item in contents}
    found = break_down(contents, held)
    used = sum(entry.size for entry in held.values())
    exclusive = sum(app.exclusive_bytes for app in found.apps)
    apps_of = {x: {app for app, layers, _tagged in images if x in layers} for x in references}
    shared_once = sum(x * 10 for x, apps in apps_of.items() if len(apps) > 1)
    assert exclusive + shared_once == used
    assert found.manifests == len(images)
    assert found.images == sum(tagged for _app, _layers, tagged in images)
    for item, (_app, layers, _tagged) in zip(contents, images, strict=True):
        key = (1, item.digest)
        assert found.sizes[key] == sum(x * 10 for x in layers)
        assert found.frees[key] == 7 + sum(x * 10 for x in layers if references[x] == 1)


def test_an_index_is_as_large_as_the_distinct_blobs_of_its_children():
    one = Contents(
        1, "api", digest(1), pack_blobs([(digest(10), 5), (digest(11), 6)]), None, None, False
    )
    two = Contents(
        1, "api", digest(2), pack_blobs([(digest(10), 5), (digest(12), 7)]), None, None, False
    )
    index = Contents(1, "api", digest(3), b"", pack_digests([digest(1), digest(2)]), None, True)
    held = {digest(10): Held(2, 5), digest(11): Held(1, 6), digest(12): Held(1, 7)}
    assert break_down([index, one, two], held).sizes[1, digest(3)] == 18


def test_an_index_frees_what_really_goes_with_it():
    """Its children that only it needs, and what refers to it or to them; nothing that stays."""

    def of(number, blobs, children=(), subject=None, *, tagged=False):
        return Contents(
            1,
            "api",
            digest(number),
            pack_blobs((digest(blob), 10) for blob in blobs),
            pack_digests(map(digest, children)) if children else None,
            None if subject is None else digest(subject),
            tagged,
        )

    contents = [
        of(1, [101]),
        of(2, [102]),
        of(3, [103], tagged=True),
        of(4, [104]),
        of(10, [], [1, 2, 3, 4, 99], tagged=True),  # 99 was never pushed
        of(11, [], [4], tagged=True),
        of(20, [120], subject=10),
        of(21, [121], subject=1),
    ]
    counted = Counter(digest for item in contents for digest in (item.digest, *unpack(item.blobs)))
    held = {digest: Held(refs, 10) for digest, refs in counted.items()}
    frees = break_down(contents, held).frees
    # Itself, 1 and 2 with a blob each, 20 and 21 with a blob each; 3 has a tag, 4 another index.
    assert frees[1, digest(10)] == 10 * (1 + 2 + 2 + 2 + 2)
    assert frees[1, digest(11)] == 10
    assert frees[1, digest(1)] == 10 * 4
    assert frees[1, digest(3)] == 20


def unpack(packed):
    return [member for member, _size in unpack_blobs(packed)]
