"""The language's limit for a receiver: the smallest aiohttp handler that puts a body into Kafka.

`python -m bench.limits.receiver PORT BOOTSTRAP TOPIC`: acks=all, and nothing else: no token, no check,
no translation, no time-out, no bound on what is in flight.
"""

import sys
from collections.abc import AsyncIterator

import uvloop
from aiohttp import web
from aiokafka import AIOKafkaProducer


async def create_app(bootstrap: str, topic: str) -> web.Application:
    """A web application with one route that answers 202 once Kafka has the body."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0)

    async def connected(_app: web.Application) -> AsyncIterator[None]:
        await producer.start()
        yield
        await producer.stop()

    async def notify(request: web.Request) -> web.Response:
        await producer.send_and_wait(topic, await request.read())
        return web.Response(status=202)

    app = web.Application()
    app.router.add_post("/v1/notifications", notify)
    app.cleanup_ctx.append(connected)
    return app


def main() -> None:
    """Serve until a signal comes."""
    port, bootstrap, topic = sys.argv[1:]
    loop = uvloop.new_event_loop()
    web.run_app(
        create_app(bootstrap, topic),
        host="127.0.0.1",
        port=int(port),
        access_log=None,
        print=None,
        loop=loop,
    )


if __name__ == "__main__":
    main()
