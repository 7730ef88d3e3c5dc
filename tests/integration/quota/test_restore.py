"""Undo on a real registry: what a cleanup deleted comes back whole, or it is said what is gone."""

import subprocess
import uuid

import pytest
import pytest_asyncio

from quota.restore import NothingKeptError, Restorer
from quota.snapshot import Incoming
from registry.client import RegistryClient
from registry.push import build_image, build_index, build_layer, build_referrer, push_image
from registry.refs import parse_image_name
from tests.integration.quota.conftest import Service, service_of
from tests.support import ledgers
from tests.support.live_api import live_api
from tests.support.registries import answering, program_or_skip, running_registry

RESTORES = "/v1/workspaces/acme/restores"
INDEX = build_index(
    {name: build_image([build_layer(f"i {name}", 200_000)]) for name in ("amd64", "arm64")}
)
SBOM = build_referrer(INDEX.manifest, content=b"a bill of materials")
IMAGES = [build_image([build_layer(f"r {number}", 140_000)]) for number in range(5)]


@pytest_asyncio.fixture
async def api(service: Service):
    async with live_api(service.pool, str(service.registry.base)) as running:
        yield running


async def cleaned(service):
    """An index with its children and its bill of materials, and an image, are gone."""
    await service.configure("acme", 820_000)
    await service.push_index("acme/web", "old", INDEX)
    await push_image(service.registry, "acme/web", SBOM)
    await service.tell("acme/web", None, SBOM.manifest.content, SBOM.manifest.media_type)
    for number, image in enumerate(IMAGES):
        await service.push_built("acme/web", f"1.{number}", image)
    before = await everything(service)
    task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await task
    assert [image.tags for image in outcome.images if image.tags] == [("old",), ("1.0",)]
    assert len(outcome.images) == 5
    return before, outcome


async def everything(service):
    """What exists and when it was pushed, the tags, and the bytes."""
    rows = await service.pool.fetch(
        "SELECT digest, push_ns FROM manifests WHERE present ORDER BY digest"
    )
    return (
        [tuple(row) for row in rows],
        await ledgers.tags(service.pool),
        await ledgers.usage(service.pool),
    )


async def pullable(service, tag):
    state = await service.registry.tag_digest("acme/web", tag)
    return state.digest


async def test_a_run_is_put_back_with_its_tags_and_the_times_of_its_pushes(service, api):
    before, outcome = await cleaned(service)
    status, answer = await api.call("POST", RESTORES, {"run": str(outcome.run_id)})
    assert status == 200, answer
    assert (answer["restored"], answer["lost"], answer["failed"]) == (5, 0, 0)
    assert await everything(service) == before
    assert await pullable(service, "old") == INDEX.digest
    assert await pullable(service, "1.0") == IMAGES[0].digest
    for image in (*INDEX.images, SBOM):
        assert (await service.registry.head_manifest("acme/web", image.digest)).exists
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)
    assert answer["warnings"] == ["above_trigger"]
    states = await service.pool.fetch("SELECT state FROM cleanup_items")
    assert {row["state"] for row in states} == {"restored"}

    status, again = await api.call("POST", RESTORES, {"run": str(outcome.run_id)})
    assert (status, again["restored"], again["present"]) == (200, 0, 5)
    assert await everything(service) == before


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("acme/web:old", 4),
        (f"acme/web@sha256:{INDEX.digest.hex()}", 4),
        (f"sha256:{INDEX.images[0].digest.hex()}", 1),
        ("acme/web:1.0", 1),
    ],
)
async def test_an_image_is_put_back_with_what_it_needs(service, api, name, count):
    await cleaned(service)
    status, answer = await api.call("POST", RESTORES, {"image": name})
    assert status == 200, answer
    assert (answer["restored"], len(answer["images"])) == (count, count)
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)
    for image in answer["images"]:
        found = await service.registry.get_manifest(
            "acme/web", bytes.fromhex(image["digest"].removeprefix("sha256:"))
        )
        assert found.body


