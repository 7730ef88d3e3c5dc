"""The registry's own limit: the same documents read over the same number of connections, and dropped.

`python -m bench.limits.registry URL CONNECTIONS < names`: the manifest of each `repository:tag` and the
config that it names. No digest is verified, nothing is recorded, no error is survived.
"""

import asyncio
import json
import sys

import aiohttp
import uvloop

from registry.media_types import ACCEPTED

_ACCEPT = ", ".join(ACCEPTED)


async def run(url: str, connections: int, names: list[str]) -> None:
    """Read everything once."""
    waiting = iter(names)

    async def read(session: aiohttp.ClientSession) -> None:
        for name in waiting:
            repository, tag = name.split(":")
            place = f"{url}/v2/{repository}"
            async with session.get(f"{place}/manifests/{tag}", headers={"Accept": _ACCEPT}) as got:
                config = json.loads(await got.read())["config"]["digest"]
            async with session.get(f"{place}/blobs/{config}") as got:
                json.loads(await got.read())

    async with aiohttp.ClientSession(raise_for_status=True) as session:
        await asyncio.gather(*(read(session) for _ in range(connections)))


def main() -> None:
    """Run it."""
    uvloop.run(run(sys.argv[1], int(sys.argv[2]), sys.stdin.read().split()))


if __name__ == "__main__":
    main()
