"""Who may deliver: bearer tokens, several at a time for rotation (pure)."""

import hmac
from collections.abc import Mapping, Sequence


class Tokens:
    """The active tokens and the registry that each stands for."""

    def __init__(self, registries: Mapping[str, str]) -> None:
        """Take token → registry id. Raises ValueError without a token or with an empty one."""
        if not registries or not all(registries):
            raise ValueError("the receiver needs at least one token, and none may be empty")
        self._tokens = [(token.encode(), registry) for token, registry in registries.items()]

    def registry_of(self, authorization: Sequence[str]) -> str | None:
        """The registry id that the `Authorization` headers prove, None when they prove none.

        Exactly one header is taken: of two, a proxy before us may have checked the other one. The
        scheme's case and the spaces around the token do not matter (RFC 9110, 11.1). Every token
        is compared in constant time and none is skipped, so that the time says nothing about which
        one was nearly right.
        """
        if len(authorization) != 1:
            return None
        scheme, _, given = authorization[0].strip(" \t").partition(" ")
        # aiohttp hands bytes outside UTF-8 over as surrogates.
        token = given.strip(" \t").encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not token:
            return None
        found = None
        for active, registry in self._tokens:
            if hmac.compare_digest(active, token):
                found = registry
        return found
