"""Image names as people write them: `acme/api:1.2`, `acme/api@sha256:…`, `sha256:…`. PURE."""

import msgspec

from registry.names import InvalidDigest, InvalidName, check_repository, check_tag, parse_digest


class ImageName(msgspec.Struct, frozen=True):
    """A repository with a tag or a digest, or a digest in any repository."""

    repository: str | None
    tag: str | None = None
    digest: bytes | None = None


def parse_image_name(text: str) -> ImageName:
    """Read a name. Raises ValueError that says what a name looks like.

    A repository's name has no host here; a colon behind the last slash begins the tag.
    """
    try:
        repository, at, digest = text.partition("@")
        if at:
            return ImageName(check_repository(repository), digest=parse_digest(digest))
        if text.startswith(("sha256:", "sha384:", "sha512:")):
            return ImageName(None, digest=parse_digest(text))
        repository, colon, tag = text.rpartition(":")
        if colon and "/" not in tag:
            return ImageName(check_repository(repository), tag=check_tag(tag))
    except (InvalidName, InvalidDigest) as error:
        raise ValueError(f"no name of an image: {error}") from error
    raise ValueError("name an image as REPOSITORY:TAG, REPOSITORY@DIGEST or DIGEST")
