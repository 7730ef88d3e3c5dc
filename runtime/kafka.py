"""Kafka connections: one place for the client settings that aiokafka's defaults get wrong for us."""

import ssl
from collections.abc import Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code
from aiokafka.helpers import create_ssl_context

from runtime.settings import MESSAGE_MAX_BYTES, Settings

NOTIFICATIONS_TOPIC = "registry.notifications"
DEAD_LETTER_TOPIC = "registry.notifications.dead-letter"
QUOTA_EVENTS_TOPIC = "registry.quota-events"
ALERTS_DEAD_LETTER_TOPIC = "registry.quota-events.dead-letter"
"""What `alerts forward` could not deliver; it creates the topic itself."""
TOPICS = (NOTIFICATIONS_TOPIC, DEAD_LETTER_TOPIC, QUOTA_EVENTS_TOPIC)


def connection_options(settings: Settings) -> dict[str, Any]:
    """Options that every aiokafka client of ours shares: address, security, client id."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap,
        "client_id": "registry-quota",
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        password = settings.kafka_sasl_password
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = password.get_secret_value() if password else None
    return options


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    context: ssl.SSLContext = create_ssl_context(
        cafile=settings.kafka_ssl_cafile,
        certfile=settings.kafka_ssl_certfile,
        keyfile=settings.kafka_ssl_keyfile,
    )
    return context


async def create_topics(settings: Settings, topics: Sequence[str] = TOPICS) -> list[str]:
    """Create the topics that are missing; return the names of those created.

    Notifications are kept without limit: the log can rebuild the ledger.
    """
    admin = AIOKafkaAdminClient(**connection_options(settings))
    await admin.start()
    try:
        present = set(await admin.list_topics())
        missing = [name for name in topics if name not in present]
        if not missing:
            return []
        response = await admin.create_topics([_new_topic(name, settings) for name in missing])
        for topic, code, *message in response.topic_errors:
            error = for_code(code)
            if code != 0 and error is not TopicAlreadyExistsError:
                raise error(
                    f"topic {topic} could not be created: {message[0] if message else error.__name__}"
                )
        return missing
    finally:
        await admin.close()


def _new_topic(name: str, settings: Settings) -> NewTopic:
    return NewTopic(
        name=name,
        num_partitions=settings.kafka_partitions,
        replication_factor=settings.kafka_replication,
        topic_configs={
            "retention.ms": "-1",
            "max.message.bytes": str(MESSAGE_MAX_BYTES),
            "min.insync.replicas": str(settings.kafka_min_insync_replicas),
        },
    )


async def cluster_id(settings: Settings) -> str:
    """The cluster's id: offsets of one cluster mean nothing in another."""
    admin = AIOKafkaAdminClient(**connection_options(settings))
    await admin.start()
    try:
        description: dict[str, Any] = await admin.describe_cluster()
        return str(description["cluster_id"])
    finally:
        await admin.close()
