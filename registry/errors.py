"""What can go wrong in talking to a registry, split by what the caller does next.

The docstring of a class is its default message. `date` is the registry's own clock in the answer
(aware, UTC), where there was an answer that told it.
"""

# ruff: noqa: N818 - they are named by what the caller learns: not found, denied, unavailable

import inspect
from datetime import datetime


class RegistryError(Exception):
    """The registry did not do what was asked of it."""

    retriable = False
    """Whether the same request may well succeed later without anybody doing anything."""

    def __init__(self, message: str = "", *, date: datetime | None = None) -> None:
        super().__init__(message or " ".join((inspect.getdoc(type(self)) or "").split()))
        self.date = date


class RegistryUnavailable(RegistryError):
    """The registry cannot be reached or is failing. Try again later."""

    retriable = True

    def __init__(
        self, message: str = "", *, date: datetime | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, date=date)
        self.retry_after = retry_after
        """Seconds that the registry asked to be left alone, if it did."""


class WrongContent(RegistryError):
    """What arrived is not what was asked for: another digest, cut short, too large, not JSON.

    Nothing of it may be used. Try again later; one that is too large stays too large.
    """

    retriable = True


class TooLarge(WrongContent):
    """The content is larger than anything that we are willing to read."""

    retriable = False


class NotFound(RegistryError):
    """The registry says that this does not exist."""


class RegistryDenied(RegistryError):
    """The registry refuses us: credentials are missing or wrong, lack rights, or it is read-only.

    Stop and tell a person.
    """


class WrongRealm(RegistryDenied):
    """The registry sends us for a token to where ours cannot be asked for. No other password mends it."""


class DeletesDisabled(RegistryError):
    """The registry does not delete.

    Set `storage.delete.enabled: true` there; a pull-through cache and a registry in read-only mode
    never delete. Stop and tell a person.
    """


class RegistryRefused(RegistryError):
    """The registry cannot do this, now or later: it does not support it, or the request is wrong."""


class PullThroughCache(RegistryError):
    """The registry is a pull-through cache: every look at something there, a HEAD too, downloads it
    from its upstream.

    It is not walked through, and nothing of it is deleted: it forgets by itself (`proxy.ttl`). Set
    RQ_REGISTRY_PULL_THROUGH=true to have counted what its clients pull.
    """


KNOWN_CACHE = (
    "The registry is a pull-through cache, as RQ_REGISTRY_PULL_THROUGH says: it is not walked through, and "
    "nothing of it is deleted."
)
"""Of a `PullThroughCache` that nobody has to be told of: there is nothing to mend."""


class PerhapsACache(PullThroughCache):
    """Whether the registry is a pull-through cache, which downloads all that is looked at, is not known:
    the account may neither delete nor push in `registry-quota/doctor`, and no push was ever heard of.

    So it is not walked through. Give the account these rights, or set RQ_REGISTRY_PULL_THROUGH to false
    (or to true, if it is one).
    """


class SentElsewhere(RegistryRefused):
    """The registry answers with a redirect to a host that is not allowed.

    Its blobs are in object storage; RQ_REGISTRY_REDIRECT_HOSTS says whom to follow.
    """

    def __init__(self, message: str = "", *, date: datetime | None = None, host: str = "") -> None:
        super().__init__(message, date=date)
        self.host = host
        """Where to, as the setting would name it."""


class BadRegistryUrl(ValueError):
    """The registry's address cannot be used as a base URL. The message says what to write."""
