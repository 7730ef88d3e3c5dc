"""Kafka by TLS, with and without users: every client of ours, and what those are told who are refused."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiokafka.errors import KafkaError

from devstack.config import default_cache_dir
from runtime.kafka import NOTIFICATIONS_TOPIC, TOPICS, cluster_id, create_topics
from runtime.producers import discard_producer, open_producer
from runtime.settings import Settings
from runtime.topics import topic_reader
from tests.support.certificates import Authority
from tests.support.secure_kafka import PASSWORD, USER, SecureKafka, secure_kafka


@dataclass
class Secured:
    kafka: SecureKafka
    authority: Authority
    stranger: Authority

    def settings(self, bootstrap: str, protocol: str = "SSL", **changes: str) -> Settings:
        given: dict[str, Any] = {"ca_file": str(self.authority.file), **changes}
        return Settings(
            kafka_bootstrap=bootstrap,
            kafka_security_protocol=protocol,
            kafka_partitions=1,
            **given,
        )

    def as_user(self, mechanism: str, password: str = PASSWORD) -> Settings:
        return self.settings(
            self.kafka.sasl,
            "SASL_SSL",
            kafka_sasl_mechanism=mechanism,
            kafka_sasl_username=USER,
            kafka_sasl_password=password,
        )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    folder: Path = tmp_path_factory.mktemp("kafka")
    authority, stranger = Authority(folder / "ours"), Authority(folder / "another")
    pair, misnamed = authority.issue(), authority.issue("kafka.example.com")
    cache = default_cache_dir(os.environ)
    async with secure_kafka(folder / "data", cache, pair, misnamed) as kafka:
        yield Secured(kafka, authority, stranger)


async def round_trip(settings: Settings) -> None:
    """Topics, an event in, the event out."""
    await create_topics(settings)
    producer = await open_producer(settings)
    try:
        stored = await producer.send_and_wait(NOTIFICATIONS_TOPIC, b"value", key=b"acme")
    finally:
        await discard_producer(producer)
    async with topic_reader(settings) as reader:
        extents = await reader.extents(NOTIFICATIONS_TOPIC)
        records = [record async for record in reader.read(NOTIFICATIONS_TOPIC, extents)]
    assert records[-1].offset == stored.offset


async def test_topics_producer_and_reader_work_by_tls(secured):
    await round_trip(secured.settings(secured.kafka.ssl))
    own = secured.settings(
        secured.kafka.ssl, ca_file="", kafka_ssl_cafile=str(secured.authority.file)
    )
    assert await create_topics(own, TOPICS) == []


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_a_user_gets_in_by_password(secured, mechanism):
    await round_trip(secured.as_user(mechanism))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_a_wrong_password_is_refused_and_said(secured, mechanism):
    with pytest.raises(KafkaError, match="RQ_KAFKA_SASL_PASSWORD"):
        await cluster_id(secured.as_user(mechanism, "wrong"))


async def test_those_who_do_not_get_in_are_told_what_to_do(secured):
    kafka, stranger = secured.kafka, str(secured.stranger.file)
    for settings, told in (
        (secured.settings(kafka.ssl, ca_file=stranger), "set RQ_CA_FILE"),
        (secured.settings(kafka.ssl, kafka_ssl_cafile=stranger), "RQ_KAFKA_SSL_CAFILE"),
        (secured.settings(kafka.misnamed), "for another name"),
        (secured.settings(kafka.ssl, "PLAINTEXT"), "set RQ_KAFKA_SECURITY_PROTOCOL=SSL"),
        (secured.settings(kafka.plain), "does not speak TLS there"),
    ):
        with pytest.raises(KafkaError, match=told):
            await cluster_id(settings)
        with pytest.raises(KafkaError, match=told):
            await open_producer(settings)
