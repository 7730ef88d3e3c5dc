"""Glob patterns for tags and repository names, and whether a name can ever match one. PURE.

`*` is any run of characters (`/`, too), `?` one, `[seq]` one of them, `[!seq]` none of them; nothing else
is special, and a pattern has to match the whole name. Case matters, as it does in names.
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Final

from registry.names import MAX_REPOSITORY_LENGTH, MAX_TAG_LENGTH

_LOWER: Final = string.ascii_lowercase + string.digits
_ALNUM: Final = string.ascii_letters + string.digits
_HEX: Final = string.hexdigits


class ImpossibleGlob(ValueError):  # noqa: N818 - says what it is
    """A pattern that no name matches. The message names the character where matching ends."""


@dataclass(frozen=True, slots=True)
class NameGrammar:
    """A grammar of `registry.names` as a machine: state → (characters, the state behind them)."""

    noun: str
    steps: Mapping[str, Sequence[tuple[str, str]]]
    start: tuple[str, ...]
    ends: frozenset[str]
    longest: int
    allowed: str
    """What names are made of, for people."""


TAG: Final = NameGrammar(
    noun="tag",
    steps={
        "first": [(_ALNUM + "_", "rest")],
        "rest": [(_ALNUM + "_.-", "rest")],
    },
    start=("first",),
    ends=frozenset({"rest"}),
    longest=MAX_TAG_LENGTH,
    allowed='letters, digits, "_", "." and "-", the first none of the last two',
)

REPOSITORY: Final = NameGrammar(
    noun="repository",
    steps={
        # Components of a path, and what may stand between two of their letters.
        "path": [(_LOWER, "letter")],
        "letter": [
            (_LOWER, "letter"),
            (".", "letter next"),
            ("_", "underscore"),
            ("-", "dash"),
            ("/", "path"),
        ],
        "underscore": [("_", "letter next"), (_LOWER, "letter")],
        "dash": [("-", "dash"), (_LOWER, "letter")],
        "letter next": [(_LOWER, "letter")],
        # A first component that looks like a registry's host.
        "host": [(_ALNUM, "host letter")],
        "host letter": [
            (_ALNUM, "host letter"),
            ("-", "host dash"),
            (".", "host"),
            (":", "port"),
            ("/", "path"),
        ],
        "host dash": [("-", "host dash"), (_ALNUM, "host letter")],
        "bracket": [("[", "address")],
        "address": [(_HEX + ":", "address rest")],
        "address rest": [(_HEX + ":", "address rest"), ("]", "address end")],
        "address end": [(":", "port"), ("/", "path")],
        "port": [(string.digits, "port digit")],
        "port digit": [(string.digits, "port digit"), ("/", "path")],
    },
    start=("path", "host", "bracket"),
    ends=frozenset({"letter"}),
    longest=MAX_REPOSITORY_LENGTH,
    allowed='lower-case letters, digits, ".", "_" and "-" between them, "/" between its parts',
)

_SHOWN: Final = 60

_HINTS: Final = (
    (",", "give several patterns as several items"),
    ("/:", "a tag stands for itself, without its repository"),
    ("^$()|+\\{}", "this is a glob (`*`, `?`, `[a-z]`), not a regular expression"),
)


def glob_matcher(patterns: Sequence[str]) -> Callable[[str], object]:
    """A test whether a name matches one of the patterns: truthy when it does."""
    if not patterns:
        return lambda _: None
    return re.compile("|".join(translate(pattern) for pattern in patterns)).match


def check_glob(pattern: str, grammar: NameGrammar) -> str:
    """Return `pattern` when some name of the grammar matches it. Raises ImpossibleGlob."""
    example_of(pattern, grammar)
    return pattern


def example_of(pattern: str, grammar: NameGrammar) -> str:
    """A shortest name that matches. Raises ImpossibleGlob when there is none."""
    parts = _parts(pattern)
    found = _search(parts, grammar, grammar.start)
    if found.example is None:
        raise ImpossibleGlob(_why(pattern, parts, found, grammar))
    return found.example


@dataclass(frozen=True, slots=True)
class _Found:
    """What looking for a name came to."""

    example: str | None
    furthest: int = 0
    """How many parts of the pattern some beginning of a name matches."""
    too_long: bool = False
    """Whether only its length is in the way, as far as that was looked at."""


def _search(parts: Sequence[str], grammar: NameGrammar, start: Sequence[str]) -> _Found:
    matchers = [re.compile(translate(part)).match for part in parts]
    reached = {(0, state): "" for state in start}
    edge = list(reached)
    furthest = 0
    for length in range(grammar.longest + 1):
        edge = _with_empty_stars(parts, reached, edge)
        furthest = max([furthest, *(at for at, _ in edge)])
        for at, state in edge:
            if at == len(parts) and state in grammar.ends:
                return _Found(reached[at, state])
        if length == grammar.longest:
            break
        edge = _one_character_on(parts, matchers, grammar, reached, edge)
    return _Found(None, furthest, too_long=bool(edge) and furthest < len(parts))


def _parts(pattern: str) -> list[str]:
    """`*`, `?`, single characters and sets, as `fnmatch` cuts a pattern."""
    parts = []
    at = 0
    while at < len(pattern):
        end = at + 1
        if pattern[at] == "[":
            # A `]` that stands first in the set belongs to it; without an end it is no set.
            begin = at + 2 if pattern[at + 1 : at + 2] == "!" else at + 1
            close = pattern.find("]", begin + 1)
            end = at + 1 if close < 0 else close + 1
        parts.append(pattern[at:end])
        at = end
    return parts


_State = tuple[int, str]
"""(parts of the pattern that are behind, state of the grammar)"""


def _with_empty_stars(
    parts: Sequence[str], reached: dict[_State, str], edge: Sequence[_State]
) -> list[_State]:
    found = list(edge)
    for at, state in found:
        behind = (at + 1, state)
        if at < len(parts) and parts[at] == "*" and behind not in reached:
            reached[behind] = reached[at, state]
            found.append(behind)
    return found


def _one_character_on(
    parts: Sequence[str],
    matchers: Sequence[Callable[[str], object]],
    grammar: NameGrammar,
    reached: dict[_State, str],
    edge: Sequence[_State],
) -> list[_State]:
    found = []
    for at, state in edge:
        if at == len(parts):
            continue
        behind = at if parts[at] == "*" else at + 1
        for characters, then in grammar.steps[state]:
            fitting = next(filter(matchers[at], characters), None)
            if fitting is not None and (behind, then) not in reached:
                reached[behind, then] = reached[at, state] + fitting
                found.append((behind, then))
    return found


def _why(pattern: str, parts: Sequence[str], found: _Found, grammar: NameGrammar) -> str:
    shown = pattern if len(pattern) <= _SHOWN else pattern[:_SHOWN] + "…"
    furthest = found.furthest
    if "host" in grammar.start and "/" not in parts:
        # What has no "/" is no host's name, whatever it begins like.
        furthest = _search(parts, grammar, ("path",)).furthest
    if found.too_long:
        reason = f"what it matches is longer than {grammar.longest} characters"
    elif furthest >= len(parts):
        reason = "it ends where none can"
    else:
        part = parts[furthest]
        reason = f'"{part}" cannot stand there'
        hint = next((hint for marks, hint in _HINTS if part in marks), None)
        if hint is not None and not (part in "/:" and grammar is not TAG):
            reason = f"{reason}: {hint}"
    return (
        f'no {grammar.noun} can match "{shown}": {reason} (a {grammar.noun} has {grammar.allowed})'
    )
