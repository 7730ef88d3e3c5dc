"""Published quota events against their schemas."""

from functools import cache
from typing import Any

from jsonschema_rs import Draft202012Validator

from quota.events import DATA, event_schema


@cache
def _validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator(event_schema(kind), validate_formats=True)


def check_event(event: dict[str, Any]) -> None:
    """A CloudEvent fits the schema that is served for its type, and has no field besides."""
    _validator(event["type"]).validate(event)
    DATA[event["type"]].model_validate(event["data"], strict=False)
