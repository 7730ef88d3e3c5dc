"""A pull says that something is used; in a pull-through cache, that it is stored."""

import json

from consumer.translate import facts_of
from ledger.facts import BlobStored, ManifestPulled, ManifestPushed, ManifestSeen
from registry.media_types import BLOB
from registry.models import OWN_USER_AGENT_PREFIX
from registry.notifications import decode_event
from tests.support.deliveries import event


def told(
    *,
    pull_through: bool,
    agent: str = "docker/28",
    action: str = "pull",
    method: str = "GET",
    **target,
):
    one = event(action=action, **target)
    one["request"] |= {"useragent": agent, "method": method}
    return facts_of("default", decode_event(json.dumps(one).encode()), pull_through=pull_through)


def test_a_pull_is_a_use_of_what_an_ordinary_registry_holds():
    assert isinstance(told(pull_through=False), ManifestPulled)
    assert told(pull_through=False, mediaType=BLOB) is None
    assert told(pull_through=False, agent=OWN_USER_AGENT_PREFIX + "1") is None


def test_a_pull_from_a_cache_stores_whoever_it_is_by():
    for agent in ("docker/28", OWN_USER_AGENT_PREFIX + "1"):
        fact = told(pull_through=True, agent=agent)
        assert isinstance(fact, ManifestSeen)
        assert (fact.tag, fact.size, fact.created_ns) == ("1.0", 349, None)
        assert fact.content is not None
        assert len(fact.content.blobs) == 1
        blob = told(pull_through=True, agent=agent, mediaType=BLOB, size=7)
        assert isinstance(blob, BlobStored)
        assert blob.size == 7


def test_a_look_at_a_cache_stores_no_layer():
    assert told(pull_through=True, method="HEAD") is None


def test_a_push_is_a_push_everywhere():
    assert isinstance(told(pull_through=True, action="push"), ManifestPushed)
