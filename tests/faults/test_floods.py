"""Hundreds of gRPC calls or event streams at once, of nobody or of one caller: other builds are answered."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import psutil
import pytest

from idp.build.v1 import build_pb2 as pb
from idp.build.v1.build_pb2_grpc import BuildServiceStub
from quota.grpc.bounds import MOST_WAITED_FOR
from registry.client import RegistryClient
from runtime.postgres import Pool
from tests.integration.quota.conftest import service_of
from tests.integration.quota.grpc.conftest import Door, serving_door
from tests.support.live_api import LiveApi, live_api
from tests.support.promises import Promise, Scale
from tests.support.visitor import Visitor
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("floods")

FLOOD = 500
WITHIN_S = 2.0
"""The clients of the flood are in this process, too."""
WORKED_ON_S = 4.0
"""Beside hundreds of a caller's own builds, which are all answered: there is one queue for the database."""
MIB = 1024 * 1024


@asynccontextmanager
async def doors(pool: Pool) -> AsyncIterator[tuple[LiveApi, Door]]:
    """HTTP and gRPC of one ledger, with a workspace each for who floods and for the others."""
    async with (
        live_api(pool) as api,
        RegistryClient("http://127.0.0.1:9") as client,
        serving_door(service_of(pool, client)) as door,
    ):
        for name in ("acme", "flooding"):
            await api.call("PATCH", f"/v1/workspaces/{name}", {"quota_bytes": 10**9})
        yield api, door


class Beside:
    """What other callers meet while somebody floods."""

    def __init__(self, api: LiveApi, door: Door, token: str, promise: Promise, what: str) -> None:
        self._api, self._door, self._token = api, door, token
        self._promise, self._what = promise, what
        self._memory = psutil.Process().memory_info().rss

    async def hook(self, within: float = WITHIN_S) -> None:
        """A build by each door, and whether the process says that it is ready."""
        asks: tuple[tuple[str, Callable[[], Awaitable[object]]], ...] = (
            ("HTTP", self._by_http),
            ("gRPC", lambda: self._door.check("acme", token=self._token)),
        )
        for way, ask in asks:
            started = time.monotonic()
            await ask()
            took = time.monotonic() - started
            self._promise.worst(f"a build by {way} beside {self._what}", took)
            assert took < within, (way, took)

    async def _by_http(self) -> None:
        status, answer = await self._api.call(
            "POST", "/v1/hooks/pre-build", {"workspace": "acme"}, token=self._token
        )
        assert (status, answer["decision"]) == (200, "proceed")
        async with self._api.session.get(f"{self._api.base}/readyz") as ready:
            assert ready.status == 200

    def end(self) -> None:
        grown = psutil.Process().memory_info().rss - self._memory
        self._promise.worst("memory grown (clients included)", grown / MIB, "MiB")
        assert grown < 200 * MIB


async def outcome(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


@pytest.mark.parametrize("who", ["nobody", "one caller"])
async def test_hundreds_of_grpc_calls_at_once_keep_no_other_build_waiting(
    pool: Pool, promise: Promise, who: str
):
    async with doors(pool) as (api, door):
        mine = await api.token("hook", workspaces=["acme"])
        theirs = await api.token("hook", workspaces=["flooding"])
        beside = Beside(api, door, mine, promise, f"{FLOOD} gRPC calls of {who}")
        await beside.hook()
        async with grpc.aio.insecure_channel(door.target) as channel:
            check = BuildServiceStub(channel).CheckQuotaAndCleanup
            metadata = () if who == "nobody" else (("authorization", f"Bearer {theirs}"),)
            request = pb.CheckQuotaRequest(workspace_id="flooding")
            calls = [check(request, metadata=metadata, timeout=20) for _ in range(FLOOD)]
            flood = asyncio.gather(*(outcome(call) for call in calls))
            while not flood.done():
                await beside.hook(WITHIN_S if who == "nobody" else WORKED_ON_S)
            answers = Counter(await flood)
        assert set(answers) <= (
            {"UNAUTHENTICATED"} if who == "nobody" else {"OK", "RESOURCE_EXHAUSTED"}
        )
        beside.end()


async def test_calls_of_one_caller_whose_messages_never_come_take_no_places_of_others(
    pool: Pool, promise: Promise, scale: Scale
):
    many = scale.pick(1200, 3000)
    async with doors(pool) as (api, door):
        mine = await api.token("hook", workspaces=["acme"])
        theirs = await api.token("hook", workspaces=["flooding"])
        beside = Beside(
            api, door, mine, promise, f"{many} gRPC calls of one caller without a message"
        )
        async with grpc.aio.insecure_channel(door.target) as channel:
            open_call: Any = channel.stream_unary("/idp.build.v1.BuildService/CheckQuotaAndCleanup")

            async def silent() -> AsyncIterator[bytes]:
                await asyncio.sleep(30)
                yield b""

            calls = [
                open_call(silent(), metadata=(("authorization", f"Bearer {theirs}"),), timeout=25)
                for _ in range(many)
            ]
            ended = [asyncio.create_task(outcome(call)) for call in calls]
            refused = many - MOST_WAITED_FOR
            await wait_until(
                lambda: sum(task.done() for task in ended) >= refused,
                15,
                what="the others are refused",
            )
            for _ in range(5):
                await beside.hook()
            beside.end()
            for call in calls:
                call.cancel()
            answers = Counter(await asyncio.gather(*ended, return_exceptions=True))
        # Some may have been cancelled before their refusal was read.
        assert answers["RESOURCE_EXHAUSTED"] >= refused - 50, answers


@pytest.mark.parametrize("who", ["nobody", "one visitor"])
async def test_hundreds_of_event_streams_keep_no_build_waiting(
    pool: Pool, promise: Promise, who: str
):
    async with doors(pool) as (api, door):
        mine = await api.token("hook", workspaces=["acme"])
        theirs = await api.token("read", workspaces=["flooding"])
        visitor = Visitor(api)
        if who != "nobody":
            assert (await visitor.sign_in(theirs)).status == 303
        beside = Beside(api, door, mine, promise, f"{FLOOD} event streams of {who}")
        await beside.hook()
        headers = {} if visitor.cookie is None else {"Cookie": f"rq_session={visitor.cookie}"}
        statuses: Counter[int] = Counter()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as many:

            async def look() -> None:
                async with many.get(
                    f"{api.base}/workspaces/flooding/live", headers=headers, allow_redirects=False
                ) as answer:
                    statuses[answer.status] += 1
                    if answer.status == 200:
                        async for _ in answer.content:
                            pass

            looking = [asyncio.create_task(look()) for _ in range(FLOOD)]
            while statuses.total() < FLOOD:
                await beside.hook()
            for _ in range(5):
                await beside.hook()
            beside.end()
            for task in looking:
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
        assert statuses[200] <= (0 if who == "nobody" else 50), statuses
        if who != "nobody":
            assert statuses[503] > 0, statuses
