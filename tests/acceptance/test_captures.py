"""Every captured scenario, delivered to the running system: the account equals the registry's truth.

Each scenario gets names of its own in front of its workspaces, so that all of them fit into one
ledger. Delivered in order, and shuffled with duplicates.
"""

import json
import random

import pytest

from tests.support.captures import Capture, captures_or_skip

# Known from the registry alone: events were lost, or garbage collection emits nothing.
NOT_TOLD_BY_EVENTS = {"queue_lost_on_restart", "garbage_collect"}


def renamed(name: str, prefix: str) -> str:
    """A name of this scenario's own; the longest legal one is cut to stay legal."""
    return f"{prefix}-{name}"[:255].rstrip("-._/")


def bodies(capture: Capture, prefix: str) -> list[bytes]:
    """The scenario's deliveries with its repositories renamed."""
    found = []
    for delivery in capture.deliveries():
        envelope = json.loads(delivery.body)
        for event in envelope["events"]:
            for field in ("repository", "fromRepository"):
                if event["target"].get(field):
                    event["target"][field] = renamed(event["target"][field], prefix)
        found.append(json.dumps(envelope, indent=3).encode())
    return found


@pytest.mark.parametrize("mode", ["in-order", "shuffled"])
async def test_every_scenario_ends_in_its_truth(system2, mode):
    captures = [
        capture
        for capture in captures_or_skip()
        if capture.has_references and capture.scenario not in NOT_TOLD_BY_EVENTS
    ]
    prefixes = {str(capture): f"{mode[0]}{number}" for number, capture in enumerate(captures)}
    chance = random.Random(4711)
    deliveries: list[bytes] = []
    for capture in captures:
        scenario = bodies(capture, prefixes[str(capture)])
        if mode == "shuffled":
            scenario = [body for body in scenario for _ in range(chance.randint(1, 3))]
        deliveries += scenario
    if mode == "shuffled":
        chance.shuffle(deliveries)
    await system2.notify_all(deliveries, at_once=1 if mode == "in-order" else 16)
    await system2.settled()

    single = await system2.images("_")
    wrong = {}
    for capture in captures:
        expected, found = await compare(system2, capture, prefixes[str(capture)], single)
        if expected != found:
            wrong[str(capture)] = (expected, found)
    assert not wrong


async def compare(system, capture, prefix, single):
    """(truth, account) of one scenario: tags → digest by repository, bytes by workspace."""
    truth = capture.truth()
    names = {name: renamed(name, prefix) for name in truth["repositories"]}
    expected_tags = {
        names[name]: item["tags"] for name, item in truth["repositories"].items() if item["tags"]
    }
    expected_bytes = {
        renamed(name, prefix): item["bytes"]["c_workspace_dedup_all"]
        for name, item in truth["workspaces"].items()
        if name not in truth["repositories"]  # a name of one component counts in workspace `_`
    }
    found_tags: dict[str, dict[str, str]] = {}
    found_bytes = {}
    images = [item for item in single if item["repository"] in names.values()]
    for workspace, size in expected_bytes.items():
        found_bytes[workspace] = await system.usage(workspace)
        if size:
            images += await system.images(workspace)
    for item in images:
        for tag in item["tags"]:
            found_tags.setdefault(item["repository"], {})[tag] = item["digest"]
    return (expected_tags, expected_bytes), (found_tags, found_bytes)
