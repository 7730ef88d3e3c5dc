"""How far long work is, where nobody looks at a terminal."""

import pytest

from cli import progress
from cli.progress import figures


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (0, None, 0, "0 letters"),
        (0, 9, 5, "0/9 letters"),
        (200, 1000, 5, "200/1000 letters, 40/s, about 20 s left"),
        (3, 9, 6, "3/9 letters, 0.5/s, about 12 s left"),
        (9, 9, 3, "9/9 letters, 3.0/s"),
        (100, 100_100, 10, "100/100100 letters, 10/s, about 2.8 h left"),
        (100, 2_100, 10, "100/2100 letters, 10/s, about 3 min left"),
    ],
)
def test_rate_and_remaining_time_follow_from_what_is_done(done, total, seconds, text):
    assert figures(done, total, seconds, unit="letters") == text


def test_lines_come_now_and_then_and_on_standard_error_only(capsys):
    times = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    with progress.progress("reading", 10, unit="letters", clock=lambda: next(times)) as work:
        for done in (1, 2, 3, 4):
            work.at(done, note="all well")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "reading: 2/10 letters, all well, 0.3/s, about 24 s left",
        "reading: 4/10 letters, all well, 0.3/s, about 18 s left",
    ]
