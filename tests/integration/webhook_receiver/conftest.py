"""Receivers of one's own: in this process on the session's Kafka, or a program on a Kafka of its own."""

import io
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest_asyncio
from pydantic import SecretStr

from runtime.http import ServingOptions, serving
from runtime.kafka import create_topics
from runtime.lifecycle import Stopping
from runtime.settings import Settings
from runtime.tls import DoorCertificate
from tests.support.inbox import Inbox, Record, inbox
from tests.support.waiting import wait_until
from webhook_receiver.wiring import SERVING, create_app

TOKEN = "test-token"
NEXT_TOKEN = "next-token"


@dataclass
class Receiving:
    """A running receiver, and what it put into Kafka."""

    port: int
    source: str
    stopping: Stopping
    http: aiohttp.ClientSession
    inbox: Inbox

    async def post(self, body: bytes, token: str = TOKEN, **headers: str) -> int:
        """Deliver as a registry does, on a new connection; the status."""
        async with self.http.post(
            f"http://127.0.0.1:{self.port}/v1/notifications",
            data=io.BytesIO(body),
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/vnd.docker.distribution.events.v1+json",
                **headers,
            },
        ) as response:
            await response.read()
            return response.status

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of an operations route."""
        async with self.http.get(f"http://127.0.0.1:{self.port}{path}") as response:
            return response.status, await response.text()

    async def records(self) -> list[Record]:
        """What this receiver stored since the last call."""
        return await self.inbox.read(source=self.source)


def settings_for(bootstrap: str, source: str, **changes: Any) -> Settings:
    """Settings of a receiver whose records carry `source`; a second token is there for rotation."""
    tokens = SecretStr(f"{source}={TOKEN},{source}={NEXT_TOKEN}")
    return Settings(kafka_bootstrap=bootstrap, webhook_tokens=tokens, **changes)


StartReceiver = Callable[..., Awaitable[Receiving]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def topics(kafka_bootstrap: str) -> str:
    """The session's Kafka with our topics in it."""
    await create_topics(Settings(kafka_bootstrap=kafka_bootstrap))
    return kafka_bootstrap


@pytest_asyncio.fixture(loop_scope="session")
async def start_receiver(topics: str) -> AsyncIterator[StartReceiver]:
    """Start receivers: settings as keywords, `knobs` for `create_app`, `server` for `serving`."""
    async with AsyncExitStack() as stack:

        async def start(
            knobs: dict[str, Any] | None = None,
            server: ServingOptions | None = None,
            certificate: DoorCertificate | None = None,
            **changes: Any,
        ) -> Receiving:
            source = f"registry-{uuid.uuid4().hex[:12]}"
            stopping = Stopping()
            bootstrap = changes.pop("kafka_bootstrap", topics)
            app = create_app(settings_for(bootstrap, source, **changes), stopping, **(knobs or {}))
            opened = await stack.enter_async_context(inbox(topics))
            port = await stack.enter_async_context(
                serving(
                    app,
                    host="127.0.0.1",
                    port=0,
                    certificate=certificate,
                    **(server or SERVING),
                )
            )
            http = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))
            )
            return Receiving(port, source, stopping, http, opened)

        yield start


@pytest_asyncio.fixture(loop_scope="session")
async def receiver(start_receiver: StartReceiver) -> Receiving:
    """A receiver that is ready."""
    receiving = await start_receiver()

    async def is_ready() -> bool:
        return (await receiving.get("/readyz"))[0] == 200

    await wait_until(is_ready, what="the receiver is ready")
    return receiving
