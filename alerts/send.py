"""One POST to somebody else's tool, and what its answer means for the next try."""

import aiohttp

from alerts.render import Delivery
from runtime.errors import text_of
from runtime.tls import advice

_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)
_REFUSED = frozenset({400, 413, 415, 422})
"""It is this event that the other side will not take, now or later."""
_LONGEST_WAIT = 300.0


class NotDeliveredError(Exception):
    """The other side did not take it. `refused`: it never will."""

    def __init__(
        self, message: str, *, refused: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.refused = refused
        self.retry_after = retry_after
        """Seconds that were asked for."""


class Sender:
    """Posts to one address."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def __call__(self, delivery: Delivery) -> None:
        """Return when the other side has it. Raises NotDeliveredError; never shows the address."""
        try:
            async with self._session.post(
                self._url,
                data=delivery.body,
                headers={"user-agent": "registry-quota", **delivery.headers},
                timeout=_TIMEOUT,
                allow_redirects=False,
            ) as response:
                if 200 <= response.status < 300:
                    return
                raise NotDeliveredError(
                    f"answered {response.status}",
                    refused=response.status in _REFUSED,
                    retry_after=_seconds(response.headers.get("Retry-After")),
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = advice(error) or text_of(error)
            raise NotDeliveredError(f"cannot be reached ({why})") from error


def _seconds(text: str | None) -> float | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return None
    return min(float(text), _LONGEST_WAIT)
