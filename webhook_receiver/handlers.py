"""The route: who it is, what arrived, into Kafka, the answer of the contract's table."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final

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
from webhook_receiver.messages import Arrival, Message, Reason, translate
from webhook_receiver.metrics import ReceiverMetrics
from webhook_receiver.publisher import KafkaUnavailable
from webhook_receiver.storing import Destination, Store
from webhook_receiver.streams import Streams

log = get_logger(__name__)

PATH: Final = "/v1/notifications"

_RETRY_AFTER: Final = {"Retry-After": "1"}
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="registry-quota"'}


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
        self._store = Store(destination, metrics)
        self._streams = Streams(
            workspaces=workspaces, store=self._store, in_flight=in_flight, limits=limits
        )
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
            body = Body(data, len(data))
            storing = self._keep(body, "", Arrival(source, self._now_ns()), started)
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
        encoding = request.headers.get(hdrs.CONTENT_ENCODING, "")
        declared = request.content_length
        response = web.Response(status=202)
        may_be_large = declared is None or declared > self._limits.in_one_piece(declared)
        async with self._streams.slots if may_be_large else nullcontext():
            body = await read_body(
                request.content, declared=declared, limits=self._limits, in_flight=self._in_flight
            )
            if not body.whole:
                problem = _encoded(encoding)
                taking = self._streams.take(
                    request.content, body, arrival, declared=declared, problem=problem
                )
                del body  # nobody is to hold it longer than it is needed
                if not await taking:
                    response.force_close()
                return response
        storing = self._keep(body, encoding, arrival, started)
        del body  # as above
        await storing
        return response

    async def _keep(self, body: Body, encoding: str, arrival: Arrival, started: float) -> None:
        """Make a whole delivery durable, and count it. Raises KafkaUnavailable."""
        try:
            messages = self._messages(body.data, encoding, arrival)
        finally:
            # From here on the messages are what is held, and counted where they go.
            self._in_flight.give_back(body.charged)
            del body
        await self._store.publish(messages, arrival.source)
        self._store.acknowledged(time.monotonic() - started)

    def _messages(self, data: bytes, encoding: str, arrival: Arrival) -> list[Message]:
        """Every event of a delivery is accounted for, whatever it is."""
        if (problem := _encoded(encoding)) is not None:
            return [arrival.dead_letter(data, *problem)]
        try:
            return translate(data, arrival, self._workspaces)
        except Exception as error:
            # The same bytes would fail again and again, with everything behind them waiting.
            log.exception("translation_failed")
            return [arrival.dead_letter(data, Reason.UNTRANSLATABLE, repr(error))]

    def _unauthorized(self) -> web.Response:
        self._metrics.answered(401)
        self._refused.tell(door="receiver")
        response = web.Response(
            status=401, text="a valid bearer token is needed", headers=_CHALLENGE
        )
        response.force_close()
        return response


def _encoded(encoding: str) -> tuple[Reason, str] | None:
    """Why a body that is encoded is not taken.

    No registry compresses; a body that is not unpacked cannot be a bomb.
    """
    if encoding.strip().lower() in ("", "identity"):
        return None
    return Reason.CONTENT_ENCODING, f"Content-Encoding {encoding[:100]!a} is not taken"


def _why_again(error: Exception) -> str:
    """Why a delivery has to be sent again."""
    if isinstance(error, KafkaUnavailable | Overloaded):
        return str(error) or "too many bytes are in flight"
    # The registry keeps the event and sends it again: better than losing it.
    log.error("delivery_failed", exc_info=error)
    return "internal error"


def _answer(status: int, text: str) -> web.Response:
    """An answer other than 202. Its connection ends: part of the body may be unread."""
    headers = _RETRY_AFTER if status == 503 else None
    response = web.Response(status=status, text=text, headers=headers)
    response.force_close()
    return response
