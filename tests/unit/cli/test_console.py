"""What commands say: readable for people, harmless for terminals."""

from cli.console import print_error


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
