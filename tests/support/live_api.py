"""The API's own handlers on a real database, served over a real socket of this process."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import aiohttp
from pydantic import TypeAdapter

from ledger.record import Recorder
from quota.accounts import Accounts
from quota.api.gate import Gate
from quota.api.models import Problem
from quota.api.openapi import endpoints, problem_statuses
from quota.api.server import create_app
from quota.cleanup import Cleaner
from quota.garbage import GarbageCollection
from quota.hook import PreBuildHook
from quota.levels import level
from quota.metrics import QuotaMetrics
from quota.pipeline import Pipeline
from quota.tokens import Tokens
from quota.wiring import open_doors, route_groups
from registry.client import RegistryClient
from registry.transport import Retries
from runtime.http import serving
from runtime.lifecycle import Stopping
from runtime.postgres import Pool
from runtime.settings import Settings
from runtime.tls import DoorCertificate
from tests.support import ledgers

OPERATOR = "operator-token-of-a-test"
OPERATOR_NEXT = "operator-token-that-replaces-it"
INTERNAL = "internal-key-of-a-test"


class Clock:
    """The time, which a test may move on."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class LiveApi:
    """What a caller and a test need."""

    base: str
    session: aiohttp.ClientSession
    pool: Pool
    recorder: Recorder
    tokens: Tokens
    clock: Clock
    app: Any

    async def raw(
        self, method: str, path: str, *, token: str | None = OPERATOR, **options: Any
    ) -> tuple[int, aiohttp.ClientResponse, bytes]:
        """Status, answer and its body, whatever it is."""
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers.setdefault("Authorization", f"Bearer {token}")
        async with self.session.request(
            method, f"{self.base}{path}", headers=headers, **options
        ) as response:
            raw = await response.read()
            self._as_described(method, response, raw)
            return response.status, response, raw

    def _as_described(self, method: str, response: aiohttp.ClientResponse, raw: bytes) -> None:
        """Every answer that a test gets fits, field by field, what its handler says of itself."""
        path = response.url.raw_path
        for endpoint in endpoints(self.app):
            pattern = re.sub(r"{(\w+)}", r"(?P<\1>.+)", endpoint.path)
            if "{repository}" not in endpoint.path:
                pattern = pattern.replace(".+", "[^/]+")
            if endpoint.method != method or not re.fullmatch(pattern, path):
                continue
            described = endpoint.description
            assert described is not None
            if response.status in described.answers:
                model = described.answers[response.status]
                if model is None:
                    assert raw == b""
                elif model not in {str, dict}:
                    TypeAdapter(model).validate_json(raw)
                return
            assert response.status in problem_statuses(endpoint.path, described), (path, raw)
            assert response.content_type == "application/problem+json"
            Problem.model_validate_json(raw)
            return

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = OPERATOR
    ) -> tuple[int, Any]:
        """Status and JSON."""
        options = {} if body is None else {"json": body}
        status, _response, raw = await self.raw(method, path, token=token, **options)
        return status, json.loads(raw) if raw else None

    async def token(self, *scopes: str, workspaces: list[str] | None, **more: Any) -> str:
        """A new token's text."""
        status, answer = await self.call(
            "POST", "/v1/tokens", {"scopes": list(scopes), "workspaces": workspaces, **more}
        )
        assert status == 201, answer
        return str(answer["token"])


@asynccontextmanager
async def live_api(
    pool: Pool,
    registry_url: str = "http://127.0.0.1:9",
    *,
    operator: str = f"{OPERATOR},{OPERATOR_NEXT}",
    certificate: DoorCertificate | None = None,
    gate: Gate | None = None,
    **settings: Any,
) -> AsyncIterator[LiveApi]:
    """Serve it on a free port. Without a registry every request to one is refused."""
    known = Settings(api_token=operator, internal_api_key=INTERNAL, **settings)
    async with AsyncExitStack() as stack:
        clock, metrics, stopping = Clock(), QuotaMetrics(), Stopping()
        client = await stack.enter_async_context(
            RegistryClient(registry_url, retries=Retries(attempts=1))
        )
        recorder = ledgers.recorder(pool)
        cleaner = Cleaner(
            pool=pool,
            recorder=recorder,
            client=client,
            clock=clock,
            owner="test",
            metrics=metrics,
        )
        quota = known.default_quota_bytes
        tokens = Tokens(pool, clock=clock)
        pipeline = Pipeline(known, pool, clock=clock)
        stack.push_async_callback(pipeline.close)
        groups = route_groups(
            known,
            pool,
            tokens=tokens,
            doors=open_doors(known, tokens),
            recorder=recorder,
            accounts=Accounts(pool, default_quota_bytes=quota, level_of=level, clock=clock),
            hook=PreBuildHook(
                pool, cleaner, default_quota_bytes=quota, clock=clock, metrics=metrics
            ),
            cleaner=cleaner,
            collection=GarbageCollection(pool, client, clock=clock, metrics=metrics),
            pipeline=pipeline,
            clock=clock,
            stopping=stopping,
        )

        async def ready() -> str | None:
            return None

        app = create_app(
            *groups,
            ready=ready,
            metrics=metrics.registry,
            stopping=stopping,
            origins=known.cors_origins,
            gate=gate,
            refused=partial(metrics.refused, "http"),
        )
        port = await stack.enter_async_context(
            serving(app, host="127.0.0.1", port=0, certificate=certificate)
        )
        scheme = "http" if certificate is None else "https"
        # Streams end when the test does.
        stack.callback(stopping.set, "end of test")
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield LiveApi(f"{scheme}://127.0.0.1:{port}", session, pool, recorder, tokens, clock, app)
