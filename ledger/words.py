"""Whose word a size is: storage's own outweighs what an event tells of it. PURE.

An event's word is anybody's who has a webhook token. What the registry answered when it was asked is
better than any of them, and the newest of its answers counts; an event of the registry that is asked is
better than one of another. So of each digest one word is enough, the greatest, in whatever order they
come. An event's word that contradicts what manifests say, or another word, is asked about.
"""

from collections.abc import Iterable
from typing import Final

from ledger.facts import BlobStored
from runtime.settings import DEFAULT_REGISTRY

Word = tuple[int, int, int]
"""(whose it is, when it was asked for: nanoseconds or -1, bytes); the greater one counts."""

ELSEWHERE: Final = 0
"""An event of a registry that cannot be asked."""
TOLD: Final = 1
"""An event of the registry that is asked. Also what an earlier release kept, whoever said it."""
ASKED: Final = 2
"""The registry's answer to us."""


def word_of(fact: BlobStored) -> Word:
    """What a fact says of a size, and whose word that is."""
    if not fact.registry:
        return (ASKED, fact.asked_ns, fact.size)
    return (TOLD if fact.registry == DEFAULT_REGISTRY else ELSEWHERE, -1, fact.size)


def greatest(facts: Iterable[BlobStored]) -> dict[bytes, Word]:
    """Digest → the word that counts among some facts."""
    words: dict[bytes, Word] = {}
    for fact in facts:
        word = word_of(fact)
        known = words.get(fact.digest)
        if known is None or word > known:
            words[fact.digest] = word
    return words
