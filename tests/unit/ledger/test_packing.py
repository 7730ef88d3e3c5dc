"""What is packed comes out again, for every digest algorithm."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.packing import pack_blobs, pack_digests, unpack_blobs, unpack_digests

digests = st.sampled_from((32, 48, 64)).flatmap(
    lambda size: st.binary(min_size=size, max_size=size)
)


@given(st.lists(st.tuples(digests, st.integers(0, 2**63 - 1))))
def test_blobs_come_out_as_they_went_in(blobs):
    assert unpack_blobs(pack_blobs(blobs)) == tuple(blobs)


@given(st.lists(digests))
def test_digests_come_out_as_they_went_in(given_digests):
    assert unpack_digests(pack_digests(given_digests)) == tuple(given_digests)
