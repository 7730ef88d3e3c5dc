"""Whatever became of the log, nothing that the ledger has not seen is left out."""

from aiokafka import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from consumer.continuity import find_break, mark_of, to_compare
from ledger.offsets import LogBreak, Mark, Position
from runtime.topics import Extent


def mark(offset: int, what: int) -> Mark:
    return Mark(offset, 1000 + what, bytes([what]))


@given(st.data(), st.integers(0, 12), st.integers(0, 12))
def test_nothing_unseen_is_left_out_and_what_was_seen_is_mostly_not_read_again(data, read, new):
    """A log of which `read` records were read, put back to fewer (0: made anew), and grown by others."""
    kept = data.draw(st.integers(0, read))
    log = [mark(offset, offset) for offset in range(kept)]
    log += [mark(kept + number, 100 + number) for number in range(new)]
    extent = Extent(data.draw(st.integers(0, len(log))), len(log))
    looked_at = data.draw(st.integers(-1, read - 1))
    position = Position(
        1,
        read,
        mark(read - 1, read - 1) if read else None,
        mark(looked_at, looked_at) if looked_at >= 0 else None,
    )
    there = {item.offset: log[item.offset] for item in to_compare(position, extent)}
    found = find_break(0, position, extent, there)
    start = read if found is None else found.resumed_offset
    assert start <= max(len(log), extent.first)
    assert start <= max(kept, extent.first), "what nobody has seen begins at `kept`"
    if kept == read and extent.first <= read:
        assert found is None
    if looked_at in range(extent.first, kept):
        assert start > looked_at, "what a look has confirmed is not read again"


def broken(position: Position, extent: Extent, there: dict[int, Mark]) -> LogBreak:
    found = find_break(0, position, extent, there)
    assert found is not None
    return found


def test_what_could_not_be_read_proves_nothing():
    position = Position(1, 10, mark(9, 1), mark(4, 2))
    assert find_break(0, position, Extent(0, 10), {}) is None
    assert broken(position, Extent(0, 10), {9: mark(9, 7)}).kind == "replaced"


def test_each_way_of_not_going_on_has_its_name():
    position = Position(1, 10, mark(9, 1), mark(4, 2))
    same = {9: mark(9, 1), 4: mark(4, 2)}
    assert find_break(0, position, Extent(0, 12), same) is None
    assert find_break(0, position, Extent(10, 12), {}) is None, "all that was read has gone by age"
    ends = broken(position, Extent(0, 6), {4: mark(4, 2)})
    assert (ends.kind, ends.resumed_offset) == ("ends_before", 5)
    replaced = broken(position, Extent(0, 20), {9: mark(9, 8), 4: mark(4, 2)})
    assert (replaced.kind, replaced.resumed_offset) == ("replaced", 5)
    anew = broken(position, Extent(0, 20), {9: mark(9, 8), 4: mark(4, 8)})
    assert (anew.kind, anew.resumed_offset) == ("replaced", 0)
    late = broken(position, Extent(15, 20), {})
    assert (late.kind, late.stored_offset, late.resumed_offset) == ("begins_after", 10, 15)
    moved = broken(Position(1, 0, elsewhere=77), Extent(0, 3), {})
    assert (moved.kind, moved.stored_offset, moved.resumed_offset) == ("another_cluster", 77, 0)


def test_a_record_is_known_by_its_time_key_and_value():
    def record(
        offset: int = 3, stored: int = 5, key: bytes = b"acme", value: bytes | None = b"{}"
    ) -> ConsumerRecord:
        return ConsumerRecord("t", 0, offset, stored, 0, key, value, 0, 0, 0, ())

    assert mark_of(record()) == mark_of(record())
    others = [
        record(stored=6),
        record(key=b"x"),
        record(value=b"{ }"),
        record(value=None),
        record(offset=4),
        record(key=b"acme{", value=b"}"),
    ]
    assert len({mark_of(item) for item in [record(), *others]}) == 7
