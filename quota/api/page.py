"""The reference for people: one page without scripts, written from the two documents."""

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:62rem;padding:1rem}
h2{border-bottom:1px solid var(--line);margin-top:2.5rem}
details{border:1px solid var(--line);border-radius:.4rem;margin:.5rem 0}
summary{cursor:pointer;padding:.5rem .8rem}
details>div{padding:0 .8rem .8rem}
code,pre{font:14px/1.45 ui-monospace,monospace}
pre{background:var(--soft);overflow:auto;padding:.6rem;border-radius:.4rem}
.method{display:inline-block;font-weight:700;min-width:4.2rem}
.scope{border:1px solid var(--line);border-radius:1rem;font-size:.85rem;padding:0 .6rem;float:right}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
"""


def reference_page(openapi: Mapping[str, Any], asyncapi: Mapping[str, Any]) -> str:
    """HTML of every operation, shape and event."""
    title = f"{openapi['info']['title']} {openapi['info']['version']}"
    return "".join(
        (
            "<!doctype html><html lang=en><meta charset=utf-8>",
            "<meta name=viewport content='width=device-width,initial-scale=1'>",
            f"<title>{escape(title)}</title><style>{_STYLE}</style><main><h1>{escape(title)}</h1>",
            *(f"<p>{_text(part)}</p>" for part in openapi["info"]["description"].split("\n\n")),
            "<p>For programs: <a href=/openapi.json>OpenAPI 3.1</a>, ",
            "<a href=/asyncapi.json>AsyncAPI 3</a>.</p>",
            *_operations(openapi),
            "<h2 id=shapes>Shapes</h2>",
            *(_shape(name, item) for name, item in openapi["components"]["schemas"].items()),
            "<h2 id=events>Topics</h2>",
            *_topics(asyncapi),
            "</main></html>",
        )
    )


def _operations(openapi: Mapping[str, Any]) -> Iterable[str]:
    groups: dict[str, list[str]] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            text = _operation(method.upper(), path, operation)
            groups.setdefault(operation["tags"][0], []).append(text)
    for group, texts in groups.items():
        yield f"<h2 id='{escape(group)}'>{escape(group.capitalize())}</h2>"
        yield from texts


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    scope = operation["x-scope"] or "open"
    parts = [
        f"<details id='{escape(operation['operationId'])}'><summary>",
        f"<span class=scope>{escape(scope)}</span><span class=method>{method}</span>",
        f"<code>{escape(path)}</code><br>{_text(operation['summary'])}</summary><div>",
        f"<p>{_text(operation['description'])}</p>",
    ]
    if operation.get("parameters"):
        rows = "".join(
            f"<tr><td><code>{escape(item['name'])}</code><td>{escape(item['in'])}"
            f"<td>{_text(item.get('description', ''))}<td>{_schema(item['schema'])}"
            for item in operation["parameters"]
        )
        parts.append(f"<table><tr><th>parameter<th>in<th><th>{rows}</table>")
    if "requestBody" in operation:
        parts.append(f"<p>Body: {_contents(operation['requestBody'])}</p>")
    answers = "".join(
        f"<tr><td>{status}<td>{escape(item['description'])}<td>{_contents(item)}"
        for status, item in operation["responses"].items()
    )
    parts.append(f"<table><tr><th>answer<th><th>{answers}</table></div></details>")
    return "".join(parts)


def _contents(holder: Mapping[str, Any]) -> str:
    return " ".join(
        f"{_schema(item['schema'])} <small>{escape(kind)}</small>"
        for kind, item in holder.get("content", {}).items()
    )


def _schema(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f"<a href='#shape-{name}'>{name}</a>"
    if schema.get("type") == "array" and "$ref" in schema.get("items", {}):
        return f"list of {_schema(schema['items'])}"
    return f"<code>{escape(json.dumps(schema))}</code>"


def _shape(name: str, schema: Mapping[str, Any]) -> str:
    return (
        f"<details id='shape-{escape(name)}'><summary><code>{escape(name)}</code> "
        f"{_text(schema.get('description', ''))}</summary><div>{_json(schema)}</div></details>"
    )


def _topics(asyncapi: Mapping[str, Any]) -> Iterable[str]:
    for channel in asyncapi["channels"].values():
        yield f"<h3><code>{escape(channel['address'])}</code></h3>"
        yield f"<p>{_text(channel['description'])}</p>"
        for name in channel["messages"]:
            message = asyncapi["components"]["messages"][name]
            yield f"<details><summary><code>{escape(message['name'])}</code> "
            yield f"{_text(message['title'])}</summary><div>{_json(message)}</div></details>"


def _json(document: Any) -> str:
    return f"<pre>{escape(json.dumps(document, indent=2, ensure_ascii=False))}</pre>"


def _text(text: str) -> str:
    """Words with `code` in them."""
    pieces = escape(text).split("`")
    return "".join(
        f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces)
    )
