"""What the forwarder waits for, and how long."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import ConsumerRecord

from alerts import forward
from alerts.forward import Forwarder, Policy
from runtime.lifecycle import Stopping

RECORD = cast(
    "ConsumerRecord[bytes, bytes]",
    SimpleNamespace(topic="registry.quota-events", partition=0, offset=7, key=b"acme", value=b"{"),
)


class Stuck:
    """A producer that never gets a batch away (aiokafka #1101)."""

    async def send_and_wait(self, *_arguments: object, **_options: object) -> None:
        await asyncio.Event().wait()


async def test_a_dead_letter_that_is_not_stored_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would stand there for ever, and nobody would be told anything any more."""
    monkeypatch.setattr(forward, "DURABLE_SECONDS", 0.05)
    nothing = cast("Any", None)
    forwarder = Forwarder(
        consumer=nothing,
        producer=cast("Any", Stuck()),
        render=nothing,
        send=nothing,
        policy=Policy(wanted=lambda _event: True),
        stopping=Stopping(),
        clock=lambda: datetime.now(UTC),
        jitter=lambda: 1.0,
    )
    async with asyncio.timeout(2):
        with pytest.raises(TimeoutError):
            await forwarder._bury(RECORD, "it is none of ours")
