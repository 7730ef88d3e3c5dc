"""The newest complaints of a process: few, counted, as they were logged."""

import logging
from datetime import UTC, datetime, timedelta

import structlog

from quota.complaints import Complaints
from runtime.logs import configure_logs
from runtime.settings import Settings


def test_lines_are_kept_by_kind_with_their_number_and_newest_text():
    complaints = Complaints()
    logger = logging.getLogger("test of complaints")
    logger.propagate = False
    logger.handlers[:] = [complaints]
    logger.info("not this")
    for number in range(3):
        logger.warning({"event": "kafka_away", "reason": f"try {number}", "password": "p"})
    logger.error("plain %s", "text")
    newest, older = complaints.since(datetime.now(UTC) - timedelta(minutes=1))
    assert (newest.level, newest.what, newest.times) == ("error", "plain text", 1)
    assert (older.level, older.what, older.times) == ("warning", "kafka away: reason try 2", 3)
    assert complaints.since(datetime.now(UTC) + timedelta(minutes=1)) == []


def test_not_more_kinds_than_fit_a_screen_are_kept():
    complaints = Complaints()
    for number in range(1000):
        complaints.handle(logging.makeLogRecord({"msg": f"kind {number}", "levelno": 30}))
    assert [item.what for item in complaints.since(datetime.min.replace(tzinfo=UTC))][:2] == [
        "kind 999",
        "kind 998",
    ]
    assert len(complaints.since(datetime.min.replace(tzinfo=UTC))) == 20


def test_our_own_log_lines_arrive(capsys):
    root, complaints = logging.getLogger(), Complaints()
    before = root.handlers[:], root.level
    try:
        configure_logs(Settings(log_format="json"), process="api")
        root.addHandler(complaints)
        structlog.get_logger("x").warning("figure_failed", workspace="acme", reason="away")
        [one] = complaints.since(datetime.now(UTC) - timedelta(minutes=1))
        assert one.what == "figure failed: reason away, workspace acme"
        assert "figure_failed" in capsys.readouterr().err
    finally:
        root.handlers[:], root.level = before
        structlog.reset_defaults()
