"""Offsets move with their batch, and only for the partition's present owner."""

import pytest

from ledger.offsets import Advance, StaleOwnerError, advance, take_partition

HERE = {"cluster_id": "c", "topic": "t"}


async def take(pool, owner, first=0):
    async with pool.acquire() as connection:
        return await take_partition(
            connection, **HERE, partition=0, first_offset=first, owner=owner
        )


async def move(pool, epoch, start, end):
    async with pool.acquire() as connection, connection.transaction():
        await advance(connection, **HERE, advances=[Advance(0, epoch, start, end)])


async def test_a_new_owner_begins_where_the_last_batch_ended(pool):
    first = await take(pool, "a", first=5)
    assert first.next_offset == 5
    await move(pool, first.epoch, 5, 9)
    assert (await take(pool, "b")).next_offset == 9


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