async def test_a_tag_that_names_another_image_by_now_is_left_and_said(service, api):
    _before, outcome = await cleaned(service)
    other = build_image([build_layer(uuid.uuid4().hex, 1000)])
    await service.push_built("acme/web", "old", other)
    status, answer = await api.call("POST", RESTORES, {"run": str(outcome.run_id)})
    assert status == 200
    index = next(i for i in answer["images"] if i["digest"] == f"sha256:{INDEX.digest.hex()}")
    assert (index["state"], index["tags"]) == ("restored", [])
    assert index["moved_tags"] == [{"tag": "old", "digest": f"sha256:{other.digest.hex()}"}]
    assert "old" in index["why"]
    assert await pullable(service, "old") == other.digest
    assert (await service.registry.head_manifest("acme/web", INDEX.digest)).exists


async def test_what_cannot_be_named_or_was_never_deleted_is_told(service, api):
    await cleaned(service)
    cases = [
        ({}, 400, "run"),
        ({"run": str(uuid.uuid4()), "image": "a/b:1"}, 400, "image"),
        ({"run": "x"}, 400, "run"),
        ({"image": "acme/web"}, 422, "REPOSITORY:TAG"),
        ({"image": "acme//web:1"}, 422, "image"),
        ({"image": "acme/web:1.4"}, 404, "no cleanup"),
        ({"image": "acme/web:odl"}, 404, "did you mean old?"),
        ({"image": "acme/wbe:old"}, 404, "did you mean acme/web?"),
        ({"run": str(uuid.uuid4())}, 404, "no such cleanup"),
    ]
    for body, expected, word in cases:
        status, problem = await api.call("POST", RESTORES, body)
        assert status == expected, (body, problem)
        assert word in str(problem), (body, problem)
    token = await api.token("read", workspaces=["acme"])
    assert (await api.call("POST", RESTORES, {"image": "acme/web:old"}, token=token))[0] == 403


async def test_what_a_run_deletes_cannot_be_put_back_while_it_runs(service, api):
    _before, outcome = await cleaned(service)
    await service.pool.execute("UPDATE cleanup_runs SET state = 'running'")
    status, _problem = await api.call("POST", RESTORES, {"run": str(outcome.run_id)})
    assert status == 409


@pytest.mark.parametrize("restarted", [True, False])
async def test_after_a_garbage_collection_it_says_what_is_lost(pool, tmp_path, restarted):
    """Beside a registry whose cache remembers what is gone, and one that was started anew."""
    program = program_or_skip()
    with running_registry(tmp_path, cache=True) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            service = service_of(pool, client)
            _before, outcome = await cleaned(service)
            collect(program, tmp_path)
            if not restarted:
                await nothing_comes_back(service, outcome)
    if restarted:
        with running_registry(tmp_path, cache=True) as url:
            await answering(url)
            async with RegistryClient(url) as client:
                await nothing_comes_back(service_of(pool, client), outcome)


def collect(program, folder):
    subprocess.run(
        [program, "garbage-collect", str(folder / "config.yml")], check=True, capture_output=True
    )


async def nothing_comes_back(service, outcome):
    usage = await service.usage("acme")
    view = await service.accounts.workspace("acme")
    done = await Restorer(service.cleaner).run(view, outcome.run_id)
    assert done.count("lost") == 5, done
    for image in done.images:
        assert "garbage collection" in image.why
        assert image.missing
    assert await service.usage("acme") == usage
    for number in range(1, 5):
        assert await pullable(service, f"1.{number}") == IMAGES[number].digest


async def test_nothing_is_kept_of_an_image_that_never_was(service):
    await service.configure("acme", 1000)
    view = await service.accounts.workspace("acme")
    with pytest.raises(NothingKeptError):
        await Restorer(service.cleaner).image(view, parse_image_name("acme/api:1"))
