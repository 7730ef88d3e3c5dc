"""Offsets move with their batch, and only for the partition's present owner."""

import pytest

from ledger.offsets import (
    Advance,
    Mark,
    StaleOwnerError,
    advance,
    keep_anchors,
    reset,
    take_partition,
)

HERE = {"cluster_id": "c", "topic": "t"}


async def take(pool, owner, first=0):
    async with pool.acquire() as connection:
        return await take_partition(
            connection, **HERE, partition=0, first_offset=first, owner=owner
        )


async def move(pool, epoch, start, end):
    async with pool.acquire() as connection, connection.transaction():
        await advance(connection, **HERE, advances=[Advance(0, epoch, start, mark(end - 1))])


def mark(offset):
    return Mark(offset, 1000 + offset, bytes([offset]))


async def test_a_new_owner_begins_where_the_last_batch_ended_and_knows_how_the_log_looked(pool):
    first = await take(pool, "a", first=5)
    assert (first.next_offset, first.head, first.anchor) == (5, None, None)
    await move(pool, first.epoch, 5, 9)
    async with pool.acquire() as connection:
        for epoch, offset in ((first.epoch, 8), (first.epoch - 1, 7)):
            anchors = {0: (epoch, mark(offset))}
            await keep_anchors(connection, **HERE, anchors=anchors)
    second = await take(pool, "b")
    assert (second.next_offset, second.head, second.anchor) == (9, mark(8), mark(8))
    async with pool.acquire() as connection:
        await reset(connection, **HERE, partition=0, epoch=second.epoch, offset=2)
    third = await take(pool, "c")
    assert (third.next_offset, third.head, third.anchor) == (2, None, None)


async def test_a_stale_owners_batch_is_refused(pool):
    old = await take(pool, "a")
    await take(pool, "b")
    with pytest.raises(StaleOwnerError):
        await move(pool, old.epoch, 0, 3)


async def test_a_batch_is_not_taken_twice(pool):
    owner = await take(pool, "a")
    await move(pool, owner.epoch, 0, 3)
    with pytest.raises(StaleOwnerError):
        await move(pool, owner.epoch, 0, 3)
