"""Globs: read as they match, and refused exactly when no name of the grammar can match them."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.globs import REPOSITORY, TAG, ImpossibleGlob, check_glob, example_of, glob_matcher
from registry.names import InvalidName, check_repository, check_tag

GRAMMARS = [(TAG, check_tag), (REPOSITORY, check_repository)]
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)
repositories = st.from_regex(
    r"(?:[A-Za-z0-9-]{1,6}(?:\.[a-zA-Z0-9]{1,5}){0,2}(?::[0-9]{1,4})?/)?"
    r"[a-z0-9]{1,4}(?:(?:[._]|__|-{1,2})[a-z0-9]{1,3}){0,3}(?:/[a-z0-9]{1,4}){0,3}",
    fullmatch=True,
).filter(lambda name: not name.startswith("-") and "-." not in name and "-:" not in name)
patterns = st.lists(
    st.sampled_from([*"*?*?aA0._-/:[]!^$\\(){}|+, ü", "[a-c]", "[!a]", "[!a-zA-Z0-9_]", "[.-]"]),
    max_size=9,
).map("".join)


@pytest.mark.parametrize(
    ("pattern", "character"),
    [
        ("^v.*$", "^"),
        ("v$", "$"),
        (r"v\d+", "\\"),
        ("(a|b)", "("),
        ("a|b", "|"),
        ("v.+", "+"),
        ("v*,prod", ","),
        ("release/*", "/"),
        ("api:v*", ":"),
        ("{a,b}", "{"),
        (" v*", " "),
        ("v* ", " "),
        ("-rc", "-"),
        (".x", "."),
        ("[.-]*", "[.-]"),
        ("v[+]", "[+]"),
        ("[a-z", "["),
        ("v*\n", "\n"),
        ("ü*", "ü"),
        ("@sha256*", "@"),
    ],
)
def test_what_no_tag_can_match_is_refused_and_the_character_named(pattern, character):
    with pytest.raises(ImpossibleGlob) as refused:
        check_glob(pattern, TAG)
    assert f'"{character}" cannot stand there' in str(refused.value)
    assert f'no tag can match "{pattern}"' in str(refused.value)


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "v*",
        "v[0-9]*",
        "[!v]*",
        "latest",
        "release-*",
        "*-x",
        "1.?",
        "[]a]",
        "_*",
        "a" * 128,
        "*" * 200,
        "*" + "?" * 128,
        "[^v]",
    ],
)
def test_what_a_tag_can_match_is_taken(pattern):
    assert check_glob(pattern, TAG) == pattern


@pytest.mark.parametrize(
    ("pattern", "grammar", "why"),
    [
        ("?" * 129, TAG, "longer than 128 characters"),
        ("a" * 129, TAG, "longer than 128 characters"),
        ("*a" * 129, TAG, "longer than 128 characters"),
        ("a" * 256, REPOSITORY, "longer than 255 characters"),
        ("", TAG, "it ends where none can"),
        ("acme/", REPOSITORY, "it ends where none can"),
        ("-" * 3 + "*", TAG, '"-" cannot stand there'),
    ],
)
def test_length_beginning_and_end_of_a_name_count(pattern, grammar, why):
    with pytest.raises(ImpossibleGlob, match=why):
        check_glob(pattern, grammar)


@pytest.mark.parametrize(
    ("pattern", "character"),
    [
        ("acme/API", "A"),
        ("/x", "/"),
        ("a//b", "/"),
        ("acme/cache:v*", ":"),
        ("a/.x", "."),
        ("^acme/.*", "^"),
        ("acme\\cache", "\\"),
        ("acme/ca che", " "),
        ("Cache", "C"),
    ],
)
def test_what_no_repository_can_match_is_refused_and_the_character_named(pattern, character):
    with pytest.raises(ImpossibleGlob) as refused:
        check_glob(pattern, REPOSITORY)
    assert f'"{character}" cannot stand there' in str(refused.value)


@pytest.mark.parametrize(
    "pattern", ["*/cache", "acme/*", "Acme.Example:5000/*", "*", "*__*", "[[]::1]/x", "a?b/[a-c]*"]
)
def test_what_a_repository_can_match_is_taken(pattern):
    assert check_glob(pattern, REPOSITORY) == pattern


@settings(max_examples=400)
@given(patterns)
def test_a_pattern_that_is_taken_has_a_name_that_matches_it(pattern):
    for grammar, check in GRAMMARS:
        try:
            example = example_of(pattern, grammar)
        except ImpossibleGlob:
            continue
        assert check(example) == example
        assert glob_matcher((pattern,))(example)


@settings(max_examples=400)
@given(st.data())
def test_a_pattern_that_a_name_matches_is_taken(data):
    """Any pattern made from a name by putting wild cards in place of parts of it."""
    for names, (grammar, check) in zip((tags, repositories), GRAMMARS, strict=True):
        name = data.draw(names)
        try:
            check(name)
        except InvalidName:
            continue
        parts = [
            data.draw(st.sampled_from([char, char, "?", "*", f"[{char}]", f"*{char}", "[!%]"]))
            if char not in "[]"
            else "?"
            for char in name[:40]
        ]
        pattern = "".join(parts) + ("*" if len(name) > 40 else "")
        assert glob_matcher((pattern,))(name)
        assert check_glob(pattern, grammar) == pattern


@settings(max_examples=300)
@given(patterns, st.text(string.ascii_letters + "0._-", min_size=1, max_size=6))
def test_no_tag_matches_what_is_refused(pattern, tag):
    try:
        check_glob(pattern, TAG)
    except ImpossibleGlob:
        if tag[0] not in ".-":
            assert not glob_matcher((pattern,))(tag)


def test_several_patterns_are_alternatives_and_none_match_nothing():
    matches = glob_matcher(("v*", "prod"))
    assert [bool(matches(name)) for name in ("v1", "prod", "prod2", "V1")] == [
        True,
        True,
        False,
        False,
    ]
    assert not glob_matcher(())("v1")


def test_a_hostile_pattern_makes_neither_matching_nor_the_question_slow():
    assert not glob_matcher(("*a" * 60 + "b",))("a" * 128)
    assert check_glob("*a" * 60 + "b", TAG)
    assert check_glob("*[a-z]" * 100, REPOSITORY)
