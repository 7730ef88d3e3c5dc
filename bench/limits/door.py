"""What an HTTP door of this kind costs at least: a token, JSON both ways, one statement.

`python -m bench.limits.door DATABASE_URL TOKEN PORT`: `POST /select` does `SELECT 1`, `POST /insert` one
INSERT with commit into `bench_rows`, over a pool. No validation, no deadline, no metrics, no log.
"""

import asyncio
import hmac
import json
import sys

import asyncpg
import uvloop
from aiohttp import web


async def run(url: str, token: str, port: int) -> None:
    """Serve until it is ended."""
    expected = f"Bearer {token}".encode()
    pool = await asyncpg.create_pool(url, min_size=1, max_size=4)

    async def body_of(request: web.Request) -> dict[str, object]:
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            raise web.HTTPUnauthorized
        return dict(json.loads(await request.read()))

    async def select(request: web.Request) -> web.Response:
        await body_of(request)
        return web.json_response({"found": await pool.fetchval("SELECT 1")})

    async def insert(request: web.Request) -> web.Response:
        body = await body_of(request)
        await pool.execute("INSERT INTO bench_rows VALUES ($1, $2, now())", body["n"], "note")
        return web.json_response({"kept": body["n"]})

    app = web.Application()
    app.add_routes([web.post("/select", select), web.post("/insert", insert)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def main() -> None:
    """Run it."""
    uvloop.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3])))


if __name__ == "__main__":
    main()
