"""Shares of apps add up to what the workspace uses."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ledger.browsing import Contents
from ledger.packing import pack_blobs, pack_digests
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
        assert found.unique[key] == 7 + sum(x * 10 for x in layers if references[x] == 1)


def test_an_index_is_as_large_as_the_distinct_blobs_of_its_children():
    one = Contents(1, "api", digest(1), pack_blobs([(digest(10), 5), (digest(11), 6)]), None, False)
    two = Contents(1, "api", digest(2), pack_blobs([(digest(10), 5), (digest(12), 7)]), None, False)
    index = Contents(1, "api", digest(3), b"", pack_digests([digest(1), digest(2)]), True)
    held = {digest(10): Held(2, 5), digest(11): Held(1, 6), digest(12): Held(1, 7)}
    assert break_down([index, one, two], held).sizes[1, digest(3)] == 18
