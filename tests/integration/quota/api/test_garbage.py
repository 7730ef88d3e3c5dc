"""The registry's own garbage collection, predicted and verified, on both majors."""

import hashlib
import time
import uuid
from datetime import UTC, datetime

import pytest

from ledger.contents import content_of_manifest
from ledger.facts import ManifestDeleted, ManifestPushed
from registry.client import RegistryClient
from registry.manifests import parse_manifest
from registry.push import build_image, build_layer, push_image
from tests.support import ledgers
from tests.support.live_api import live_api
from tests.support.published import check_event
from tests.support.waiting import wait_until

VERIFICATIONS = "/v1/gc/verifications"


class Pushes:
    """Pushes and deletes on a real registry that the ledger hears of."""

    def __init__(self, pool, client):
        self.recorder = ledgers.recorder(pool)
        self.client = client

    async def push(self, repository, tag, image):
        await push_image(self.client, repository, image, tag)
        body, kind = image.manifest.content, image.manifest.media_type
        fact = ManifestPushed(
            "default",
            repository,
            hashlib.sha256(body).digest(),
            (time.time_ns(), uuid.uuid4().bytes),
            kind,
            len(body),
            tag,
            content_of_manifest(parse_manifest(body, kind)),
        )
        await self.recorder.record([fact], now=datetime.now(UTC))

    async def delete(self, repository, image):
        await self.client.delete_manifest(repository, image.digest)
        stamp = (time.time_ns(), uuid.uuid4().bytes)
        fact = ManifestDeleted("default", repository, image.digest, stamp)
        await self.recorder.record([fact], now=datetime.now(UTC))


async def verified(api, **body):
    status, begun = await api.call("POST", VERIFICATIONS, body)
    assert status == 202, begun
    seen = begun

    async def over():
        nonlocal seen
        _status, seen = await api.call("GET", f"{VERIFICATIONS}/{begun['id']}")
        return seen["state"] != "running"

    await wait_until(over, 20, what="the end of the verification")
    return seen


async def awaiting(api, workspace):
    _status, usage = await api.call("GET", f"/v1/workspaces/{workspace}/usage")
    return usage["awaiting_gc_bytes"]


def weight(image):
    return sum(len(blob.content) for blob in (image.manifest, *image.blobs))


@pytest.mark.parametrize("version", ["2", "3"])
async def test_what_a_collection_was_to_free_is_asked_for_in_the_registry(pool, backend, version):
    async with (
        backend.registry(version) as registry,
        RegistryClient(registry.url) as client,
        live_api(pool, registry.url) as api,
    ):
        pushes = Pushes(pool, client)
        shared = build_layer("shared", 40_000)
        gone = build_image([shared, build_layer("gone", 100_000)])
        kept = build_image([shared, build_layer("kept", 60_000)])
        await pushes.push("acme/api", "1", gone)
        await pushes.push("other/api", "1", kept)
        await pushes.delete("acme/api", gone)
        predicted = weight(gone) - sum(
            len(blob.content) for blob in gone.blobs if blob in kept.blobs
        )
        assert await awaiting(api, "acme") == predicted, "what another workspace holds stays"

        before = await verified(api)
        assert (before["predicted_bytes"], before["collected_bytes"]) == (predicted, 0)
        assert before["present"] == 2
        assert before["unknown"] == 1, "a deleted manifest's document cannot be asked for"
        assert await awaiting(api, "acme") == predicted

        await registry.collect_garbage()
        after = await verified(api, workspace="acme")
        assert after["state"] == "finished"
        assert (after["predicted_bytes"], after["collected_bytes"]) == (predicted, predicted)
        assert (after["present"], after["unknown"]) == (0, 0)
        assert after["workspaces"][0]["workspace"] == "acme"
        assert await awaiting(api, "acme") == 0
        for blob in kept.blobs:
            assert await client.get_blob("other/api", blob.digest, 100_000) == blob.content

        await pushes.delete("other/api", kept)
        assert await awaiting(api, "other") == weight(kept), "who let go last waits for it"
        assert await awaiting(api, "acme") == 0
        _status, events = await api.call("GET", "/v1/workspaces/acme/events")
        last = [item for item in events["items"] if item["type"].endswith("gc.verified.v1")][-1]
        check_event(last | {"specversion": "1.0", "source": "/registry-quota"})
        assert last["data"]["collected_bytes"] == predicted
        assert last["data"]["awaiting_gc_bytes"] == 0
        _status, response, metrics = await api.raw("GET", "/metrics")
        assert response.status == 200
        assert f'registry_quota_gc_bytes_total{{outcome="collected"}} {predicted:.1f}' in (
            metrics.decode()
        )


