"""Kafka: does it answer, are the topics as they must be, has everything in them been recorded."""

import asyncio
import dataclasses
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from cli.doctor import notifications
from cli.doctor.findings import Finding, failed, ok, warning
from cli.doctor.notifications import Heard
from quota.words import plural
from runtime.consumers import end_consumer
from runtime.errors import text_of
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC, TOPICS, connection_options, start
from runtime.settings import MESSAGE_MAX_BYTES, Settings

_PATIENCE: Final = 15.0
"""Seconds for all of Kafka's answers."""

_READING: Final = 5.0
"""Seconds for reading the newest events."""
_LOOKED_AT: Final = 20
"""How many of a partition's newest events are looked at."""

_CONFIGS: Final = (
    "cleanup.policy",
    "max.message.bytes",
    "min.insync.replicas",
    "retention.bytes",
    "retention.ms",
)


_FOR_EVER: Final = {
    NOTIFICATIONS_TOPIC: "the log cannot rebuild the ledger",
    DEAD_LETTER_TOPIC: "what could not be processed is gone before somebody looks",
}
"""Topics that keep everything, and what is lost when they do not."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the broker describes it."""

    name: str
    partitions: int
    replicas: int
    """Of the partition that has the fewest."""
    leaderless: int
    """Partitions without a leader."""
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Log:
    """What is in `registry.notifications`."""

    ends: Mapping[int, int]
    """Partition → the offset that the next event will have."""
    events: int
    dead_letters: int
    heard: Mapping[str, Heard] = field(default_factory=dict)
    """What the newest events of each registry tell; of those that came in time."""


async def check(settings: Settings) -> tuple[list[Finding], Log | None]:
    """Findings about the broker and each topic, and what the log holds (None: not known)."""
    try:
        async with asyncio.timeout(_PATIENCE):
            brokers, topics = await _describe(settings)
            findings = judge(settings, brokers, topics)
            sizes = {topic.name: topic.partitions for topic in topics}
            log = await _read_log(settings, sizes) if len(topics) == len(TOPICS) else None
    except (KafkaError, OSError, TimeoutError, ValueError) as error:
        found = f"Kafka at {settings.kafka_bootstrap} does not let us in: {text_of(error)}"
        mend = (
            "check RQ_KAFKA_BOOTSTRAP (and RQ_KAFKA_SECURITY_PROTOCOL with its SASL or TLS settings), "
            "that the broker runs, and that its advertised.listeners can be reached from here"
        )
        return [failed("kafka", found, mend)], None
    return findings, log


async def _describe(settings: Settings) -> tuple[int, list[Topic]]:
    """Number of brokers, and those of our topics that exist."""
    admin = AIOKafkaAdminClient(**connection_options(settings))
    await start(admin, settings)
    try:
        brokers = len((await admin.describe_cluster())["brokers"])
        # All topics: asked for by name, a missing one would be created by brokers that do so.
        described = [item for item in await admin.describe_topics() if item["topic"] in TOPICS]
        wanted = [
            ConfigResource(ConfigResourceType.TOPIC, item["topic"], dict.fromkeys(_CONFIGS))
            for item in described
        ]
        configs: dict[str, dict[str, str]] = {}
        for response in await admin.describe_configs(wanted) if wanted else ():
            for _code, _message, _type, name, entries in response.resources:
                configs[name] = {entry[0]: entry[1] for entry in entries}
    finally:
        await admin.close()
    return brokers, [_topic(item, configs.get(item["topic"], {})) for item in described]


def _topic(described: Mapping[str, Any], configs: Mapping[str, str]) -> Topic:
    partitions: Sequence[Mapping[str, Any]] = described["partitions"]
    return Topic(
        name=described["topic"],
        partitions=len(partitions),
        replicas=min((len(item["replicas"]) for item in partitions), default=0),
        leaderless=sum(item["leader"] < 0 for item in partitions),
        configs=configs,
    )


def judge(settings: Settings, brokers: int, topics: Iterable[Topic]) -> list[Finding]:
    """Findings about the broker and its topics."""
    noun = "broker" if brokers == 1 else "brokers"
    findings = [ok("kafka", f"answers at {settings.kafka_bootstrap} ({brokers} {noun})")]
    there = {topic.name: topic for topic in topics}
    for name in TOPICS:
        topic = there.get(name)
        if topic is None:
            mend = (
                "run `registry-quota migrate`, which creates it; where Kafka has ACLs, let this user "
                "read it"
            )
            findings.append(failed("topic", f"{name} does not exist", mend))
            continue
        wrong = _wrong(topic, settings, brokers)
        if wrong:
            findings += wrong
        else:
            copies = f"replication {topic.replicas}" if brokers > 1 else "one copy"
            findings.append(
                ok("topic", f"{name}: {plural(topic.partitions, 'partition')}, {copies}")
            )
    return findings


