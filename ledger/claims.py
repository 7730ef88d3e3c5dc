"""What a platform says of an image before anybody has read it: its size, as one number. PURE.

A claim stands where the manifest's content will stand: a single pseudo blob of the claimed size, so that
every count treats it like anything else that is declared. Whatever the registry says replaces it.
"""

import hashlib

from ledger.facts import Content, Stamp

_MARK = b"\x00what-is-claimed"
"""16 bytes; with a SHA-256 behind them as long as a sha384 digest, which none begins like."""


def claimed(digest: bytes, size: int, stamp: Stamp) -> Content | None:
    """The content of a manifest of which only a size in bytes is told; 0 tells nothing."""
    if size <= 0:
        return None
    return Content(blobs=((_pseudo_blob(digest), size),), claimed_ns=stamp[0])


def is_pseudo_blob(digest: bytes) -> bool:
    """Whether a digest stands for a claim: no registry has it."""
    return digest.startswith(_MARK)


def better(new: Content, known: Content | None) -> bool:
    """Whether a content says more than what is known; the same for every order of arrival.

    A fetched and verified document knows more than an event's references, these more than a claim,
    and a later claim replaces an earlier one. Of two that know as much the newer rules of reading count.
    """
    return known is None or (new != known and _knowledge(new) > _knowledge(known))


def _knowledge(content: Content) -> tuple[object, ...]:
    return (
        content.claimed_ns < 0,
        content.claimed_ns,
        content.subject_known,
        content.rules,
        content.blobs,
        content.children,
        content.config_media_type,
        content.artifact_type,
        content.subject or b"",
    )


def _pseudo_blob(digest: bytes) -> bytes:
    return _MARK + hashlib.sha256(digest).digest()
