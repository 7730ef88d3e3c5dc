"""Real-shaped load from a seed: image pushes as a registry notifies them.

8 to 12 layers an image, 30 % of them shared, 20 % re-pushes, 5 % indexes, about 2 KB an event.
"""

import json
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
BLOB = "application/octet-stream"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

_SHARED_LAYERS = 200
_BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def events(
    count: int,
    *,
    seed: int,
    workspaces: int = 50,
    apps: int = 20,
    layers: tuple[int, int] = (8, 12),
) -> Iterator[dict[str, Any]]:
    """`count` push events; the same seed gives the same events. `layers`: least and most of an image."""
    chance = random.Random(seed)
    shared = [_descriptor(chance, LAYER) for _ in range(_SHARED_LAYERS)]
    recent: list[dict[str, Any]] = []
    for number in range(count):
        draw = chance.random()
        if draw < 0.20 and recent:
            target = chance.choice(recent)
        elif draw < 0.25 and len(recent) > 10:
            children = chance.sample(recent, 2)
            repository = children[0]["repository"]
            target = _target(
                chance,
                INDEX,
                repository,
                f"v{number}",
                [
                    {"mediaType": MANIFEST, "digest": child["digest"], "size": child["size"]}
                    for child in children
                ],
            )
        else:
            own = [
                chance.choice(shared) if chance.random() < 0.3 else _descriptor(chance, LAYER)
                for _ in range(chance.randint(*layers))
            ]
            repository = f"ws{chance.randrange(workspaces)}/app{chance.randrange(apps)}"
            references = [_descriptor(chance, CONFIG, 5000), *own]
            target = _target(chance, MANIFEST, repository, f"v{number}", references)
            recent.append(target)
            del recent[:-1000]
        yield _event(chance, _BEGIN + timedelta(milliseconds=number), target)


def artifacts(
    count: int, *, seed: int, workspace: str, layers: int = 2
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Images of one workspace as a client pushes them: the events of each, and the bytes it adds.

    A blob push for every layer and the config, then the manifest. Nothing is shared.
    """
    chance = random.Random(seed)
    for number in range(count):
        moment = _BEGIN + timedelta(milliseconds=number)
        repository = f"{workspace}/app{number % 20}"
        references = [_descriptor(chance, CONFIG, 5000)]
        references += [_descriptor(chance, LAYER) for _ in range(layers)]
        target = _target(chance, MANIFEST, repository, f"v{number}", references)
        blobs = [
            {**item, "mediaType": BLOB, "length": item["size"], "repository": repository}
            for item in references
        ]
        size = sum(item["size"] for item in references) + target["size"]
        yield [_event(chance, moment, item) for item in (*blobs, target)], size


def envelope(event: dict[str, Any]) -> bytes:
    """What a registry posts."""
    return json.dumps({"events": [event]}, indent=3).encode()


def _digest(chance: random.Random) -> str:
    return f"sha256:{chance.getrandbits(256):064x}"


def _descriptor(
    chance: random.Random, media_type: str, largest: int = 50_000_000
) -> dict[str, Any]:
    return {
        "mediaType": media_type,
        "digest": _digest(chance),
        "size": chance.randint(200, largest),
    }


def _target(
    chance: random.Random,
    media_type: str,
    repository: str,
    tag: str,
    references: list[dict[str, Any]],
) -> dict[str, Any]:
    digest, size = _digest(chance), chance.randint(400, 2500)
    return {
        "mediaType": media_type,
        "size": size,
        "digest": digest,
        "length": size,
        "repository": repository,
        "url": f"http://registry.example/v2/{repository}/manifests/{digest}",
        "tag": tag,
        "references": references,
    }


def _event(chance: random.Random, moment: datetime, target: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "timestamp": moment.isoformat().replace("+00:00", "Z"),
        "action": "push",
        "target": target,
        "request": {
            "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "addr": "10.0.0.7:43210",
            "host": "registry.example",
            "method": "PUT",
            "useragent": "docker/20.10",
        },
        "actor": {},
        "source": {"addr": "registry-1:5000", "instanceID": "01761f01-04ec-43e4-8575-77e152e2eb09"},
    }