async def test_what_is_pushed_again_awaits_nothing(pool, backend):
    async with (
        backend.registry("any") as registry,
        RegistryClient(registry.url) as client,
        live_api(pool, registry.url) as api,
    ):
        pushes = Pushes(pool, client)
        image = build_image([build_layer("again", 1000)])
        await pushes.push("acme/api", "1", image)
        await pushes.delete("acme/api", image)
        assert await awaiting(api, "acme") == weight(image)
        await pushes.push("other/web", "1", image)
        assert await awaiting(api, "acme") == 0
        assert (await verified(api))["predicted"] == 0


async def test_while_the_registry_is_away_everything_stays_as_it_was(pool, backend):
    async with (
        backend.registry("any") as registry,
        RegistryClient(registry.url) as client,
        live_api(pool) as api,
    ):
        pushes = Pushes(pool, client)
        image = build_image([build_layer("away", 1000)])
        await pushes.push("acme/api", "1", image)
        await pushes.delete("acme/api", image)
        outcome = await verified(api)
        assert outcome["state"] == "stopped"
        assert "does not answer" in outcome["message"]
        assert outcome["unknown_bytes"] == outcome["predicted_bytes"] == weight(image)
        assert await awaiting(api, "acme") == weight(image)


async def test_who_has_some_workspaces_verifies_those_alone(pool):
    async with live_api(pool) as api:
        await api.call("PUT", "/v1/workspaces/acme", {"quota_bytes": 1000})
        token = await api.token("admin", workspaces=["acme"])
        assert (await api.call("POST", VERIFICATIONS, {}, token=token))[0] == 403
        assert (await api.call("GET", VERIFICATIONS, token=token))[0] == 403
        other = {"workspace": "other"}
        assert (await api.call("POST", VERIFICATIONS, other, token=token))[0] == 404
        assert (await api.call("POST", VERIFICATIONS, other))[0] == 404
        status, begun = await api.call("POST", VERIFICATIONS, {"workspace": "acme"}, token=token)
        assert status == 202
        path = f"{VERIFICATIONS}/{begun['id']}"
        assert (await api.call("GET", path, token=token))[0] == 200
        assert (await api.call("GET", f"{VERIFICATIONS}/nonsense"))[0] == 404
        status, problem = await api.call("POST", VERIFICATIONS, {"workspace": 5})
        assert (status, problem["errors"][0]["field"]) == (400, "workspace")


async def test_the_list_of_verifications_can_be_read_to_its_end(api):
    made = [(await verified(api))["id"] for _ in range(3)]
    _status, whole = await api.call("GET", VERIFICATIONS)
    assert [item["id"] for item in whole["items"]] == made[::-1]
    assert whole["next_cursor"] is None
    _status, page = await api.call("GET", f"{VERIFICATIONS}?limit=2")
    _status, rest = await api.call("GET", f"{VERIFICATIONS}?limit=2&cursor={page['next_cursor']}")
    read = [item["id"] for item in page["items"] + rest["items"]]
    assert (read, rest["next_cursor"]) == (made[::-1], None)
    status, answer = await api.call("GET", f"{VERIFICATIONS}?cursor=nonsense")
    assert (status, answer["errors"][0]["field"]) == (400, "cursor")
