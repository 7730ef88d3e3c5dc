"""What we put back was not pushed anew, and nobody can say so of a push of theirs."""

from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from consumer.translate import facts_of
from ledger.facts import ManifestPushed, ManifestSeen
from registry.client import USER_AGENT
from registry.marks import OwnMarks, restoring
from registry.media_types import OCI_MANIFEST
from registry.models import Notification

KEY = b"k" * 32
SINCE = 1_000
MARKS = OwnMarks(KEY, SINCE)
RUN = UUID(int=7)
REPOSITORY, DIGEST = "acme/api", bytes(32)


def pushed_by(user_agent: str, *, arrived_ns: int | None = SINCE, marks: OwnMarks | None = MARKS):
    notification = Notification(
        id="6f4e3c8a-3b7e-4b7b-9d5e-0d2f1a0c9b11",
        action="push",
        timestamp_ns=5,
        repository=REPOSITORY,
        digest=DIGEST,
        media_type=OCI_MANIFEST,
        size=10,
        tag="1",
        user_agent=user_agent,
    )
    return facts_of("default", notification, arrived_ns=arrived_ns, own=marks)


def test_a_push_that_puts_back_is_a_look():
    agent = restoring(USER_AGENT, KEY, REPOSITORY, DIGEST, RUN)
    assert isinstance(pushed_by(agent), ManifestSeen)
    assert isinstance(pushed_by(agent, arrived_ns=None), ManifestSeen)
    assert isinstance(pushed_by(agent, marks=None), ManifestPushed)


@given(
    key=st.just(KEY) | st.binary(min_size=32, max_size=32),
    repository=st.sampled_from((REPOSITORY, "acme/other", "acme", "acme/ap")),
    digest=st.sampled_from((DIGEST, bytes(31) + b"\1", bytes(48))),
    run=st.sampled_from((RUN, UUID(int=8))),
    claimed=st.sampled_from((RUN, UUID(int=8))),
)
def test_a_mark_proves_nothing_but_what_it_was_made_for(key, repository, digest, run, claimed):
    agent = restoring(USER_AGENT, key, repository, digest, run).replace(run.hex, claimed.hex)
    ours = (key, repository, digest, run) == (KEY, REPOSITORY, DIGEST, claimed)
    assert isinstance(pushed_by(agent), ManifestSeen if ours else ManifestPushed)


@given(words=st.text(max_size=80))
@example(words=" (restore)")
@example(words=" (restore " + "0" * 32 + ")")
@example(words=" (restore " + "0" * 32 + " " + "0" * 32 + ")")
@example(words=" (restore x) (restore)")
def test_no_words_make_a_push_ours(words):
    for agent in (USER_AGENT + words, "registry-quota/1" + words, words, "docker/27" + words):
        assert isinstance(pushed_by(agent), ManifestPushed)


def test_what_arrived_before_there_were_marks_is_told_by_its_words():
    agent = USER_AGENT + " (restore)"
    assert isinstance(pushed_by(agent, arrived_ns=SINCE - 1), ManifestSeen)
    assert isinstance(pushed_by(agent, arrived_ns=SINCE), ManifestPushed)
    assert isinstance(pushed_by(agent, arrived_ns=None), ManifestPushed)
    # Marked by the key of a database that was put back to a day before it had one.
    other = restoring(USER_AGENT, b"x" * 32, REPOSITORY, DIGEST, RUN)
    assert isinstance(pushed_by(other, arrived_ns=SINCE - 1), ManifestSeen)
    assert isinstance(pushed_by("docker/27 (restore)", arrived_ns=SINCE - 1), ManifestPushed)
