"""Consumer groups, seen from outside."""

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment


class Group(msgspec.Struct, frozen=True):
    """A group as its coordinator describes it."""

    stable: bool
    """Whether everybody has their share; not in the middle of a rebalance."""
    members: int
    owned: frozenset[TopicPartition]
    """What any member has."""


async def describe(admin: AIOKafkaAdminClient, name: str) -> Group | None:
    """How a group stands; None where its coordinator does not tell. Raises KafkaError."""
    [answer] = await admin.describe_consumer_groups([name])
    [group] = answer.groups
    # error_code, group, state, protocol_type, protocol, members, ...
    error, _name, state, _type, _protocol, members = group[:6]
    if error:
        return None
    owned = {
        partition
        for *_who, assigned in members
        if assigned
        for partition in ConsumerProtocolMemberAssignment.decode(bytes(assigned)).partitions()
    }
    return Group(state == "Stable", len(members), frozenset(owned))


async def committed(admin: AIOKafkaAdminClient, name: str, topic: str) -> dict[int, int]:
    """Partition → the offset where a group says it goes on. Raises KafkaError."""
    told = await admin.list_consumer_group_offsets(name)
    return {
        where.partition: at.offset
        for where, at in told.items()
        if where.topic == topic and at.offset >= 0
    }
