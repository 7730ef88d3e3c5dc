"""Only those who may get in, while tokens come and go and tenants knock at each other's doors."""

import asyncio
import io
import re
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.faults.conftest import Faulty
from tests.support.consumers import event
from tests.support.deliveries import envelope
from tests.support.load import new_connections
from tests.support.promises import Promise, Scale
from tests.support.receiver_program import receiver_program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("tenants")

DIGEST = "sha256:" + "ab" * 32


def bodies(victim: str, thief: str) -> dict[str, Any]:
    """Path → a body that would do something to the victim."""
    return {
        "/v1/hooks/pre-build": {"workspace": victim},
        "/api/internal/registry-images": {
            "workspace": victim,
            "app": "api",
            "tag": "1",
            "digest": DIGEST,
            "sizeBytes": 1,
        },
        f"/v1/repositories/default/{victim}/api": {"workspace": thief, "app": "api"},
        "/v1/tokens": {"scopes": ["read"], "workspaces": [victim]},
        f"/v1/workspaces/{victim}": {"quota_bytes": 1},
        f"/v1/workspaces/{victim}/leases": {"source": "x", "digests": [DIGEST]},
        f"/v1/workspaces/{victim}/reservations": {"build_id": "x", "bytes": 1},
        f"/v1/workspaces/{victim}/restores": {"run": str(uuid.uuid4())},
    }


class Operation(NamedTuple):
    """An operation that needs a token, with its path filled in."""

    method: str
    path: str
    scopes: frozenset[str]
    """Any of which is enough."""
    about_victim: bool


async def secured(faulty: Faulty, victim: str) -> list[Operation]:
    """Every operation that needs a token."""
    document = await faulty.get("/openapi.json")
    found = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not operation.get("security"):
                continue
            filled = path.replace("{workspace}", victim).replace("{repository}", f"{victim}/api")
            filled = filled.replace("{registry}", "default")
            if path.startswith("/api/internal/workspaces/"):
                filled = filled.replace("{id}", victim)
            filled = re.sub(r"{\w+}", str(uuid.uuid4()), filled)
            scopes = {scope for way in operation["security"] for scope in way.get("token", ())}
            found.append(Operation(method.upper(), filled, frozenset(scopes), victim in filled))
    return found


async def test_nobody_gets_at_what_is_not_theirs(faulty: Faulty, promise: Promise):
    victim, thief = (f"{name}-{uuid.uuid4().hex[:6]}" for name in ("victim", "thief"))
    for name in (victim, thief):
        path = f"/v1/workspaces/{name}"
        assert (await faulty.call("PATCH", path, {"quota_bytes": 10**9}))[0] == 200
        assert await faulty.notify(envelope(event(f"{name}/api"))) == 202
    await faulty.settled()
    scopes = ["read", "hook", "write", "admin"]
    status, made = await faulty.call(
        "POST", "/v1/tokens", {"scopes": scopes, "workspaces": [thief]}
    )
    assert status == 201
    operations = await secured(faulty, victim)
    told = bodies(victim, thief)
    before = await faulty.get(f"/v1/workspaces/{victim}")
    wrongly: list[tuple[str, str, int]] = []
    tried = 0
    for method, path, _scopes, about_victim in operations:
        body = told.get(path, {} if method in ("POST", "PUT", "PATCH") else None)
        for token in ("", "wrong", made["token"] + "x", faulty.environment["RQ_WEBHOOK_TOKEN"]):
            tried += 1
            status, _answer = await faulty.call(method, path, body, token=token)
            if status != 401:
                wrongly.append((method, path, status))
        if about_victim or (path in told and method != "GET"):
            tried += 1
            status, _answer = await faulty.call(method, path, body, token=made["token"])
            if status < 400 or status >= 500:
                wrongly.append((method, path, status))
    listed = await faulty.call("GET", "/v1/workspaces", token=made["token"])
    assert [item["workspace"] for item in listed[1]["items"]] == [thief]
    promise.count("operations tried by callers", tried)
    promise.count("let in wrongly", len(wrongly))
    assert wrongly == []
    after = await faulty.get(f"/v1/workspaces/{victim}")
    assert {**after, "as_of": None} == {**before, "as_of": None}
    assert len(operations) > 30


async def test_nobody_does_more_than_their_scope(faulty: Faulty, promise: Promise):
    own = f"own-{uuid.uuid4().hex[:6]}"
    assert (await faulty.call("PATCH", f"/v1/workspaces/{own}", {"quota_bytes": 10**9}))[0] == 200
    tokens = {}
    for scope in ("read", "hook", "write"):
        made = {"scopes": [scope], "workspaces": [own]}
        status, answer = await faulty.call("POST", "/v1/tokens", made)
        assert status == 201
        tokens[scope] = answer["token"]
    operations, told = await secured(faulty, own), bodies(own, own)
    wrongly: list[tuple[str, str, str, int]] = []
    tried = 0
    for operation in operations:
        method, path = operation.method, operation.path
        body = told.get(path, {} if method in ("POST", "PUT", "PATCH") else None)
        for scope in tokens.keys() - operation.scopes:
            tried += 1
            status, _answer = await faulty.call(method, path, body, token=tokens[scope])
            if status != 403:
                wrongly.append((scope, method, path, status))
    promise.count("operations tried beyond one's scope", tried)
    promise.count("let in wrongly", len(wrongly))
    assert wrongly == []
    assert tried > 60


