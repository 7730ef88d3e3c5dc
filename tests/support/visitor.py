"""Somebody at the pages without any script: plain HTTP with a cookie."""

import re
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

from aiohttp import ClientResponse
from yarl import URL

from tests.support.live_api import OPERATOR, LiveApi

COOKIE = "rq_session"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: ClientResponse
    text: str

    def header(self, name: str) -> str:
        return self.headers.headers.get(name, "")


@dataclass
class Visitor:
    """Sends requests as a browser without scripts does."""

    api: LiveApi
    cookie: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    async def send(
        self, method: str, path: str, *, form: dict[str, str] | None = None, **headers: str
    ) -> Answer:
        sent = {
            **self.headers,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if self.cookie is not None:
            sent["Cookie"] = f"{COOKIE}={self.cookie}"
        async with self.api.session.request(
            method,
            URL(f"{self.api.base}{path}", encoded=True),
            data=form,
            headers=sent,
            allow_redirects=False,
        ) as response:
            text = await response.text()
            cookies = SimpleCookie()
            for line in response.headers.getall("Set-Cookie", []):
                cookies.load(line)
            if COOKIE in cookies:
                self.cookie = cookies[COOKIE].value or None
            return Answer(response.status, response, text)

    async def get(self, path: str, **headers: Any) -> Answer:
        return await self.send("GET", path, **headers)

    async def sign_in(self, token: str = OPERATOR, after: str = "/") -> Answer:
        return await self.send("POST", "/sign-in", form={"token": token, "next": after})

    async def csrf(self, path: str = "/") -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', (await self.get(path)).text)
        assert found is not None
        return found[1]
