"""The AsyncAPI 3 document of the three topics, from the events' models."""

from importlib.metadata import version
from typing import Any

from quota.events import DATA, event_schema
from runtime.kafka import DEAD_LETTER_TOPIC, NOTIFICATIONS_TOPIC, QUOTA_EVENTS_TOPIC

_JSON_SCHEMA = "application/schema+json;version=draft-2020-12"
_TEXT = {"type": "string"}
_KEY = {"type": "string", "description": "The workspace."}


_TRACEPARENT = "W3C trace context, when traces are on."


def _headers(**described: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            name.replace("_", "-"): {"type": "string", "description": text}
            for name, text in described.items()
        },
    }


def _notification() -> dict[str, Any]:
    return {
        "name": "notification",
        "title": "One event, as the registry sent it",
        "contentType": "application/json",
        "headers": _headers(
            received_at="When it arrived, RFC 3339 UTC.",
            source="The registry's id.",
            traceparent=_TRACEPARENT,
        ),
        "payload": {
            "schemaFormat": _JSON_SCHEMA,
            "schema": {
                "type": "object",
                "description": "An event of CNCF Distribution; fields that are not read are kept.",
                "required": ["id", "timestamp", "action", "target"],
                "properties": {
                    "id": _TEXT,
                    "timestamp": {"type": "string", "format": "date-time"},
                    "action": {"type": "string"},
                    "target": {
                        "type": "object",
                        "required": ["repository"],
                        "properties": {
                            "repository": _TEXT,
                            "digest": _TEXT,
                            "mediaType": _TEXT,
                            "size": {"type": "integer"},
                            "tag": _TEXT,
                            "references": {"type": ["array", "null"]},
                        },
                    },
                },
            },
        },
        "bindings": {"kafka": {"key": _KEY}},
    }


def _dead_letter() -> dict[str, Any]:
    return {
        "name": "dead-letter",
        "title": "What could not be processed, byte for byte",
        "contentType": "application/octet-stream",
        "headers": _headers(
            reason="Why, in words.",
            origin="`webhook`, or topic/partition/offset.",
            first_seen="When it arrived first, RFC 3339 UTC.",
            source="The registry's id, where it is known.",
            traceparent=_TRACEPARENT,
        ),
        "payload": {"type": "string", "format": "binary"},
        "bindings": {"kafka": {"key": {"type": ["string", "null"]}}},
    }


def asyncapi_document() -> dict[str, Any]:
    """The document as it is served."""
    events = {kind.removeprefix("io.registryquota."): kind for kind in DATA}
    messages: dict[str, Any] = {
        name: {
            "name": kind,
            "title": (DATA[kind].__doc__ or "").strip(),
            "contentType": "application/cloudevents+json",
            "headers": _headers(
                content_type="CloudEvents, structured mode.", traceparent=_TRACEPARENT
            ),
            "payload": {
                "schemaFormat": _JSON_SCHEMA,
                "schema": _embedded(event_schema(kind), name),
            },
            "bindings": {"kafka": {"key": _KEY}},
        }
        for name, kind in events.items()
    }
    messages |= {"notification": _notification(), "dead-letter": _dead_letter()}
    channels = {
        "notifications": (NOTIFICATIONS_TOPIC, ["notification"], "What registries told."),
        "dead-letters": (DEAD_LETTER_TOPIC, ["dead-letter"], "What could not be processed."),
        "quota-events": (
            QUOTA_EVENTS_TOPIC,
            list(events),
            "At least once, in order per workspace; the same event keeps its id.",
        ),
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "registry-quota topics",
            "version": version("registry-quota"),
            "description": "What is on the three Kafka topics. Values are JSON, keys workspaces.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            name: {
                "address": topic,
                "description": text,
                "messages": {
                    message: {"$ref": f"#/components/messages/{message}"} for message in carried
                },
                "bindings": {"kafka": {"topic": topic}},
            }
            for name, (topic, carried, text) in channels.items()
        },
        "operations": {
            f"{action}-{name}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
            }
            for name, action in (
                ("notifications", "send"),
                ("dead-letters", "send"),
                ("quota-events", "send"),
            )
        },
        "components": {"messages": messages},
    }


def _embedded(schema: dict[str, Any], message: str) -> dict[str, Any]:
    """A schema inside the document: its own definitions are found from the document's root."""
    place = f"#/components/messages/{message}/payload/schema/$defs/"

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return {
                key: value.replace("#/$defs/", place) if key == "$ref" else moved(value)
                for key, value in node.items()
            }
        return [moved(item) for item in node] if isinstance(node, list) else node

    embedded: dict[str, Any] = moved(schema)
    return embedded
