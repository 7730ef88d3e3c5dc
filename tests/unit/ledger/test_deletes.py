"""A delete that only an event tells may be of a blob with the manifest's bytes."""

from itertools import permutations

import pytest

from ledger.facts import (
    BlobStored,
    DigestDeleted,
    Fact,
    ManifestDeleted,
    ManifestPushed,
    ManifestSeen,
)
from ledger.fold import Manifest, State, fold
from tests.support.histories import IMAGES, OCI_IMAGE, stamp

NAMED, _media_type, SIZE, CONTENT = IMAGES[0]
HERE = ("default", "acme/api")
KEY = (0, NAMED)


def pushed(moment: int) -> Fact:
    return ManifestPushed(*HERE, NAMED, stamp(moment), OCI_IMAGE, SIZE, "1", CONTENT)


def seen(moment: int) -> Fact:
    return ManifestSeen(*HERE, NAMED, stamp(moment), OCI_IMAGE, SIZE)


def heard(moment: int) -> Fact:
    return DigestDeleted(*HERE, NAMED, stamp(moment))


def gone(moment: int) -> Fact:
    return ManifestDeleted(*HERE, NAMED, stamp(moment))


TWIN = BlobStored(NAMED, SIZE, *HERE)


def after(*facts: Fact, unsure: bool = False) -> Manifest:
    """The manifest, and the same in every order of the facts."""
    found = []
    for order in permutations(facts):
        state = State({}, {}, unsure={0: stamp(0)[0]} if unsure else {})
        for fact in (*order, *order):
            fold(state, 0, fact)
        found.append((state.manifests[KEY], state.tags))
    assert all(item == found[0] for item in found)
    return found[0][0]


def test_a_delete_of_what_is_no_blob_counts_at_once_and_is_asked_for():
    manifest = after(pushed(1), heard(2))
    assert not manifest.present
    assert manifest.asked_for


@pytest.mark.parametrize("unsure", [False, True])
def test_a_delete_that_may_be_a_blobs_does_not_count_until_the_registry_was_asked(unsure):
    facts = [pushed(1), heard(2)] if unsure else [pushed(1), TWIN, heard(2)]
    manifest = after(*facts, unsure=unsure)
    assert manifest.present
    assert manifest.asked_for
    there = after(*facts, seen(3), unsure=unsure)
    assert (there.present, there.asked_for) == (True, False)
    missing = after(*facts, gone(2), unsure=unsure)
    assert (missing.present, missing.asked_for) == (False, False)


def test_a_delete_from_before_blobs_were_kept_counts_as_it_did():
    manifest = after(pushed(-2), heard(-1), unsure=True)
    assert not manifest.present
    assert not manifest.asked_for
    assert after(pushed(-2), heard(-1), pushed(1), heard(2), unsure=True).present


def test_the_event_of_our_own_delete_changes_nothing():
    manifest = after(pushed(1), gone(2), heard(3), TWIN)
    assert not manifest.present
    assert not manifest.asked_for


def test_a_push_that_our_own_delete_did_not_know_is_asked_for_when_the_digest_is_a_blob():
    manifest = after(pushed(1), gone(2), pushed(3), heard(4), TWIN)
    assert manifest.present
    assert manifest.asked_for


def test_a_delete_of_a_blob_that_is_no_manifest_is_nobodys_question():
    assert not after(heard(2), TWIN).asked_for
