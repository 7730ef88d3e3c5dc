# ruff: noqa: SLF001 - aiokafka has no public way to end a consumer whose `stop` failed, nor its connections
"""Kafka consumers: heard when something beside them fails, and ended whatever state they are in."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from aiokafka import (
    AIOKafkaConsumer,
    ConsumerRebalanceListener,
    ConsumerRecord,
    TopicPartition,
)
from aiokafka.errors import KafkaError

from runtime.kafka import cut
from runtime.lifecycle import end
from runtime.logs import get_logger

log = get_logger(__name__)

LEAVING: Final = 3.0
"""Seconds that leaving the group may take: `AIOKafkaConsumer.stop` waits 40 for a broker that is silent."""


class ClientEndedError(KafkaError):  # type: ignore[misc]
    """A part of Kafka's client has ended by itself: end all of it, and go on with another."""


class GroupMember:
    """A consumer in a group. What goes wrong beside it is raised by `poll`.

    aiokafka only logs it, if at all, when taking partitions over fails or one of its own tasks ends: the
    group would think that somebody reads these partitions, and nobody would.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        *,
        assigned: Callable[[list[TopicPartition]], Awaitable[None]],
        revoked: Callable[[list[TopicPartition]], None],
    ) -> None:
        """`assigned` is done before the first record of these partitions is fetched."""
        self._consumer = consumer
        self._listener = _Listener(assigned, revoked)
        self._lost: ClientEndedError | None = None

    def subscribe(self, topic: str) -> None:
        """Join the group for a topic, with a consumer that was started."""
        for what, task in _own_tasks(self._consumer):
            task.add_done_callback(partial(self._ended, what))
        self._consumer.subscribe([topic], listener=self._listener)

    async def poll(
        self, *, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The next records; none after so many milliseconds without any.

        Raises:
            ClientEndedError: nothing will come any more, or nobody would hear of a rebalance.
            KafkaError, or what `assigned` raised.
        """
        if self._listener.error is not None:
            raise self._listener.error
        if self._lost is not None:
            raise self._lost
        records: dict[TopicPartition, list[ConsumerRecord]] = await self._consumer.getmany(
            timeout_ms=timeout_ms, max_records=max_records
        )
        return records

    def _ended(self, what: str, task: "asyncio.Future[None]") -> None:
        why = "cancelled" if task.cancelled() else repr(task.exception())
        self._lost = ClientEndedError(f"Kafka's client has stopped {what}: {why}")
        if self._consumer._closed:
            return  # it was asked to
        # Also who stands in a rebalance, whose end nobody would tell it any more.
        subscription = self._consumer._subscription
        for waiter in (*subscription._assignment_waiters, *subscription._fetch_waiters):
            if not waiter.done():
                waiter.set_exception(self._lost)
                waiter.exception()  # nobody may wait for it, and asyncio would complain


def _own_tasks(consumer: AIOKafkaConsumer) -> "list[tuple[str, asyncio.Future[None]]]":
    """What a member's client does beside it for as long as it lives, and the tasks that do it."""
    return [
        ("fetching", consumer._fetcher._fetch_task),
        ("following its group", consumer._coordinator._coordination_task),
        ("following the brokers", consumer._client._sync_task),
    ]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(
        self,
        assigned: Callable[[list[TopicPartition]], Awaitable[None]],
        revoked: Callable[[list[TopicPartition]], None],
    ) -> None:
        self._assigned = assigned
        self._revoked = revoked
        self.error: Exception | None = None

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        """From now on somebody else's."""
        self._revoked(list(revoked))

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        """From now on its own."""
        try:
            await self._assigned(list(assigned))
        except Exception as error:  # noqa: BLE001 - raised by the next poll
            self.error = error


async def end_consumer(consumer: AIOKafkaConsumer, *, within: float = LEAVING) -> None:
    """Leave the group and close everything, in about `within` seconds at most; raises nothing of Kafka's.

    `consumer.stop()` raises a CancelledError that nobody asked for where a fetch waits for its next
    attempt, as after a lost connection (aiokafka #647): it looks like the end of whoever called it, and
    leaves tasks and connections behind.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    try:
        await asyncio.wait([stopping], timeout=within)
    finally:
        if not stopping.done():
            await _discard(consumer, stopping, f"Kafka did not answer within {within:g} s")
        elif stopping.cancelled():
            await _discard(consumer, stopping, "Kafka's client was cancelled from within")
        elif error := stopping.exception():
            await _discard(consumer, stopping, repr(error))


async def _discard(
    consumer: AIOKafkaConsumer, stopping: "asyncio.Future[None]", reason: str
) -> None:
    """End what a `stop` that failed has left: its tasks, then its connections."""
    log.info("kafka_client_discarded", reason=reason)
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    tasks: list[asyncio.Future[None] | None] = [stopping]
    if coordinator is not None:
        names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task")
        tasks += [getattr(coordinator, name, None) for name in names]
    if fetcher is not None:
        tasks += [fetcher._fetch_task, *fetcher._pending_tasks]
    left = {task for task in tasks if task is not None}
    await end(left)
    cut(consumer._client)
    await consumer._client.close()
