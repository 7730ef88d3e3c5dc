"""The infrastructure that other tests stand on does what it says."""

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiokafka.client import AIOKafkaClient
from yarl import URL


async def test_postgres_answers_as_superuser(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SHOW is_superuser") == "on"
        assert int(await connection.fetchval("SHOW server_version_num")) >= 150_000
    finally:
        await connection.close()


async def test_kafka_answers(kafka_bootstrap):
    client = AIOKafkaClient(bootstrap_servers=kafka_bootstrap)
    await client.bootstrap()
    try:
        assert client.cluster.brokers()
    finally:
        await client.close()


@pytest.mark.parametrize("version", ["2", "3"])
async def test_a_registry_of_the_version_asked_for_stops_and_starts(backend, version):
    async with backend.registry(version) as registry, aiohttp.ClientSession() as session:
        assert registry.version == version
        async with session.get(f"{registry.url}/v2/") as response:
            assert response.status == 200
        for stop in (registry.stop, registry.kill):
            await stop()
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"{registry.url}/v2/")
            await registry.start()
            async with session.get(f"{registry.url}/v2/") as response:
                assert response.status == 200


@pytest.mark.parametrize("version", ["2", "3"])
async def test_a_registry_notifies_with_token_and_references_and_takes_deletes(backend, version):
    received: asyncio.Queue[tuple[str | None, dict[str, Any]]] = asyncio.Queue()

    async def notified(request):
        for event in (await request.json())["events"]:
            await received.put((request.headers.get("Authorization"), event))
        return web.Response(status=202)

    app = web.Application()
    app.router.add_post("/v1/notifications", notified)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(TestServer(app))
        registry = await stack.enter_async_context(
            backend.registry(
                version, notification_url=str(server.make_url("/v1/notifications")), token="t0ken"
            )
        )
        session = await stack.enter_async_context(aiohttp.ClientSession(registry.url))
        digest, config = await push_image(session, "acme/api", "1.0")

        while True:
            authorization, event = await asyncio.wait_for(received.get(), 10)
            assert authorization == "Bearer t0ken"
            if event["target"].get("tag") == "1.0":
                break
        assert event["action"] == "push"
        assert event["target"]["digest"] == digest
        assert [each["digest"] for each in event["target"]["references"]] == [config]

        async with session.delete(f"/v2/acme/api/manifests/{digest}") as response:
            assert response.status == 202


async def push_image(session: aiohttp.ClientSession, repository: str, tag: str) -> tuple[str, str]:
    """Push an image that has only a config; digests of its manifest and of the config."""
    content = b"{}"
    config = f"sha256:{hashlib.sha256(content).hexdigest()}"
    async with session.post(f"/v2/{repository}/blobs/uploads/") as response:
        location = response.headers["Location"]
    separator = "&" if "?" in location else "?"
    where = URL(f"{location}{separator}digest={config}", encoded=True)
    async with session.put(where, data=content) as response:
        assert response.status == 201
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config,
            "size": len(content),
        },
        "layers": [],
    }
    headers = {"Content-Type": media_type}
    path = f"/v2/{repository}/manifests/{tag}"
    async with session.put(path, data=json.dumps(manifest).encode(), headers=headers) as response:
        assert response.status == 201
        return response.headers["Docker-Content-Digest"], config
