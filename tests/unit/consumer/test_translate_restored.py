"""What we put back exists again and was not pushed anew."""

from consumer.translate import facts_of
from ledger.facts import ManifestPushed, ManifestSeen
from registry.client import USER_AGENT
from registry.media_types import OCI_MANIFEST
from registry.models import RESTORING_SUFFIX, Notification


def pushed_by(user_agent: str):
    notification = Notification(
        id="6f4e3c8a-3b7e-4b7b-9d5e-0d2f1a0c9b11",
        action="push",
        timestamp_ns=5,
        repository="acme/api",
        digest=bytes(32),
        media_type=OCI_MANIFEST,
        size=10,
        tag="1",
        user_agent=user_agent,
    )
    return facts_of("default", notification)


def test_a_push_that_puts_back_is_a_look():
    assert isinstance(pushed_by(USER_AGENT + RESTORING_SUFFIX), ManifestSeen)


def test_every_other_push_is_one_also_our_own():
    for agent in ("docker/27", USER_AGENT, "somebody" + RESTORING_SUFFIX):
        assert isinstance(pushed_by(agent), ManifestPushed)
