"""What commands say: readable for people, harmless for terminals."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cli.console import console, emit_json, json_text, print_error, table
from cli.events import one_line, shown

HOSTILE = "\x1b]0;x\x07 \x9b31m \u202e \u061c \ud800 [red]x[/red] :skull: \\[a"
"""A title, a colour by C1, other directions, half a character, Rich's markup and emoji."""
OBEYED = set("\x1b\x07\x9b\u202e\u061c\ud800")


def test_an_error_of_several_lines_keeps_them(capsys):
    print_error("kafka does not start; its log ends with:\n    first\n    last")
    assert capsys.readouterr().err.splitlines() == [
        "registry-quota: kafka does not start; its log ends with:",
        "    first",
        "    last",
    ]


def test_an_error_moves_no_cursor_and_sets_no_colour(capsys):
    print_error("a name \x1b[2J\r[red]of[/red] others")
    said = capsys.readouterr().err
    assert said == "registry-quota: a name �[2J�[red]of[/red] others\n"


def test_an_error_of_half_a_character_is_said_too(capsys):
    print_error("a name \udcff of others")
    assert capsys.readouterr().err == "registry-quota: a name � of others\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_table_shows_hostile_names_as_text(capsys, monkeypatch, terminal):
    monkeypatch.setattr(console, "_force_terminal", terminal)
    monkeypatch.setattr(console, "_color_system", None)
    monkeypatch.setattr(console, "_width", 200)
    table("", ["tag", "size"], [(HOSTILE, 1)])
    said = capsys.readouterr().out
    assert not OBEYED & set(said)
    assert "[red]x[/red] :skull: \\[a" in said


def test_json_for_programs_holds_all_and_steers_nothing(capsys):
    emit_json({"tag": HOSTILE, "items": ["\n", "ä"]})
    said = capsys.readouterr().out
    assert not OBEYED & set(said)
    assert json.loads(said) == {"tag": HOSTILE, "items": ["\n", "ä"]}


@given(st.dictionaries(st.text(), st.text(), max_size=2))
def test_json_is_the_same_document_after_it_was_made_harmless(document):
    assert json.loads(json_text(document)) == document


EVENT = {
    "time": f"{HOSTILE}",
    "type": "io.registryquota.image.recorded.v1",
    "subject": "acme",
    "data": {"tags": [HOSTILE], "repository": HOSTILE, "digest": HOSTILE},
}


def test_an_event_is_shown_without_what_a_terminal_obeys(capsys):
    console.print(one_line(EVENT), soft_wrap=True)
    line = shown(json.dumps(EVENT).encode(), None, as_json=True)
    assert line is not None
    assert not OBEYED & set(capsys.readouterr().out + line)


WRONG: list[dict[str, object]] = [
    {"data": None},
    {"data": {}},
    {"data": []},
    {"type": 1},
    {"time": None},
]


@pytest.mark.parametrize(
    "raw",
    [None, b"", b"\xff", b"[]", b"1", b"{}", b"[" * 100_000]
    + [json.dumps({**EVENT, **wrong}).encode() for wrong in WRONG],
)
def test_what_is_no_quota_event_ends_nothing(raw):
    """Whoever may write to the topic may write anything."""
    assert shown(raw, None, as_json=False) is None


def test_anothers_event_is_not_shown():
    assert shown(json.dumps(EVENT).encode(), "other", as_json=False) == ""


def test_a_narrow_terminal_cuts_nothing_that_tells_rows_apart():
    written = io.StringIO()
    narrow = Console(width=80, force_terminal=True, color_system=None, file=written)
    names = [f"platform-team/{'very-long-repository-name-' * 3}:2026.11.{n}" for n in range(3)]
    rows = [
        (f"sha256:{n:064x}", name, "12.3 GB", "a reason of some words")
        for n, name in enumerate(names)
    ]
    table("", ["digest", "image", ">frees", "why"], rows, to=narrow)
    text = written.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in text.splitlines()
        if "│" in line
    ]
    for column, wanted in ((0, [row[0] for row in rows]), (1, names)):
        assert "".join(line[column] for line in cells) == "".join(wanted)


@pytest.mark.parametrize("width", range(40, 140, 7))
def test_what_names_a_row_is_in_one_line_where_there_is_room_and_never_cut(width):
    """People copy ids and digests: one that is broken over two lines is none."""
    written = io.StringIO()
    narrow = Console(width=width, force_terminal=True, color_system=None, file=written)
    digests = [f"sha256:{n:012x}" for n in range(3)]
    words = "a reason of some words that goes on"
    rows = [("acme/some-repository", "1.2 latest stable", digest, words) for digest in digests]
    table("", ["repository", "tags", "digest", "why"], rows, names=["digest"], to=narrow)
    text = written.getvalue()
    assert max(map(len, text.splitlines())) <= width
    cells = [line.split("│")[1:-1] for line in text.splitlines() if "│" in line]
    assert "".join(line[2].strip() for line in cells) == "".join(digests)
    # 19 letters, nine for each of the others, and three around every column.
    whole = width >= 19 + 3 * 9 + 4 * 3
    assert all(digest in text for digest in digests) or not whole


def test_a_name_that_is_wider_than_the_terminal_is_folded():
    written = io.StringIO()
    narrow = Console(width=60, force_terminal=True, color_system=None, file=written)
    name = "platform/" + "very-long-" * 12
    table("", ["image", "why"], [(name, "some words")], names=["image"], to=narrow)
    lines = written.getvalue().splitlines()
    cells = [line.split("│")[1].strip() for line in lines if "│" in line]
    assert (max(map(len, lines)) <= 60, "".join(cells)) == (True, name)


def test_a_column_of_usual_values_is_left_to_those_who_look_at_each(capsys):
    """A pipe has every column always: programs count them."""
    columns, usual = ["image", "kind"], {"kind": "image"}
    for kinds, shown_here in ((("image", "image"), False), (("image", "chart"), True)):
        written = io.StringIO()
        terminal = Console(width=60, force_terminal=True, color_system=None, file=written)
        rows = [(f"acme/api:{n}", kind) for n, kind in enumerate(kinds)]
        table("", columns, rows, usual=usual, to=terminal)
        assert ("kind" in written.getvalue()) is shown_here
        table("", columns, rows, usual=usual, to=Console(file=sys.stdout, force_terminal=False))
        assert "kind" in capsys.readouterr().out
