"""What cannot be processed goes to the dead-letter topic, with the reason, and the log moves on."""

from datetime import datetime

from aiokafka import AIOKafkaProducer, ConsumerRecord

from runtime.kafka import DEAD_LETTER_TOPIC

MAX_REASON_BYTES = 2000


def headers(record: ConsumerRecord, reason: str, now: datetime) -> list[tuple[str, bytes]]:
    """Reason, origin and time of a dead letter; what the record carried already stays."""
    received = dict(record.headers or ()).get("received-at")
    return [
        ("reason", reason.encode()[:MAX_REASON_BYTES]),
        ("origin", f"{record.topic}/{record.partition}/{record.offset}".encode()),
        ("first-seen", received or now.isoformat().encode()),
        *((name, value) for name, value in record.headers or () if name == "source"),
    ]


async def send_dead_letter(
    producer: AIOKafkaProducer, record: ConsumerRecord, reason: str, now: datetime
) -> None:
    """Return when the dead letter is durable (acks=all)."""
    await producer.send_and_wait(
        DEAD_LETTER_TOPIC,
        value=record.value,
        key=record.key,
        headers=headers(record, reason, now),
    )
