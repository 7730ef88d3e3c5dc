"""A bound on asking for images leaves nothing half begun."""

import asyncio
import gc
import hashlib
import json
import time
from typing import cast

import pytest

from quota.pulling import PullCheck
from registry.answers import FetchedManifest
from registry.client import RegistryClient
from registry.media_types import OCI_INDEX, OCI_MANIFEST
from registry.names import format_digest

CHILDREN = [hashlib.sha256(b"%d" % number).digest() for number in range(3)]
INDEX = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            {"mediaType": OCI_MANIFEST, "digest": format_digest(child), "size": 2}
            for child in CHILDREN
        ],
    }
).encode()


class Slow:
    """A registry whose index comes when the time is over; of its children it never tells."""

    def __init__(self, turns: int) -> None:
        self._turns = turns

    async def get_manifest(self, _repository: str, digest: bytes, **_how: bool) -> FetchedManifest:
        if digest in CHILDREN:
            await asyncio.Event().wait()
        time.sleep(0.02)  # noqa: ASYNC251 - a busy loop: the bound has passed before anybody can say so
        for _turn in range(self._turns):
            await asyncio.sleep(0)
        return FetchedManifest(INDEX, OCI_INDEX, digest, None)


@pytest.mark.parametrize("turns", range(8))
async def test_a_bound_that_passes_at_any_turn_of_the_loop_leaves_no_work_behind(
    turns: int,
) -> None:
    """Python complains of a coroutine that nobody awaits, in whatever test runs when it is collected."""
    image = ("acme/api", hashlib.sha256(INDEX).digest())
    check = PullCheck(cast("RegistryClient", Slow(turns)), seconds=0.01)
    pulls = await check.ask([image], frozenset())
    assert pulls[image].state == "unclear"
    gc.collect()
