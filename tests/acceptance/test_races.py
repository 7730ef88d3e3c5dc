"""A push that lands between our check and our DELETE: whatever was pushed is pullable after settling.

The registry is real, its events are told to the ledger as they come: pushes and deletes with the
registry's own times, in either order.
"""

import asyncio
import os
import random
import uuid

import pytest

from registry.errors import RegistryRefused
from registry.push import build_image, build_index, build_layer, push_image, push_manifest
from tests.support.waiting import wait_until

ROUNDS = int(os.environ.get("RQ_TEST_RACE_ROUNDS", "6"))


async def full_workspace(system):
    """Old images that a cleanup takes, the children of an index among them."""
    name = f"race-{uuid.uuid4().hex[:8]}"
    images = [build_image([build_layer(f"{name}/{n}", 50_000)]) for n in range(8)]
    for number, image in enumerate(images):
        await push_image(system.registry, f"{name}/api", image, f"1.{number}")
    await system.settled()
    policy = {"untagged_grace": 0, "max_ratio_per_run": 1}
    body = {"quota_bytes": 450_000, "policy": policy}
    status, answer = await system.call("PATCH", f"/v1/workspaces/{name}", body)
    assert status == 200, answer
    return name, images


async def pullable(system, repository, tag, digest):
    """The tag names the image, and every byte of it is there."""
    state = await system.registry.tag_digest(repository, tag)
    assert state.digest == digest
    found = await system.registry.get_manifest(repository, digest)
    return found.digest == digest


async def race(system, rng):
    """A cleanup of old images while some of them are pushed again; what was pushed must be there."""
    name, images = await full_workspace(system)
    repository = f"{name}/api"
    tagged: dict[str, bytes] = {}
    children: list[bytes] = []

    async def push_some():
        for number in rng.sample(range(4), 3):
            await asyncio.sleep(rng.uniform(0, 0.012))
            await push_manifest(
                system.registry, repository, images[number].manifest, f"new-{number}"
            )
            tagged[f"new-{number}"] = images[number].digest
        # An index of images that are there, as a client that finds them pushes none of them again.
        pair = {"amd64": images[0], "arm64": images[1]}
        index = build_index(pair)
        for image in index.images:
            await push_image(system.registry, repository, image)
            children.append(image.digest)
        try:
            await push_manifest(system.registry, repository, index.manifest, "both")
        except RegistryRefused:
            return  # a child was gone at that moment: the registry did not take it, and said so
        tagged["both"] = index.digest

    cleaning = system.call("POST", "/v1/hooks/pre-build", {"workspace": name})
    (status, _answer), _none = await asyncio.gather(cleaning, push_some())
    assert status == 200
    await system.settled()

    async def all_there():
        for tag, digest in tagged.items():
            assert await pullable(system, repository, tag, digest)
        for digest in children:
            assert (await system.registry.head_manifest(repository, digest)).exists
        return True

    await wait_until(all_there, 20, interval=0.1, what=f"everything pushed to {name} is pullable")
    return name, len(tagged)


@pytest.mark.promise("safe-deletes")
async def test_every_pushed_tag_is_pullable_after_settling(system2, promise):
    rng = random.Random(5)
    for _round in range(ROUNDS):
        name, pushed = await race(system2, rng)
        promise.count("pushes in the middle of a cleanup, pullable", pushed)
        await system2.settled()
        assert await system2.usage(name) > 0
