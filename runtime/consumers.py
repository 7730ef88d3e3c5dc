# ruff: noqa: SLF001 - aiokafka has no public way to end a consumer whose `stop` failed, nor its connections
"""Kafka consumers: heard when something beside them fails, and ended whatever state they are in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiokafka import (
    AIOKafkaConsumer,
    ConsumerRebalanceListener,
    ConsumerRecord,
    TopicPartition,
)

from runtime.lifecycle import end
from runtime.logs import get_logger
from runtime.producers import cut

log = get_logger(__name__)

LEAVING: Final = 3.0
"""Seconds that leaving the group may take: `AIOKafkaConsumer.stop` waits 40 for a broker that is silent."""


class FetchingEndedError(Exception):
    """Kafka's client fetches nothing any more: end it, and go on with another."""


class GroupMember:
    """A consumer in a group. What goes wrong beside it is raised by `poll`.

    aiokafka only logs it when taking partitions over fails or its fetching ends: the group would
    think that somebody reads these partitions, and nobody would.
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

    def subscribe(self, topic: str) -> None:
        """Join the group for a topic."""
        self._consumer.subscribe([topic], listener=self._listener)

    async def poll(
        self, *, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The next records; none after so many milliseconds without any.

        Raises:
            FetchingEndedError: nothing will come any more.
            KafkaError, or what `assigned` raised.
        """
        if self._listener.error is not None:
            raise self._listener.error
        fetching = self._consumer._fetcher.error_future
        if fetching.done():
            why = None if fetching.cancelled() else fetching.exception()
            raise FetchingEndedError(f"Kafka's client has stopped fetching: {why!r}")
        records: dict[TopicPartition, list[ConsumerRecord]] = await self._consumer.getmany(
            timeout_ms=timeout_ms, max_records=max_records
        )
        return records


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
