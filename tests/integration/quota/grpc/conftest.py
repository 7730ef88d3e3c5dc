"""The gRPC door in this process, on a real registry, a real ledger and a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest_asyncio

from idp.build.v1 import build_pb2 as pb
from idp.build.v1.build_pb2_grpc import BuildServiceStub
from quota.grpc.server import serving_grpc
from quota.tokens import Tokens
from quota.wiring import build_service, open_doors
from runtime.lifecycle import Stopping
from runtime.settings import Settings
from runtime.tls import DoorCertificate
from tests.integration.quota.conftest import Service, utc_now

OPERATOR = "operator-token-of-a-test"
INTERNAL = "internal-key-of-a-test"


@dataclass
class Door:
    """The service's client, and everything behind it."""

    target: str
    channel: grpc.aio.Channel
    behind: Service
    tokens: Tokens

    async def token(self, *scopes: str, workspaces: list[str]) -> str:
        _kept, text = await self.tokens.create(
            scopes=scopes, workspaces=workspaces, name="t", ttl=None, created_by="test"
        )
        return text

    async def check(self, workspace: str, estimate: int = 0, **options) -> pb.CheckQuotaResponse:
        request = pb.CheckQuotaRequest(
            workspace_id=workspace, incoming_image_size_estimate=estimate
        )
        answer: pb.CheckQuotaResponse = await self.call("CheckQuotaAndCleanup", request, **options)
        return answer

    async def track(self, *, token=INTERNAL, seconds=20.0, **fields) -> pb.TrackImageResponse:
        given = {"workspace_id": "acme", "app_id": "api", "tag": "v1", "repository": "acme/api"}
        request = pb.TrackImageRequest(**(given | fields))
        answer: pb.TrackImageResponse = await self.call(
            "TrackImage", request, token=token, seconds=seconds
        )
        return answer

    async def call(self, method, request, *, token=INTERNAL, seconds=20.0):
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        return await getattr(BuildServiceStub(self.channel), method)(
            request, metadata=metadata, timeout=seconds
        )


@asynccontextmanager
async def serving_door(
    service: Service, certificate: DoorCertificate | None = None
) -> AsyncIterator[Door]:
    """Serve it on a free port; the door's own channel speaks plain."""
    settings = Settings(api_token=OPERATOR, internal_api_key=INTERNAL)
    tokens = Tokens(service.pool, clock=utc_now)
    stopping = Stopping()

    async def ready() -> str | None:
        return None

    built = build_service(
        settings,
        service.pool,
        doors=open_doors(settings, tokens),
        hook=service.hook,
        recorder=service.recorder,
        client=service.registry,
    )
    async with serving_grpc(
        built,
        host="127.0.0.1",
        port=0,
        ready=ready,
        stopping=stopping,
        certificate=certificate,
    ) as port:
        target = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(target) as channel:
            yield Door(target, channel, service, tokens)
        stopping.set("test ended")


@pytest_asyncio.fixture
async def door(service: Service) -> AsyncIterator[Door]:
    async with serving_door(service) as opened:
        yield opened
