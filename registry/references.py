"""Image references as people, kubectl and container runtimes write them. PURE."""

import re

from registry.names import InvalidDigest, parse_digest

# `docker-pullable://`, `docker://`, `containerd://`: how a runtime marks what it runs.
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://")
_BETWEEN = re.compile(r"[\s,\"'\[\]]+")


def split_references(text: str) -> list[str]:
    """The references in a text: between white space, commas, quotes and brackets."""
    return [part for part in _BETWEEN.split(text) if part]


def digest_of(reference: str) -> bytes | None:
    """The digest that a reference names (`sha256:…`, `repository@sha256:…`); None: only a tag.

    Raises InvalidDigest for what looks like a digest and is none.
    """
    bare = _SCHEME.sub("", reference)
    _name, at, digest = bare.rpartition("@")
    if not at and not bare.startswith(("sha256:", "sha384:", "sha512:")):
        return None
    try:
        return parse_digest(digest)
    except InvalidDigest as error:
        raise InvalidDigest(f"{reference[:120]!a}: {error}") from None
