"""Records wait in the order of their partition, which is with one lane at a time."""

from aiokafka import TopicPartition

from consumer.waiting import Waiting

KIB = 1024
A, B = (TopicPartition("notifications", number) for number in range(2))


class Record:
    def __init__(self, offset, value=bytes(KIB)):
        self.offset, self.value = offset, value


def records(*offsets):
    return [Record(offset) for offset in offsets]


def taken(waiting, most=100):
    return offsets(waiting.take(most))


def offsets(batch):
    return {partition: [record.offset for record in found] for partition, found in batch.items()}


def test_a_partition_is_with_one_lane_at_a_time():
    waiting = Waiting(100 * KIB)
    waiting.add(A, records(1, 2))
    batch = waiting.take(100)
    waiting.add(A, records(3))
    waiting.add(B, records(7))
    assert taken(waiting) == {B: [7]}
    waiting.done(batch)
    assert taken(waiting) == {A: [3]}


def test_what_is_left_of_a_partition_comes_next_and_behind_what_waits_longer():
    waiting = Waiting(100 * KIB)
    waiting.add(A, records(1, 2, 3))
    waiting.add(B, records(7, 8))
    batch = waiting.take(2)
    assert offsets(batch) == {A: [1, 2]}
    waiting.done(batch)
    assert taken(waiting) == {B: [7, 8], A: [3]}


def full(waiting):
    return waiting.full


def test_it_is_full_above_its_bytes_until_enough_is_taken_or_dropped():
    waiting = Waiting(3 * KIB)
    waiting.add(A, records(1, 2))
    assert not full(waiting)
    waiting.add(B, records(7))
    assert full(waiting)
    waiting.take(1)
    assert not full(waiting)
    waiting.add(B, records(8))
    assert full(waiting)
    waiting.drop(B)
    waiting.drop(B)
    assert not full(waiting)
    waiting.add(B, records(9, 10))
    waiting.clear()
    assert not full(waiting)
    waiting.add(B, records(11))
    assert taken(waiting) == {B: [11]}


def test_records_without_a_value_fill_it_as_well():
    waiting = Waiting(3 * KIB)
    waiting.add(A, [Record(offset, None) for offset in range(2)])
    assert not full(waiting)
    waiting.add(A, [Record(2, b"")])
    assert full(waiting)


async def test_whoever_waits_for_a_change_goes_on_when_something_comes():
    waiting = Waiting(100 * KIB)
    await waiting.change(0.001)  # nothing came
    waiting.add(A, records(1))
    assert taken(waiting) == {A: [1]}
