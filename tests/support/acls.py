"""Rights in Kafka, from the lines of a page that call `kafka-acls.sh`."""

import argparse
import shlex
from collections.abc import Iterable, Iterator

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest

from runtime.kafka import connection_options
from runtime.settings import Settings

Right = tuple[str, str, str, str]
"""(user, operation, kind of resource, its name)."""

_OPERATIONS = {
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Describe": 8,
    "DescribeConfigs": 10,
}
_RESOURCES = {"topic": 2, "group": 3}
_LITERAL, _ALLOW = 3, 3


def rights(script: str) -> Iterator[Right]:
    """What the lines that begin with `allow` give."""
    parser = argparse.ArgumentParser(exit_on_error=True)
    parser.add_argument("user")
    for name in ("operation", *_RESOURCES):
        parser.add_argument(f"--{name}", action="append", default=[])
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["allow"]:
            continue
        given = parser.parse_args(words[1:])
        for operation in given.operation:
            for kind in _RESOURCES:
                for resource in getattr(given, kind):
                    yield given.user, operation, kind, resource


async def allow(settings: Settings, wanted: Iterable[Right]) -> None:
    """Give these rights, as who may do that."""
    admin = AIOKafkaAdminClient(**connection_options(settings))
    await admin.start()
    try:
        client: AIOKafkaClient = admin._client
        for user, operation, kind, resource in wanted:
            answer = await client.send(
                client.get_random_node(),
                CreateAclsRequest(
                    _RESOURCES[kind],
                    resource,
                    _LITERAL,
                    f"User:{user}",
                    "*",
                    _OPERATIONS[operation],
                    _ALLOW,
                ),
            )
            assert [entry[0] for entry in answer.creation_responses] == [0], answer
    finally:
        await admin.close()
