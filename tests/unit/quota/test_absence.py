"""When the ledger may forget what the registry does not answer."""

from datetime import UTC, datetime, timedelta

import pytest

from ledger.reconcile import KnownManifest, KnownRepository, KnownTag
from quota.absence import (
    Verdict,
    missing_children,
    not_named,
    tags_to_ask,
    verdict,
)
from registry.timestamps import to_ns

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
YESTERDAY = to_ns(NOON - timedelta(days=1))


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (None, Verdict.SUSPECT),
        (NOON, Verdict.WAIT),
        (NOON - HOUR + timedelta(seconds=1), Verdict.WAIT),
        (NOON - HOUR, Verdict.FORGET),
        (NOON - 30 * HOUR, Verdict.SUSPECT),
    ],
)
def test_two_looks_an_hour_apart_with_nothing_heard_between_them(since, expected):
    assert verdict(NOON, YESTERDAY, since, confirm_now=False) is expected


def test_a_push_between_the_looks_begins_anew():
    heard = to_ns(NOON - timedelta(minutes=30))
    assert verdict(NOON, heard, NOON - 2 * HOUR, confirm_now=False) is Verdict.SUSPECT


@pytest.mark.parametrize("confirm_now", [False, True])
def test_what_was_heard_of_since_the_look_is_not_absent(confirm_now):
    for later in (NOON, NOON + timedelta(milliseconds=1)):
        judged = verdict(NOON, to_ns(later), NOON - 2 * HOUR, confirm_now=confirm_now)
        assert judged is Verdict.DOUBT


def test_a_person_who_is_sure_needs_one_look():
    assert verdict(NOON, YESTERDAY, None, confirm_now=True) is Verdict.FORGET


def known_repository() -> KnownRepository:
    def manifest(*children: bytes) -> KnownManifest:
        return KnownManifest(1, 1, "type", 10, frozenset(children))

    return KnownRepository(
        {b"image": manifest(), b"index": manifest(b"image", b"unheard"), b"untagged": manifest()},
        {"1": KnownTag(b"index", 1), "left-out": KnownTag(b"image", 1)},
        {},
    )


def test_tags_that_a_list_leaves_out_are_asked_for_all_the_same():
    assert tags_to_ask(known_repository(), {"1", "new"}) == ["1", "left-out", "new"]


def test_what_no_tag_names_is_asked_for_by_digest():
    assert not_named(known_repository(), {b"index"}) == [b"image", b"untagged"]


def test_children_that_the_ledger_does_not_have_are_missing():
    assert missing_children(known_repository(), {b"index", b"image", b"else"}) == {b"unheard"}
