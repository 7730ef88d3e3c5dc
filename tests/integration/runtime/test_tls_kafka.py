"""Kafka by TLS, with and without users and their rights: every client of ours, and what is told who is refused."""

import asyncio
import contextlib
import json
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from cli.doctor import kafka as doctor_kafka
from consumer.standing import positions
from devstack.config import default_cache_dir
from quota.metrics import QuotaMetrics
from quota.pipeline import Pipeline
from quota.relay import Relay
from runtime.kafka import (
    ALERTS_DEAD_LETTER_TOPIC,
    ALERTS_STANDING_TOPIC,
    NOTIFICATIONS_TOPIC,
    TOPICS,
    cluster_id,
    connection_options,
    create_topics,
)
from runtime.lifecycle import Stopping, background
from runtime.postgres import Pool
from runtime.producers import discard_producer, open_producer
from runtime.settings import Settings
from runtime.topics import topic_reader
from tests.support.acls import allow, rights
from tests.support.certificates import Authority
from tests.support.consumers import consuming, event, publish, usage
from tests.support.pages import block
from tests.support.secure_kafka import PASSWORD, RESTRICTED, USER, SecureKafka, secure_kafka
from tests.support.waiting import wait_until
from webhook_receiver.handlers import PATH
from webhook_receiver.wiring import create_app

ALERTS_TOPICS = (ALERTS_DEAD_LETTER_TOPIC, ALERTS_STANDING_TOPIC)


@dataclass
class Secured:
    kafka: SecureKafka
    authority: Authority
    stranger: Authority

    def settings(self, bootstrap: str, protocol: str = "SSL", **changes: Any) -> Settings:
        given: dict[str, Any] = {"ca_file": str(self.authority.file), **changes}
        return Settings(
            kafka_bootstrap=bootstrap,
            kafka_security_protocol=protocol,
            kafka_partitions=1,
            **given,
        )

    def as_user(
        self, mechanism: str, password: str = PASSWORD, *, name: str = USER, **changes: Any
    ) -> Settings:
        return self.settings(
            self.kafka.sasl,
            "SASL_SSL",
            kafka_sasl_mechanism=mechanism,
            kafka_sasl_username=name,
            kafka_sasl_password=password,
            **changes,
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


async def let_in(settings: Settings) -> set[tuple[str, str]]:
    """(operation, topic) of all that a user may read or write; what it does not see it may neither."""
    found: set[tuple[str, str]] = set()
    # Not idempotent: without any right to write that one waits for its id.
    producer = AIOKafkaProducer(**connection_options(settings), acks="all")
    consumer = AIOKafkaConsumer(**connection_options(settings), enable_auto_commit=False)
    try:
        await producer.start()
        await consumer.start()
        for topic in (await consumer._client.fetch_all_metadata()).topics():
            partition = TopicPartition(topic, 0)
            with contextlib.suppress(KafkaError):
                await producer.send_and_wait(topic, b"{}", key=b"acme")
                found.add(("Write", topic))
            with contextlib.suppress(KafkaError):
                consumer.assign([partition])
                consumer.seek(partition, 0)
                if await consumer.getmany(partition, timeout_ms=10_000):
                    found.add(("Read", topic))
    finally:
        await consumer.stop()
        await producer.stop()
    return found


async def test_the_rights_of_the_page_are_enough_and_no_more(
    secured: Secured, pool: Pool, database_url: str
) -> None:
    """docs/security.md: each process does its work with them, and every other attempt is refused."""
    allowed = set(rights(block("docs/security.md", "acls")))
    await allow(secured.settings(secured.kafka.ssl), allowed)
    users = {name: secured.as_user("PLAIN", name=name) for name in RESTRICTED}

    await create_topics(users["rq_migrate"])
    assert await create_topics(users["rq_migrate"]) == []
    assert len(await create_topics(users["rq_alerts"], ALERTS_TOPICS)) == len(ALERTS_TOPICS)

    # The receiver: an event, and what is none.
    workspace = f"acl{uuid.uuid4().hex[:8]}"
    app = create_app(
        secured.as_user("PLAIN", name="rq_receiver", webhook_tokens="token-of-a-test"), Stopping()
    )
    async with TestClient(TestServer(app)) as door:
        told = event(f"{workspace}/api")
        for body in (json.dumps({"events": [told]}), "no JSON"):
            answer = await door.post(
                PATH, data=body, headers={"Authorization": "Bearer token-of-a-test"}
            )
            assert answer.status == 202, await answer.text()
        assert (await door.get("/readyz")).status == 200

    # With the rights of another the receiver takes nothing, and says what is missing.
    app = create_app(
        secured.as_user("PLAIN", name="rq_alerts", webhook_tokens="token-of-a-test"), Stopping()
    )
    async with TestClient(TestServer(app)) as door:

        async def told_what_is_missing() -> bool:
            answer = await door.get("/readyz")
            assert answer.status == 503
            return "this user needs the right to write there" in await answer.text()

        await wait_until(told_what_is_missing, 20, what="the receiver says what it lacks")

    # Consumer and API: counted, put aside, announced, and how far it is.
    await publish(secured.settings(secured.kafka.ssl), "x", b"no event")
    pipeline = Pipeline(users["rq_api"], pool, clock=lambda: datetime.now(UTC))
    cluster = await cluster_id(users["rq_consumer"])
    async with consuming(users["rq_consumer"], pool, cluster=cluster):

        async def known() -> bool:
            flow = await pipeline.flow()
            return (flow.consumers, flow.lag_events) == (1, 0) and (flow.dead_letters or 0) >= 2

        await wait_until(known, 30, what="the API sees what the consumer has done")
    await pipeline.close()
    assert await usage(pool, workspace) == 5100
    looking = secured.as_user("PLAIN", name="rq_consumer", database_url=database_url)
    assert await positions(looking, cluster) == {}
    async with pool.acquire() as connection:
        announced = await connection.fetchval("SELECT count(*) FROM outbox")
    stopping = Stopping()
    relay = Relay(
        connect=lambda: asyncpg.connect(database_url),
        open_producer=lambda: open_producer(users["rq_api"]),
        stopping=stopping,
        clock=lambda: datetime.now(UTC),
        metrics=QuotaMetrics(),
    )
    async with background("relay", relay.run(), stopping):

        async def published() -> bool:
            left = "SELECT count(*) FROM outbox WHERE published_at IS NULL"
            return bool(announced > 0 and await pool.fetchval(left) == 0)

        await wait_until(published, 20, what="the relay has published all")
        stopping.set("end of test")

    # People.
    findings, log = await doctor_kafka.check(users["rq_operator"])
    assert [item for item in findings if item.state == "failed"] == []
    assert log is not None

    # And nothing else, for every user.
    everything = await let_in(secured.settings(secured.kafka.ssl))
    assert everything >= {
        (operation, topic) for operation in ("Read", "Write") for topic in (*TOPICS, *ALERTS_TOPICS)
    }
    found = dict(zip(users, await asyncio.gather(*map(let_in, users.values())), strict=True))
    assert found == {
        name: {
            (operation, topic)
            for user, operation, kind, topic in allowed
            if (user, kind) == (name, "topic") and operation in ("Read", "Write")
        }
        for name in RESTRICTED
    }
