"""What the list of images says to protect an image is what the planner keeps it for."""

import time
from datetime import timedelta

import pytest_asyncio

from ledger import leases
from ledger.facts import ManifestPulled
from ledger.workspaces import lock_workspace
from quota.snapshot import Incoming
from registry.client import RegistryClient
from registry.push import build_image, build_index, build_layer, build_referrer
from tests.integration.quota.conftest import service_of, utc_now
from tests.support.artifacts import build_cache, build_chart, build_kaniko_layer, build_sbom

HOUR_NS = 3600 * 10**9


@pytest_asyncio.fixture
async def service(pool):
    """Nothing is asked of a registry."""
    async with RegistryClient("http://127.0.0.1:9") as client:
        yield service_of(pool, client)


async def tell(service, repository, tag, image, *, hours=0):
    manifest = image.manifest
    at_ns = time.time_ns() - hours * HOUR_NS
    await service.tell(repository, tag, manifest.content, manifest.media_type, at_ns=at_ns)


async def listed(service):
    """Digest → what protects it, as `GET …/images` says."""
    view = await service.accounts.workspace("acme")
    page = await service.accounts.images(view, app=None, tag=None, after=None, limit=100)
    return {item["digest"]: item["protected_by"] for item in page["items"]}


def name(image):
    return f"sha256:{image.digest.hex()}"


def images(count):
    return [build_image([build_layer(f"listed {number}", 1000)]) for number in range(count)]


async def lease(service, source, digest):
    async with service.pool.acquire() as connection, connection.transaction():
        workspace = await lock_workspace(connection, "acme")
        assert workspace is not None
        end = utc_now() + timedelta(hours=1)
        await leases.put_lease(
            connection, workspace.id, source, [digest], now=utc_now(), expires_at=end
        )


async def test_rules_of_the_policy_are_named_with_their_values(service):
    some = images(6)
    for number, image in enumerate(some):
        await tell(service, "acme/api", f"v{number}", image, hours=60 - 10 * number)
    await service.configure(
        "acme", 10**9, keep_newest=2, min_age=15 * 3600, keep_tags=["v0", "w*"], keep_pulled_days=3
    )
    pulled = ManifestPulled("default", "acme/api", some[2].digest, (time.time_ns(), bytes(16)))
    await service.recorder.record([pulled], now=utc_now())
    found = await listed(service)
    assert [found[name(image)] for image in some] == [
        ["keep_tags:v0"],
        [],
        ["keep_pulled_days:3"],
        [],
        ["keep_newest:2"],
        ["keep_newest:2", f"min_age:{15 * 3600}"],
    ]


async def test_what_an_image_belongs_to_and_who_uses_it_are_named(service):
    children = images(2)
    index = build_index({"amd64": children[0], "arm64": children[1]})
    signature = build_referrer(index.manifest)
    lone = build_referrer(children[0].manifest, content=b"another repository's")
    for image in children:
        await tell(service, "acme/api", None, image, hours=2)
    await tell(service, "acme/api", "1", index)
    await tell(service, "acme/api", f"sha256-{children[1].digest.hex()}.sig", signature)
    await tell(service, "acme/web", None, lone)
    await service.configure("acme", 10**9)
    await lease(service, "prod", children[0].blobs[0].digest)
    found = await listed(service)
    assert found[name(index)] == ["lease:prod", "keep_newest:3"]
    assert found[name(children[0])] == [f"index:{name(index)}", "lease:prod"]
    assert found[name(children[1])] == [f"index:{name(index)}"]
    assert found[name(signature)] == [f"subject:{name(index)}", f"subject:{name(children[1])}"]
    assert found[name(lone)] == []


async def test_the_newest_are_those_that_the_planner_counts(service):
    """A tagged child of an index is none of them."""
    some = images(6)
    index = build_index({"amd64": some[5]})
    for number, image in enumerate(some[:5]):
        await tell(service, "acme/api", f"v{number}", image, hours=50 - number)
    await tell(service, "acme/api", "child", some[5], hours=3)
    await tell(service, "acme/api", "index", index, hours=2)
    usage = await service.usage("acme")
    await service.configure("acme", usage, keep_at_least=3, target=0.1, max_ratio_per_run=1)
    found = await listed(service)
    newest = {digest for digest, named in found.items() if "keep_newest:3" in named}
    assert newest == {name(index), name(some[4]), name(some[3])}
    _snapshot, plan = await service.cleaner.plan("acme", Incoming())
    assert newest == {
        f"sha256:{decision.manifest.digest.hex()}"
        for decision in plan.decisions
        if decision.why == "newest"
    }


async def test_the_newest_of_each_kind_are_those_that_the_planner_counts(service):
    some = images(5)
    sboms = [build_sbom(f"listed {number}", 1000) for number in range(5)]
    charts = [build_chart(f"listed {number}") for number in range(4)]
    key, layer = build_kaniko_layer("listed", 1000)
    chart_index = build_index({"amd64": charts[3]})
    for number, image in enumerate(some):
        await tell(service, "acme/api", f"v{number}", image, hours=50 - number)
        await tell(service, "acme/api", f"v{number}-sbom", sboms[number], hours=30 - number)
    for number, chart in enumerate(charts[:3]):
        await tell(service, "acme/api", f"c{number}", chart, hours=20 - number)
    await tell(service, "acme/api", None, charts[3], hours=17)
    await tell(service, "acme/api", "c3", chart_index, hours=16)
    await tell(service, "acme/api", "buildcache", build_cache("listed", 1000), hours=2)
    await tell(service, "acme/api/cache", key, layer, hours=1)
    lone = build_sbom("lone", 500)
    await tell(service, "acme/api", "lone-sbom", lone, hours=1)
    usage = await service.usage("acme")
    await service.configure("acme", usage, keep_at_least=3, target=0.1, max_ratio_per_run=1)
    found = await listed(service)
    newest = {digest for digest, named in found.items() if "keep_newest:3" in named}
    assert newest == {
        *map(name, some[2:]),
        *map(name, [charts[1], charts[2], chart_index]),
        name(lone),
    }
    assert found[name(sboms[4])] == [f"subject:{name(some[4])}"]
    _snapshot, plan = await service.cleaner.plan("acme", Incoming())
    assert newest == {
        f"sha256:{decision.manifest.digest.hex()}"
        for decision in plan.decisions
        if decision.why in ("newest", "only_image")
    }
    assert {tag for manifest in plan.steps for tag in manifest.tags} == {
        *("buildcache", key, "v0", "v0-sbom", "v1", "v1-sbom", "c0"),
    }


async def test_usage_and_number_of_images_are_those_of_one_moment(service):
    first, second = images(2)
    await tell(service, "acme/api", "v1", first)
    view = await service.accounts.workspace("acme")
    # A push between the two questions that make up the answer.
    await tell(service, "acme/api", "v2", second)
    usage = await service.accounts.usage(view)
    now = await service.accounts.workspace("acme")
    assert view.usage_bytes < now.usage_bytes
    assert (usage["images"], usage["usage_bytes"]) == (2, now.usage_bytes)