async def test_api_tokens_rotate_under_load(faulty: Faulty, promise: Promise, scale: Scale):
    workspace = f"rot-{uuid.uuid4().hex[:6]}"
    path = f"/v1/workspaces/{workspace}"
    assert (await faulty.call("PATCH", path, {"quota_bytes": 10**9}))[0] == 200
    stop, statuses = asyncio.Event(), Counter[str]()
    current: dict[str, str] = {}
    leaving: set[str] = set()
    revoked: list[str] = []

    async def make() -> dict[str, Any]:
        status, made = await faulty.call(
            "POST", "/v1/tokens", {"scopes": ["read"], "workspaces": [workspace]}
        )
        assert status == 201
        return dict(made)

    async def honest() -> None:
        while not stop.is_set():
            token = current["token"]
            status, _answer = await faulty.call("GET", f"{path}/usage", token=token)
            if status != 200 and token not in leaving:
                statuses["refused wrongly"] += 1
            statuses["calls"] += 1

    async def thief() -> None:
        while not stop.is_set():
            await asyncio.sleep(0.005)
            if revoked:
                status, _answer = await faulty.call("GET", f"{path}/usage", token=revoked[-1])
                statuses["let in wrongly"] += status != 401
                statuses["calls"] += 1

    made = await make()
    current["token"] = made["token"]
    workers = [asyncio.create_task(work()) for work in (honest, honest, honest, thief)]
    rotations = scale.pick(15, 300)
    for _ in range(rotations):
        successor = await make()
        old, current["token"] = made, successor["token"]
        # Calls that were begun with the old one end first, as in any rotation.
        await asyncio.sleep(0.05)
        leaving.add(old["token"])
        assert (await faulty.call("DELETE", f"/v1/tokens/{old['id']}"))[0] == 204
        revoked.append(old["token"])
        made = successor
    stop.set()
    await asyncio.gather(*workers)
    promise.count("API tokens rotated under load", rotations)
    for label in ("calls", "let in wrongly", "refused wrongly"):
        promise.count(label, statuses[label])
    assert statuses["let in wrongly"] == statuses["refused wrongly"] == 0


async def test_webhook_tokens_rotate_under_load(
    faulty: Faulty, promise: Promise, scale: Scale, tmp_path: Path
):
    """The receiver takes both, the registry changes over, the receiver forgets the old one."""
    bootstrap = faulty.stack.kafka_bootstrap
    counted: Counter[str] = Counter()
    async with receiver_program(tmp_path / "log", bootstrap=bootstrap, kafka=bootstrap) as receiver:
        old = new = receiver.load.token
        stop = asyncio.Event()

        async def knock(token: str) -> int:
            try:
                async with http.post(
                    receiver.load.url,
                    data=io.BytesIO(envelope(event(f"rot/{uuid.uuid4().hex[:6]}"))),
                    headers={"Authorization": f"Bearer {token}"},
                ) as answer:
                    return answer.status
            except (OSError, aiohttp.ClientError):
                return 0  # just being started again

        async def registry() -> None:
            while not stop.is_set():
                status = await knock(old)
                counted["deliveries"] += status == 202
                counted["refused wrongly"] += status == 401
                await asyncio.sleep(0.005)

        async def restart(tokens: str) -> None:
            receiver.program._environment["RQ_WEBHOOK_TOKENS"] = tokens
            assert (await receiver.program.stop())[0] == 0
            receiver.program.start()
            await wait_until(lambda: receiver.readiness_is(200), 20, what="it is ready")

        async with new_connections() as http:
            working = asyncio.create_task(registry())
            for _ in range(scale.pick(1, 10)):
                new = f"token-{uuid.uuid4().hex}"
                await restart(f"{old},{new}")
                gone, old = old, new
                await asyncio.sleep(0.1)  # deliveries that were begun with the old one
                await restart(new)
                for _ in range(20):
                    counted["let in wrongly"] += await knock(gone) == 202
            stop.set()
            await working
    promise.count("webhook tokens rotated under load", scale.pick(1, 10))
    for label in ("deliveries", "let in wrongly", "refused wrongly"):
        promise.count(label, counted[label])
    assert counted["deliveries"] > 0
    assert counted["let in wrongly"] == counted["refused wrongly"] == 0
