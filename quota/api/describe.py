"""What a handler says about itself, for the OpenAPI document: `@describe(...)` above it.

A route without a description fails a test, and so does one that answers what it does not describe.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

Handler = TypeVar("Handler", bound=Callable[..., Any])

_ATTRIBUTE = "__described__"


@dataclass(frozen=True)
class Query:
    """A parameter of the query, with its JSON Schema."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string", "maxLength": 255})
    required: bool = False


def limit(default: int) -> Query:
    """How many items a page has."""
    schema = {"type": "integer", "minimum": 1, "maximum": 1000, "default": default}
    return Query("limit", "How many at most.", schema)


CURSOR = Query("cursor", "`next_cursor` of the page before; leave it out to begin at the start.")


@dataclass(frozen=True)
class Description:
    """A handler's promise."""

    group: str
    summary: str
    scope: str | None
    """What the caller's token needs; None: the door is open."""
    answers: Mapping[int, Any]
    """Status → the answer's pydantic model (or a list of one); None: an empty body."""
    body: type[BaseModel] | None = None
    body_required: bool = True
    query: tuple[Query, ...] = ()
    problems: tuple[int, ...] = ()
    """Statuses of problem documents beside those that follow from scope, path, query and body."""
    media_type: str = "application/json"
    platform: bool = False
    """Whether the internal key opens it, too."""
    details: str = ""
    hidden: bool = False
    """A page for people: it is no part of the document."""


def describe(
    group: str,
    summary: str,
    *,
    scope: str | None,
    answers: Mapping[int, Any],
    **more: Any,
) -> Callable[[Handler], Handler]:
    """Attach a Description to a handler; `more` are its other fields."""
    description = Description(group, summary, scope, answers, **more)

    def attach(handler: Handler) -> Handler:
        setattr(handler, _ATTRIBUTE, description)
        return handler

    return attach


def description_of(handler: object) -> Description | None:
    """What a handler (a function, or a bound method) says about itself."""
    found = getattr(handler, _ATTRIBUTE, None)
    return found if isinstance(found, Description) else None
