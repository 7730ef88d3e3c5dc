"""Kafka connections: one place for the client settings that aiokafka's defaults get wrong for us."""

import asyncio
import functools
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    UnsupportedSaslMechanismError,
    for_code,
)

from runtime.settings import MESSAGE_MAX_BYTES, Settings, SettingsError
from runtime.tls import NO_TLS_THERE, advice, client_context, only_trusting, speaks_tls

NOTIFICATIONS_TOPIC = "registry.notifications"
DEAD_LETTER_TOPIC = "registry.notifications.dead-letter"
QUOTA_EVENTS_TOPIC = "registry.quota-events"
ALERTS_DEAD_LETTER_TOPIC = "registry.quota-events.dead-letter"
"""What `alerts forward` could not deliver; it creates the topic itself."""
ALERTS_STANDING_TOPIC = "registry.quota-events.standing"
"""The levels that stand, as `alerts forward --to alertmanager` has told them; it creates the topic itself."""
_COMPACTED = frozenset({ALERTS_STANDING_TOPIC})
_LOOKING_SECONDS = 3.0
"""What finding out why no connection came about may take."""
TOPICS = (NOTIFICATIONS_TOPIC, DEAD_LETTER_TOPIC, QUOTA_EVENTS_TOPIC)


def _lost_as_such(send: Callable[..., Any]) -> Callable[..., Any]:
    """A way to send of aiokafka's connections that tells of a lost one as aiokafka expects it.

    What is written to a connection that was just lost is an OSError for aiokafka and a RuntimeError
    for uvloop: then a task of aiokafka's ends, and its consumer fetches nothing any more, without a
    word (aiokafka #1038).
    """

    @functools.wraps(send)
    def sending(self: AIOKafkaConnection, *args: Any, **options: Any) -> Any:
        try:
            return send(self, *args, **options)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            where = f"{self.host}:{self.port}"
            raise KafkaConnectionError(f"Connection at {where} broken: {error}") from error

    return sending


@functools.cache
def _tell_lost_connections() -> None:
    """Once in a process, before its first client."""
    for way in ("send", "_send_sasl_token"):
        setattr(AIOKafkaConnection, way, _lost_as_such(getattr(AIOKafkaConnection, way)))


def connection_options(settings: Settings) -> dict[str, Any]:
    """Options that every aiokafka client of ours shares: address, security, client id. SettingsError.

    A connection that is lost is told to whoever takes these as aiokafka expects it, on uvloop, too.
    """
    _tell_lost_connections()
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap,
        "client_id": "registry-quota",
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        password = settings.kafka_sasl_password
        if not settings.kafka_sasl_username or password is None:
            raise SettingsError(
                f"RQ_KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol} needs a user; set "
                "RQ_KAFKA_SASL_USERNAME and RQ_KAFKA_SASL_PASSWORD"
            )
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = password.get_secret_value()
    return options


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    if settings.kafka_ssl_cafile is not None:
        context = only_trusting(settings.kafka_ssl_cafile, "RQ_KAFKA_SSL_CAFILE")
    else:
        context = client_context(settings)
    if settings.kafka_ssl_certfile is not None:
        try:
            context.load_cert_chain(
                settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile, password=""
            )
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"RQ_KAFKA_SSL_CERTFILE={settings.kafka_ssl_certfile} and RQ_KAFKA_SSL_KEYFILE are not "
                f"a certificate and its key ({error}); both are PEM files, the key without a password"
            ) from error
    return context


def cut(client: AIOKafkaClient) -> list[AIOKafkaConnection]:
    """End the connections to brokers without waiting for what they have to send; these were open."""
    connections = list(client._conns.values())  # noqa: SLF001 - aiokafka only closes them in order
    for connection in connections:
        # Of one that aiokafka has closed, too: it waits for a silent broker to read what is left.
        transport = connection._protocol._transport  # noqa: SLF001
        if transport is not None:
            transport.abort()
    return connections


async def start(client: Any, settings: Settings) -> None:
    """Start a client of aiokafka, which does not tell why no connection came about: then this does.

    Raises KafkaError.
    """
    try:
        await client.start()
    except BaseException as error:
        # What did not start is put away here: a client that nobody closed complains when it is forgotten.
        with suppress(Exception):
            async with asyncio.timeout(_LOOKING_SECONDS):
                await (client.stop() if hasattr(client, "stop") else client.close())
        if not isinstance(error, KafkaConnectionError):
            raise
        why = await _why_unreachable(settings)
        if why is None:
            raise
        raise KafkaConnectionError(f"{settings.kafka_bootstrap}: {why}") from error


async def _why_unreachable(settings: Settings) -> str | None:
    """What is wrong with TLS or with who we say we are; None when it is something else."""
    options = connection_options(settings)
    host, _, port = options.pop("bootstrap_servers").split(",")[0].strip().rpartition(":")
    if not host or not port.isdecimal():
        return None
    address = host.strip("[]"), int(port)
    secured = settings.kafka_security_protocol.endswith("SSL")
    try:
        async with asyncio.timeout(_LOOKING_SECONDS):
            connection = await create_conn(*address, **options)
        connection.close()
    except (SaslAuthenticationFailed, UnsupportedSaslMechanismError):
        return (
            "it does not let this user in: check RQ_KAFKA_SASL_MECHANISM, RQ_KAFKA_SASL_USERNAME and "
            "RQ_KAFKA_SASL_PASSWORD"
        )
    except (KafkaError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        if isinstance(error, ConnectionRefusedError):
            return None
        own = settings.kafka_ssl_cafile is not None
        known = advice(error, authority="RQ_KAFKA_SSL_CAFILE" if own else "RQ_CA_FILE")
        if known is not None:
            return known
        if secured and isinstance(error, ConnectionError):
            return (
                f"{NO_TLS_THERE} (RQ_KAFKA_SECURITY_PROTOCOL is {settings.kafka_security_protocol})"
            )
    if not secured and await speaks_tls(*address):
        wanted = settings.kafka_security_protocol.replace("PLAINTEXT", "SSL")
        return f"it speaks TLS there: set RQ_KAFKA_SECURITY_PROTOCOL={wanted}"
    return None


async def create_topics(settings: Settings, topics: Sequence[str] = TOPICS) -> list[str]:
    """Create the topics that are missing; return the names of those created.

    Notifications are kept without limit: the log can rebuild the ledger.
    """
    admin = AIOKafkaAdminClient(**connection_options(settings))
    await start(admin, settings)
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
            **({"cleanup.policy": "compact"} if name in _COMPACTED else {"retention.ms": "-1"}),
            "max.message.bytes": str(MESSAGE_MAX_BYTES),
            "min.insync.replicas": str(settings.kafka_min_insync_replicas),
        },
    )


async def cluster_id(settings: Settings) -> str:
    """The cluster's id: offsets of one cluster mean nothing in another."""
    admin = AIOKafkaAdminClient(**connection_options(settings))
    await start(admin, settings)
    try:
        description: dict[str, Any] = await admin.describe_cluster()
        return str(description["cluster_id"])
    finally:
        await admin.close()
