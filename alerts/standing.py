"""Levels that stand: Alertmanager drops an alert that nobody repeats, so they are repeated while they do.

What stands is kept in a compacted topic, under group and workspace: a restart, or another process of
the group, knows it without reading all events again.
"""

import asyncio
from collections.abc import Mapping

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import UnknownTopicOrPartitionError

from alerts.render import BadEventError, Event, is_level, read_event, stands
from runtime.kafka import ALERTS_STANDING_TOPIC, QUOTA_EVENTS_TOPIC
from runtime.logs import get_logger
from runtime.producers import DURABLE_SECONDS
from runtime.settings import Settings
from runtime.topics import Extent, topic_reader

log = get_logger(__name__)


class _Key(msgspec.Struct, array_like=True, frozen=True):
    group: str
    workspace: str
    """Empty: a mark that levels from before there was this topic have been read."""


class Standing:
    """The level events whose level is not `ok`, the newest of each workspace, for one group."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, *, group: str) -> None:
        self._settings = settings
        self._producer = producer
        self._group = group

    async def note(self, event: Event, raw: bytes | None) -> None:
        """Remember, before its offset moves, what an event that was delivered says of a level."""
        if is_level(event):
            await self._put(event.subject, raw if stands(event) else None)

    async def events(self) -> list[Event]:
        """What stands now, by workspace; the newest that any process of the group has delivered."""
        kept, _begun = await self._kept()
        return [kept[name] for name in sorted(kept)]

    async def begin(self, done: Mapping[int, int]) -> None:
        """Learn what stood before there was this topic, once: from what the events' topic still has.

        `done`: partition → the group's position; what comes behind it is delivered anyway.
        """
        kept, begun = await self._kept()
        if begun:
            return
        latest: dict[str, tuple[Event, bytes]] = {}
        async with topic_reader(self._settings) as reader:
            extents = await reader.extents(QUOTA_EVENTS_TOPIC)
            wanted = {
                number: Extent(extent.first, min(done.get(number, extent.first), extent.end))
                for number, extent in extents.items()
            }
            async for record in reader.read(QUOTA_EVENTS_TOPIC, wanted):
                try:
                    event = read_event(record.value)
                except BadEventError:
                    continue
                if is_level(event):
                    latest[event.subject] = (event, record.value)
        for name, (event, raw) in latest.items():
            if name not in kept and stands(event):
                await self._put(name, raw)
        await self._put("", b"{}")
        log.info("standing_levels_learned", workspaces=sum(stands(e) for e, _ in latest.values()))

    async def _put(self, workspace: str, raw: bytes | None) -> None:
        key = msgspec.json.encode(_Key(self._group, workspace))
        async with asyncio.timeout(DURABLE_SECONDS):
            await self._producer.send_and_wait(ALERTS_STANDING_TOPIC, key=key, value=raw)

    async def _kept(self) -> tuple[dict[str, Event], bool]:
        """(workspace → the event that stands, whether it has begun)"""
        kept: dict[str, Event] = {}
        begun = False
        async with topic_reader(self._settings) as reader:
            try:
                extents = await reader.extents(ALERTS_STANDING_TOPIC)
            except UnknownTopicOrPartitionError:
                return {}, False
            async for record in reader.read(ALERTS_STANDING_TOPIC, extents):
                try:
                    key = msgspec.json.decode(record.key or b"", type=_Key)
                    event = read_event(record.value) if record.value and key.workspace else None
                except (msgspec.DecodeError, BadEventError):
                    continue  # whoever may write to the topic may write anything
                if key.group != self._group:
                    continue
                begun = begun or not key.workspace
                if event is None:
                    kept.pop(key.workspace, None)
                else:
                    kept[key.workspace] = event
        return kept, begun
