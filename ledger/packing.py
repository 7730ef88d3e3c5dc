"""Descriptors of a manifest in one column.

A manifest's layers are kept as bytes in its own row rather than as a row each: a push writes one
row instead of ten. An entry is one byte with the digest's length, the digest, and eight bytes
(big-endian) with the size.
"""

import struct
from collections.abc import Iterable

_SIZE = struct.Struct(">q")
_ENTRY_256 = struct.Struct(">B32sq")


def pack_blobs(blobs: Iterable[tuple[bytes, int]]) -> bytes:
    """(digest, size) pairs → column value."""
    pack = _ENTRY_256.pack
    return b"".join(
        [
            pack(32, digest, size)
            if len(digest) == 32
            else bytes((len(digest),)) + digest + _SIZE.pack(size)
            for digest, size in blobs
        ]
    )


def unpack_blobs(packed: bytes) -> tuple[tuple[bytes, int], ...]:
    """Column value → (digest, size) pairs in the order of the manifest."""
    entries: list[tuple[bytes, int]] = []
    position = 0
    while position < len(packed):
        end = position + 1 + packed[position]
        entries.append((packed[position + 1 : end], _SIZE.unpack_from(packed, end)[0]))
        position = end + 8
    return tuple(entries)


def pack_digests(digests: Iterable[bytes]) -> bytes:
    """Digests → column value."""
    return b"".join(bytes((len(digest),)) + digest for digest in digests)


def unpack_digests(packed: bytes) -> tuple[bytes, ...]:
    """Column value → digests in the order of the index."""
    digests: list[bytes] = []
    position = 0
    while position < len(packed):
        end = position + 1 + packed[position]
        digests.append(packed[position + 1 : end])
        position = end
    return tuple(digests)
