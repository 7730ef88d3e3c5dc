"""Templates → answers. Everything from outside is escaped; nothing but our own files may run or style."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from aiohttp import hdrs, web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from quota.pages.assets import Assets
from quota.pages.warning import warning
from quota.reasons import KEPT_AS
from quota.words import format_bytes, format_seconds, plural
from runtime.figures import in_utc, percent

# Only files of ours: no inline script or style, no frame, no other host.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    hdrs.CACHE_CONTROL: "no-store",
    hdrs.VARY: "Cookie, HX-Request",
}
_IN_BACKTICKS: Final = re.compile(r"`([^`]*)`")
_EVENT_PREFIX: Final = "io.registryquota."


class Renderer:
    """Knows the templates."""

    def __init__(self, assets: Assets) -> None:
        self._environment = Environment(
            loader=PackageLoader(__package__),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "size": format_bytes,
            "moment": _moment,
            "iso": _iso,
            "clock": _clock,
            "commands": _commands,
            "segment": _segment,
            "short_digest": _short_digest,
            "event_name": _event_name,
            "thousands": "{:,}".format,
        }
        self._environment.globals |= {
            "asset": assets.url,
            "percent": percent,
            "warning": warning,
            "plural": plural,
            "format_seconds": format_seconds,
            "query": _query,
            "kept_as": KEPT_AS,
        }

    def text(self, template: str, **values: Any) -> str:
        """HTML."""
        return self._environment.get_template(template).render(values)

    def part(self, template: str, block: str, **values: Any) -> str:
        """HTML of one macro-free block of a page: what htmx puts in its place."""
        loaded = self._environment.get_template(template)
        context = loaded.new_context(values)
        return "".join(loaded.blocks[block](context))

    def page(self, template: str, *, status: int = 200, **values: Any) -> web.Response:
        """An answer with a page."""
        return html(self.text(template, **values), status=status)


def html(text: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer with HTML and the headers that bound what it may do."""
    return web.Response(
        status=status,
        text=text,
        content_type="text/html",
        charset="utf-8",
        headers={**HEADERS, **(headers or {})},
    )


def workspace_path(name: str, *rest: str) -> str:
    """The address of a workspace's page, or of one below it."""
    return "/".join(["/workspaces", *(quote(part, safe="") for part in (name, *rest))])


def _segment(text: str) -> str:
    return quote(text, safe="")


def _query(values: Mapping[str, Any], **changes: Any) -> str:
    """A query string of what is set: `?…`, or nothing."""
    merged = {key: value for key, value in {**values, **changes}.items() if value not in (None, "")}
    return f"?{urlencode(merged)}" if merged else "?"


def _utc(value: datetime | str) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.astimezone(UTC)


def _moment(value: datetime | str | None) -> str:
    """A moment for people, in UTC (the page's foot says so)."""
    return "" if value is None else in_utc(value)


def _clock(value: datetime | str) -> str:
    """A moment of today, to the second."""
    return _utc(value).strftime("%H:%M:%S")


def _commands(text: str) -> Markup:
    """Escaped; what stands in backticks is a command or a setting."""
    return Markup(_IN_BACKTICKS.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def _iso(value: datetime | str) -> str:
    return _utc(value).strftime("%Y-%m-%dT%H:%M:%SZ")


def _short_digest(digest: str) -> str:
    algorithm, _, rest = digest.partition(":")
    return f"{algorithm}:{rest[:12]}…" if len(rest) > 12 else digest


def _event_name(name: str) -> str:
    """`io.registryquota.image.recorded.v1` → `image recorded`."""
    return name.removeprefix(_EVENT_PREFIX).rsplit(".v", 1)[0].replace(".", " ").replace("_", " ")
