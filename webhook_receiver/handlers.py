"""The route: who it is, what arrived, into Kafka, the answer of the contract's table."""

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from aiohttp import HttpVersion11, hdrs, web

from registry.workspaces import WorkspaceRule
from runtime.logs import Sparingly, get_logger
from runtime.tracing import traceparent
from webhook_receiver.auth import Tokens
from webhook_receiver.body import (
    Body,
    BodyTimeout,
    Incomplete,
    Limits,
    Overloaded,
    read_body,
)
from webhook_receiver.in_flight import InFlight
from webhook_receiver.messages import EXCERPT_BYTES, Arrival, Message, Reason, translate
from webhook_receiver.metrics import ReceiverMetrics
from webhook_receiver.publisher import KafkaUnavailable

log = get_logger(__name__)

PATH: Final = "/v1/notifications"

_RETRY_AFTER: Final = {"Retry-After": "1"}
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="registry-quota"'}
_MOST_LINES: Final = 10
"""Dead letters of one delivery that have a line each."""


class Destination(Protocol):
    """Where messages become durable (`publisher.Publisher`)."""

    async def publish(self, messages: Sequence[Message]) -> list[Message]:
        """Return what was stored. Raises KafkaUnavailable."""


class Receiver:
    """`POST /v1/notifications`."""

    def __init__(
        self,
        *,
        tokens: Tokens,
        workspaces: WorkspaceRule,
        destination: Destination,
        in_flight: InFlight,
        limits: Limits,
        metrics: ReceiverMetrics,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._tokens = tokens
        self._workspaces = workspaces
        self._destination = destination
        self._in_flight = in_flight
        self._limits = limits
        self._metrics = metrics
        self._now_ns = now_ns
        self._refused = Sparingly(log, "token_refused")

    async def notify(self, request: web.Request) -> web.Response:
        """Answer a delivery; nothing is answered 500."""
        started = time.monotonic()
        source = self._tokens.registry_of(request.headers.getall(hdrs.AUTHORIZATION, ()))
        if source is None:
            return self._unauthorized()
        try:
            response = await self._deliver(request, source, started)
        except BodyTimeout:
            response = _answer(408, "the body did not arrive in time")
        except Incomplete:
            response = _answer(400, "the body is incomplete")
        except Exception as error:  # noqa: BLE001 - all of it is told
            response = _answer(503, _why_again(error))
        self._metrics.answered(response.status)
        return response

    async def take(self, data: bytes, source: str) -> str | None:
        """Take the whole body of a delivery from a registry that may deliver (`front`).

        None when it is stored, else why it has to be sent again.
        """
        started = time.monotonic()
        problem = None
        if not self._in_flight.take(len(data)):
            problem = _why_again(Overloaded())
        else:
            body = Body(data, len(data), len(data))
            storing = self._store(body, "", Arrival(source, self._now_ns()), started)
            del data, body  # nobody is to hold it longer than its messages need
            try:
                await storing
            except Exception as error:  # noqa: BLE001 - all of it is told
                problem = _why_again(error)
        self._metrics.answered(202 if problem is None else 503)
        return problem

    async def expect(self, request: web.Request) -> web.Response | None:
        """`Expect: 100-continue`: a body is asked for only from those who may send one."""
        authorization = request.headers.getall(hdrs.AUTHORIZATION, ())
        if self._tokens.registry_of(authorization) is None:
            return self._unauthorized()
        if request.version == HttpVersion11 and (
            request.headers[hdrs.EXPECT].lower() == "100-continue"
        ):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    async def _deliver(self, request: web.Request, source: str, started: float) -> web.Response:
        arrival = Arrival(source, self._now_ns(), traceparent())
        body = await read_body(
            request.content,
            declared=request.content_length,
            limits=self._limits,
            in_flight=self._in_flight,
        )
        all_was_read = body.ended
        storing = self._store(
            body, request.headers.get(hdrs.CONTENT_ENCODING, ""), arrival, started
        )
        del body  # as above
        await storing
        response = web.Response(status=202)
        if not all_was_read:
            response.force_close()
        return response

    async def _store(self, body: Body, encoding: str, arrival: Arrival, started: float) -> None:
        """Make a delivery durable, and count it. Raises KafkaUnavailable."""
        try:
            messages = self._messages(body, encoding, arrival)
        finally:
            # From here on the messages are what is held, and counted where they go.
            self._in_flight.give_back(body.charged)
            del body
        stored = await self._destination.publish(messages)
        self._metrics.acknowledged(stored, time.monotonic() - started)
        if dead := [message for message in stored if message.is_dead_letter]:
            _tell(dead, arrival.source)

    def _messages(self, body: Body, encoding: str, arrival: Arrival) -> list[Message]:
        """Every event of a delivery is accounted for, whatever it is."""
        if body.too_large:
            seen = f"{body.seen} bytes" if body.ended else f"at least {body.seen} bytes"
            why = f"a body of {seen}, at most {self._limits.max_bytes} are taken: the first "
            why += f"{min(EXCERPT_BYTES, len(body.data))} are here"
            return [arrival.dead_letter(body.data, Reason.BODY_TOO_LARGE, why)]
        if encoding.strip().lower() not in ("", "identity"):
            # No registry compresses; a body that is not unpacked cannot be a bomb.
            why = f"Content-Encoding {encoding[:100]!a} is not taken"
            return [arrival.dead_letter(body.data, Reason.CONTENT_ENCODING, why)]
        try:
            return translate(body.data, arrival, self._workspaces)
        except Exception as error:
            # The same bytes would fail again and again, with everything behind them waiting.
            log.exception("translation_failed")
            return [arrival.dead_letter(body.data, Reason.UNTRANSLATABLE, repr(error))]

    def _unauthorized(self) -> web.Response:
        self._metrics.answered(401)
        self._refused.tell(door="receiver")
        response = web.Response(
            status=401, text="a valid bearer token is needed", headers=_CHALLENGE
        )
        response.force_close()
        return response


def _why_again(error: Exception) -> str:
    """Why a delivery has to be sent again."""
    if isinstance(error, KafkaUnavailable | Overloaded):
        return str(error) or "too many bytes are in flight"
    # The registry keeps the event and sends it again: better than losing it.
    log.error("delivery_failed", exc_info=error)
    return "internal error"


def _tell(dead: Sequence[Message], source: str) -> None:
    for letter in dead[:_MOST_LINES]:
        log.warning(
            "dead_letter",
            kind=letter.label,
            reason=dict(letter.headers)["reason"].decode("utf-8", "replace"),
            workspace=(letter.key or b"").decode("utf-8", "replace"),
            source=source,
        )
    if len(dead) > _MOST_LINES:
        log.warning("dead_letters", more=len(dead) - _MOST_LINES, source=source)


def _answer(status: int, text: str) -> web.Response:
    """An answer other than 202. Its connection ends: part of the body may be unread."""
    headers = _RETRY_AFTER if status == 503 else None
    response = web.Response(status=status, text=text, headers=headers)
    response.force_close()
    return response
