"""Do the registry's notifications arrive: what the newest ones tell, and a pull of our own that must."""

import asyncio
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from cli.doctor.findings import Finding, age, failed, ok, skipped, warning
from registry.client import USER_AGENT, RegistryClient
from registry.connect import registry_client
from registry.errors import BadRegistryUrl, NotFound, RegistryError
from registry.media_types import manifest_kind
from registry.notifications import BadEvent, decode_event
from runtime.consumers import end_consumer
from runtime.errors import text_of
from runtime.kafka import NOTIFICATIONS_TOPIC, connection_options, start
from runtime.settings import DEFAULT_REGISTRY, MESSAGE_MAX_BYTES, Settings, SettingsError

_ARRIVES_WITHIN: Final = 5.0
"""Seconds for a notification to come; a healthy registry needs milliseconds."""
_PROBE_PATIENCE: Final = 15.0
_LOOKED_AT: Final = 20
"""How many of a registry's newest pushes are looked at."""
_BLOCK: Final = (
    "put the block below into the registry's configuration, restart it and push an image"
)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the newest events of one registry tell."""

    age: float
    """Seconds since the newest arrived."""
    pushes: int = 0
    """Pushes of manifests among them."""
    without_references: int = 0
    """So many of those in a row, the newest first, came without references."""


def heard(newest: Sequence[ConsumerRecord], *, now: float) -> dict[str, Heard]:
    """Registry (as its token names it) → what its newest records tell. `now`: seconds. PURE."""
    found: dict[str, Heard] = {}
    for record in sorted(newest, key=lambda item: item.timestamp, reverse=True):
        source = _source(record)
        known = found.setdefault(source, Heard(now - record.timestamp / 1000))
        try:
            event = decode_event(record.value or b"")
        except BadEvent:
            continue
        if event.action != "push" or manifest_kind(event.media_type) == "unknown":
            continue
        if known.pushes < _LOOKED_AT:
            in_a_row = known.without_references == known.pushes and not event.references
            found[source] = Heard(
                known.age, known.pushes + 1, known.without_references + bool(in_a_row)
            )
    return found


def _source(record: ConsumerRecord) -> str:
    headers = dict(record.headers or ())
    return bytes(headers.get("source", b"")).decode(errors="replace") or DEFAULT_REGISTRY


def judge(events: int, told: Mapping[str, Heard], registries: Collection[str]) -> list[Finding]:
    """Whether every registry notifies us, and with references. `registries`: those that we know. PURE."""
    if events == 0:
        mend = f"{_BLOCK}; its log says why when it cannot deliver"
        return [warning("notifications", "none has ever arrived", mend)]
    named = len({*registries, *told}) > 1
    newest = ", ".join(
        f"the newest{f' of {name}' if named else ''} {age(item.age)} ago"
        for name, item in sorted(told.items())
    )
    findings = [ok("notifications", f"{events} arrived{f', {newest}' if newest else ''}")]
    findings += [
        warning(
            "notifications",
            f"none of the newest came from the registry {name}",
            f"{_BLOCK}, with the token that RQ_WEBHOOK_TOKENS has for {name}",
        )
        for name in sorted(set(registries) - told.keys())
        if told
    ]
    return [*findings, *_references(told, named=named)]


def _references(told: Mapping[str, Heard], *, named: bool) -> list[Finding]:
    lacking = [(name, item) for name, item in sorted(told.items()) if item.without_references]
    if not lacking and any(item.pushes for item in told.values()):
        return [ok("references", "pushes carry them")]
    return [
        warning(
            "references",
            f"the newest {item.without_references} manifest pushes"
            f"{f' of {name}' if named else ''} came without them: "
            "each costs a request to the registry, and its size is known later",
            "set `notifications.events.includereferences: true` in the registry's configuration",
        )
        for name, item in lacking
    ]


async def probe(settings: Settings, partitions: Collection[int], *, ever: bool) -> Finding:
    """Pull a manifest's head and see its notification arrive in one of these partitions.

    `ever`: some notification has arrived before.

    The pull carries our own user agent: it counts for nothing.
    """
    check = "delivery"
    agent = f"{USER_AGENT} doctor/{secrets.token_hex(8)}"
    try:
        async with (
            asyncio.timeout(_PROBE_PATIENCE),
            registry_client(settings, user_agent=agent) as client,
        ):
            image = await _some_image(client)
            if image is None:
                return skipped(check, "the registry holds no image yet whose pull it could tell")
            took = await _pulled(settings, client, image, agent, partitions)
    except (
        RegistryError,
        BadRegistryUrl,
        SettingsError,
        KafkaError,
        OSError,
        TimeoutError,
    ) as error:
        return skipped(check, f"could not be found out: {text_of(error)}")
    name = ":".join(image)
    if took is not None:
        return ok(check, f"a pull of {name} was told and stored within {took * 1000:.0f} ms")
    mend = (
        "compare the registry's `notifications` with the block below (address as the registry "
        "reaches it, token, nothing ignored), restart it, and see its log for what it cannot deliver"
    )
    found = f"a pull of {name} was told to nobody within {_ARRIVES_WITHIN:g} s"
    # A registry that is told to ignore pulls still tells of pushes.
    return (warning if ever else failed)(check, found, mend)


async def _some_image(client: RegistryClient) -> tuple[str, str] | None:
    async for repository in client.catalog():
        try:
            async for tag in client.list_tags(repository):
                return repository, tag
        except NotFound:
            continue  # an emptied repository stays in the catalog
    return None


async def _pulled(
    settings: Settings,
    client: RegistryClient,
    image: tuple[str, str],
    agent: str,
    numbers: Collection[int],
) -> float | None:
    """Seconds from the pull to its notification in Kafka; None when none came."""
    consumer = AIOKafkaConsumer(
        **connection_options(settings),
        enable_auto_commit=False,
        max_partition_fetch_bytes=MESSAGE_MAX_BYTES,
    )
    await start(consumer, settings)
    try:
        partitions = [TopicPartition(NOTIFICATIONS_TOPIC, number) for number in numbers]
        consumer.assign(partitions)
        for partition, end in (await consumer.end_offsets(partitions)).items():
            consumer.seek(partition, end)
        began = time.monotonic()
        await client.head_manifest(*image)
        while time.monotonic() - began < _ARRIVES_WITHIN:
            for records in (await consumer.getmany(timeout_ms=250)).values():
                if any(agent.encode() in (record.value or b"") for record in records):
                    return time.monotonic() - began
    finally:
        await end_consumer(consumer)
    return None