def _wrong(topic: Topic, settings: Settings, brokers: int) -> list[Finding]:
    findings: list[Finding] = []
    configs = topic.configs

    def alter(name: str, value: object) -> str:
        return f"kafka-configs.sh --alter --topic {topic.name} --add-config {name}={value}"

    if topic.leaderless:
        found = f"{topic.name}: {topic.leaderless} of {topic.partitions} partitions have no leader"
        findings.append(failed("topic", found, "see which brokers are down"))
    if topic.partitions < settings.kafka_partitions:
        wanted = settings.kafka_partitions
        found = f"{topic.name} has {plural(topic.partitions, 'partition')}, {wanted} are wanted"
        mend = (
            f"kafka-topics.sh --alter --topic {topic.name} --partitions {wanted}; "
            "more consumers than partitions do not help"
        )
        findings.append(warning("topic", found, mend))
    if (size := int(configs.get("max.message.bytes", MESSAGE_MAX_BYTES))) < MESSAGE_MAX_BYTES:
        found = f"{topic.name} takes messages of {size} bytes, {MESSAGE_MAX_BYTES} are needed"
        mend = alter("max.message.bytes", MESSAGE_MAX_BYTES)
        findings.append(failed("topic", f"{found}: large events are cut to dead letters", mend))
    if "compact" in configs.get("cleanup.policy", "delete"):
        found = f"{topic.name} is compacted: only the last event of a workspace stays"
        findings.append(failed("topic", found, alter("cleanup.policy", "delete")))
    limited = [
        f"{name}={value}"
        for name in ("retention.ms", "retention.bytes")
        if (value := configs.get(name, "-1")) != "-1"
    ]
    if topic.name in _FOR_EVER and limited:
        found = f"{topic.name} forgets ({', '.join(limited)}): {_FOR_EVER[topic.name]}"
        findings.append(warning("topic", found, alter("retention.ms", "-1,retention.bytes=-1")))
    if brokers > 1 and topic.replicas == 1:
        found = f"{topic.name} has one copy although there are {brokers} brokers"
        mend = "reassign it to 3 replicas with min.insync.replicas=2 (and set RQ_KAFKA_REPLICATION)"
        findings.append(warning("topic", found, mend))
    in_sync = int(configs.get("min.insync.replicas", "1"))
    if topic.replicas > 2 and in_sync < 2:
        found = f"{topic.name} acknowledges what one of {topic.replicas} brokers has: losing it loses events"
        findings.append(warning("topic", found, alter("min.insync.replicas", 2)))
    if in_sync > topic.replicas:
        found = f"{topic.name} wants {in_sync} replicas in sync and has {topic.replicas}"
        mend = alter("min.insync.replicas", topic.replicas)
        findings.append(failed("topic", f"{found}: nothing can be written", mend))
    return findings


async def _read_log(settings: Settings, sizes: Mapping[str, int]) -> Log:
    """Ends of the partitions, and what the newest events look like. `sizes`: topic → partitions."""
    consumer = AIOKafkaConsumer(**connection_options(settings), enable_auto_commit=False)
    await consumer.start()
    try:
        ours = [TopicPartition(NOTIFICATIONS_TOPIC, n) for n in range(sizes[NOTIFICATIONS_TOPIC])]
        dead = [TopicPartition(DEAD_LETTER_TOPIC, n) for n in range(sizes[DEAD_LETTER_TOPIC])]
        consumer.assign([*ours, *dead])
        starts = await consumer.beginning_offsets([*ours, *dead])
        ends = await consumer.end_offsets([*ours, *dead])
        log = Log(
            ends={item.partition: ends[item] for item in ours},
            events=sum(ends[item] - starts[item] for item in ours),
            dead_letters=sum(ends[item] - starts[item] for item in dead),
        )
        newest = {
            item: (max(starts[item], ends[item] - _LOOKED_AT), ends[item])
            for item in ours
            if ends[item] > starts[item]
        }
        told = notifications.heard(await _read(consumer, newest), now=time.time())
        return dataclasses.replace(log, heard=told)
    finally:
        await end_consumer(consumer)


async def _read(
    consumer: AIOKafkaConsumer, ranges: Mapping[TopicPartition, tuple[int, int]]
) -> list[ConsumerRecord]:
    """The records of each partition from the first offset up to the second, those that come in time."""
    if not ranges:
        return []
    consumer.assign(list(ranges))
    for partition, (first, _end) in ranges.items():
        consumer.seek(partition, first)
    waiting, found = set(ranges), []
    until = time.monotonic() + _READING
    while waiting and time.monotonic() < until:
        for partition, records in (await consumer.getmany(timeout_ms=500)).items():
            found += records
            if records[-1].offset + 1 >= ranges[partition][1]:
                waiting.discard(partition)
    return found


def arriving(
    log: Log, open_dead_letters: int | None = None, *, registries: Collection[str] = ()
) -> list[Finding]:
    """Whether the registries notify us, and whether what they said was understood.

    `open_dead_letters`: those that nobody has dealt with; None: not known, all count. `registries`:
    names that RQ_WEBHOOK_TOKENS has.
    """
    findings = notifications.judge(log.events, log.heard, registries)
    dead = log.dead_letters if open_dead_letters is None else open_dead_letters
    if dead:
        mend = (
            "`registry-quota dead-letters list` says why; then `retry` those that can be read now "
            "and `drop` the others"
        )
        findings.append(warning("dead letters", f"{dead} could not be processed", mend))
    else:
        findings.append(ok("dead letters", "none that nobody has dealt with"))
    return findings
