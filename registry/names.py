"""The distribution grammar for repository names, tags and digests (pure).

Source: the `reference` package that CNCF Distribution uses for its routes, and what v3.0.0 was seen
to take (upper case in a domain-like first component, 255 characters, one-component names, names
such as `acme/tags/list`). A name goes into a URL, a statement or a message key only after it
matched here.
"""

import re
from binascii import unhexlify
from typing import Final

MAX_REPOSITORY_LENGTH: Final = 255
MAX_TAG_LENGTH: Final = 128

# Written without overlapping alternatives, so that a hostile name cannot make matching slow.
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN_COMPONENT = r"[a-zA-Z0-9]+(?:-+[a-zA-Z0-9]+)*"
_DOMAIN = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_match_repository = re.compile(
    rf"(?:{_DOMAIN}/)?{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*", re.ASCII
).fullmatch
_match_tag = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_TAG_LENGTH - 1}}}").fullmatch

_DIGEST_BYTES: Final = {"sha256": 32, "sha384": 48, "sha512": 64}
_DIGEST_PREFIX: Final = {size: f"{name}:" for name, size in _DIGEST_BYTES.items()}


class InvalidName(ValueError):  # noqa: N818 - says what it is, like the registry's NAME_INVALID
    """A repository name or tag outside the distribution grammar."""


class InvalidDigest(ValueError):  # noqa: N818 - like the registry's DIGEST_INVALID
    """A digest that is not `sha256:`, `sha384:` or `sha512:` and its lower-case hex."""


def check_repository(name: str) -> str:
    """Return `name` when it is a repository name. Raises InvalidName."""
    if len(name) > MAX_REPOSITORY_LENGTH:
        raise InvalidName(
            f"repository name {_shown(name)} has {len(name)} characters, "
            f"at most {MAX_REPOSITORY_LENGTH} are allowed"
        )
    if _match_repository(name) is None:
        raise InvalidName(f"repository name {_shown(name)} is outside the distribution grammar")
    return name


def check_tag(tag: str) -> str:
    """Return `tag` when it is a tag (up to 128 of letters, digits, `_`, `.`, `-`). Raises InvalidName."""
    if _match_tag(tag) is None:
        raise InvalidName(f"tag {_shown(tag)} is outside the distribution grammar")
    return tag


def parse_digest(text: str) -> bytes:
    """`algorithm:hex` as its raw bytes; their number tells the algorithm. Raises InvalidDigest."""
    # Almost every digest is sha256. `unhexlify` takes upper case too: the way back shows it.
    if len(text) == 71 and text[:7] == "sha256:":
        encoded = text[7:]
        try:
            raw = unhexlify(encoded)
        except ValueError:
            raw = b""
        if raw.hex() == encoded:
            return raw
    return _parse_other_digest(text)


def _parse_other_digest(text: str) -> bytes:
    algorithm, _, encoded = text.partition(":")
    size = _DIGEST_BYTES.get(algorithm)
    if size is None:
        raise InvalidDigest(
            f"digest {_shown(text)} does not start with {', '.join(_DIGEST_PREFIX.values())}"
        )
    if len(encoded) != 2 * size or not set(encoded) <= set("0123456789abcdef"):
        raise InvalidDigest(f"digest {_shown(text)} is not {2 * size} lower-case hex digits")
    return bytes.fromhex(encoded)


def format_digest(raw: bytes) -> str:
    """Raw digest bytes (32, 48 or 64) as `algorithm:hex`. Raises InvalidDigest for other lengths."""
    prefix = _DIGEST_PREFIX.get(len(raw))
    if prefix is None:
        raise InvalidDigest(f"a digest has 32, 48 or 64 bytes, this one {len(raw)}")
    return prefix + raw.hex()


def _shown(text: str) -> str:
    """Hostile text for a message: escaped and short."""
    return ascii(text if len(text) <= 100 else text[:100] + "…")
