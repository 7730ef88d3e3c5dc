"""Two pushers race for one tag: whatever the events say, the ledger ends with the registry's answer.

`RQ_SETTLING_ROUNDS=200 pytest tests/acceptance/test_settling.py -s` tries more rounds and prints how
often the events alone would have been wrong.
"""

import asyncio
import os

import asyncpg

from registry.push import build_image, build_layer, push_image
from tests.support.system import System
from tests.support.waiting import wait_until

ROUNDS = int(os.environ.get("RQ_SETTLING_ROUNDS", "20"))


async def test_the_registry_decides_who_won_a_race(system: System) -> None:
    images = [build_image([build_layer(name, 300)], label=name) for name in ("left", "right")]
    for image in images:  # blobs first: the race is about the manifests
        await push_image(system.registry, "race/app", image)

    async def push(tag: str, number: int) -> None:
        manifest = images[number].manifest
        await system.registry.put_manifest("race/app", tag, manifest.content, manifest.media_type)

    for number in range(ROUNDS):
        await asyncio.gather(push(f"r{number}", number % 2), push(f"r{number}", 1 - number % 2))
    truth = {}
    for number in range(ROUNDS):
        state = await system.registry.tag_digest("race/app", f"r{number}")
        truth[f"r{number}"] = "" if state.digest is None else state.digest.hex()

    async def wrong() -> int:
        said = {
            tag: image["digest"].removeprefix("sha256:")
            for image in await system.images("race")
            for tag in image["tags"]
        }
        return sum(said.get(tag) != digest for tag, digest in truth.items())

    async def unsettled() -> int:
        connection = await asyncpg.connect(system.environment["RQ_DATABASE_URL"])
        try:
            return int(await connection.fetchval("SELECT count(*) FROM tag_checks"))
        finally:
            await connection.close()

    async def all_right() -> bool:
        return await wrong() == 0 and await unsettled() == 0

    await system.settled()
    before = await wrong()
    await wait_until(all_right, 30, interval=0.2, what="the ledger says what the registry says")
    print(f"\n{ROUNDS} rounds: {before} wrong by the events alone, 0 after settling")  # noqa: T201
