"""A line an outcome: whatever text comes from outside, and without a secret in it."""

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys

import pytest
import structlog
from aiohttp.http_exceptions import BadHttpMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.logs import Outcomes, Sparingly, configure_logs, get_logger, masking, seen, visible
from runtime.settings import Settings

HOSTILE = [
    "two\nlines",
    "\x1b[2J\x1b[31mred",
    "\x9b31mone byte of control",
    "carriage\rreturn",
    "right\u202eto left",
    "no\u200bwidth",
    "line\u2028separator\x85next",
    "lone \ud800 surrogate",
    "\U000e0041tag",
    'quotes " and \\ and = signs',
    "",
]
ANY = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=[])))


def fail(why):
    raise ValueError(why)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def written(monkeypatch):
    """(terminal?, settings) → what `say` wrote then, with the logs put back afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def write(say, *, terminal=False, **given_settings):
        stream = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logs(Settings(**given_settings), process="test")
        say(get_logger("test"))
        return stream.getvalue()

    yield write
    root.handlers[:] = before
    root.setLevel(level)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


@given(ANY)
def test_json_in_which_everything_shows_is_the_same_document(text):
    document = seen(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(document) == {"text": text}
    assert document.encode()
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", document)


@given(ANY)
def test_a_visible_text_is_on_one_line_and_steers_nothing(text):
    assert visible(text).isprintable() or visible(text) == ""


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_in_its_own_line_of_json(written, text):
    output = written(lambda log: log.warning("said", text=text))
    (line,) = output.splitlines()
    found = json.loads(line)
    assert (found["event"], found["level"], found["process"]) == ("said", "warning", "test")
    assert found["text"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_in_its_own_line_on_a_terminal(written, monkeypatch, text):
    monkeypatch.setenv("NO_COLOR", "1")

    def say(log):
        log.warning("said", text=text, others=[text])
        logging.getLogger("a.library").warning("it said %s", text)

    lines = written(say, terminal=True).split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_in_an_error_looks_like_a_line_of_ours(written, monkeypatch, text, terminal):
    monkeypatch.setenv("NO_COLOR", "1")

    def say(log):
        try:
            fail(f"{text}\n12:00:00 [info] all is well")
        except ValueError:
            log.exception("it_failed")

    first, *behind = written(say, terminal=terminal).rstrip("\n").split("\n")
    assert "it_failed" in first
    assert all(line.startswith("    ") and line.isprintable() for line in behind)
    assert bool(behind) == terminal


def test_a_terminal_gets_short_coloured_lines(written):
    digest = "sha256:" + "ab" * 32
    say = lambda log: log.info("image_deleted", workspace="acme", digest=digest)  # noqa: E731
    line = written(say, terminal=True)
    assert "\x1b[" in line
    assert "process" not in line
    plain = re.sub(r"\x1b\[\d+m", "", line)
    assert re.match(
        r"\d\d:\d\d:\d\d \[info +\] image_deleted workspace=acme digest=sha256:abababababab…\n",
        plain,
    )


@pytest.mark.parametrize(
    ("terminal", "forced", "is_json"),
    [
        (False, "auto", True),
        (True, "auto", False),
        (True, "json", True),
        (False, "console", False),
    ],
)
def test_the_format_can_be_forced(written, terminal, forced, is_json):
    line = written(lambda log: log.info("said"), terminal=terminal, log_format=forced)
    assert line.startswith("{") == is_json
    assert ("\x1b[" in line) == (terminal and not is_json)


def test_on_a_real_terminal_it_is_readable():
    ours, theirs = pty.openpty()
    code = (
        "from runtime.logs import configure_logs, get_logger\n"
        "from runtime.settings import Settings\n"
        "configure_logs(Settings(), process='test')\n"
        "get_logger('test').info('said', what='\\x1b[2Jhello')\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, timeout=60, env=environ)
    os.close(theirs)
    with os.fdopen(ours, "rb") as reader:
        line = reader.readline().decode()
    assert "said" in line
    assert "\x1b[2J" not in line
    assert "\x1b[1m" in line


SECRETS = {
    "database_url": "postgresql://user:pass%40word-of-db@db:5432/x",
    "kafka_sasl_password": "kafka-password",
    "registry_password": "registry pass\\word",
    "webhook_tokens": "one-webhook-token, other=two-webhook-token==",
    "api_token": "operators-token newer-token",
    "internal_api_key": "internal-api-key",
    "alerts_url": "https://hooks.example.com/services/T0/B0/whoever-knows-this",
    "alerts_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
HIDDEN = [
    "pass%40word-of-db",
    "pass@word-of-db",
    "kafka-password",
    "registry pass\\word",
    "one-webhook-token",
    "two-webhook-token==",
    "operators-token",
    "newer-token",
    "internal-api-key",
    "https://hooks.example.com/services/T0/B0/whoever-knows-this",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "rq_0123456789abcdef_" + "x" * 32,
]


def test_every_secret_setting_is_among_those_that_are_tried():
    kinds = {
        name
        for name, field in Settings.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }
    assert kinds == SECRETS.keys()


@pytest.mark.parametrize("terminal", [True, False])
def test_no_secret_is_written_whoever_puts_it_into_a_line(written, terminal):
    def say(log):
        for text in [*SECRETS.values(), *HIDDEN]:
            log.info("said", text=f"it is {text}!", many=[text], fields={"a": text})
            logging.getLogger("a.library").warning("it is %s", text)
            try:
                fail(f"not {text}, please")
            except ValueError:
                log.exception("failed")
            Outcomes("outcome").write([{"text": text}])

    output = written(say, terminal=terminal, **SECRETS)
    assert output.count("failed") >= len(SECRETS) + len(HIDDEN)
    for text in HIDDEN:
        bare = text.removeprefix("rq_0123456789abcdef_")
        for form in (bare, json.dumps(bare)[1:-1], repr(bare)[1:-1]):
            assert form not in output


def test_words_are_not_taken_for_secrets():
    mask = masking(Settings(api_token="short", internal_api_key="a-longer-secret"))
    assert mask("a short story, rq_ and a-longer-secret") == "a short story, rq_ and ********"


def test_many_outcomes_are_lines_like_any_other(written):
    def say(_log):
        Outcomes("notification").write([{"number": 1, "text": "a\x9b\nb"}, {"number": 2}])

    first, second = map(json.loads, written(say).splitlines())
    assert first["text"] == "a\x9b\nb"
    assert first.keys() - {"text"} == second.keys()
    assert (second["event"], second["level"], second["process"]) == ("notification", "info", "test")


def test_a_line_that_strangers_can_cause_comes_now_and_then_with_how_often():
    clock = iter([0.0, 1.0, 2.0, 10.5, 11.0]).__next__
    with structlog.testing.capture_logs() as lines:
        refused = Sparingly(get_logger("test"), "token_refused", pause=10, now=clock)
        for _ in range(5):
            refused.tell(door="api")
    assert [(line["event"], line["times"]) for line in lines] == [
        ("token_refused", 1),
        ("token_refused", 3),
    ]


@given(st.lists(ANY, max_size=5))
@settings(max_examples=20)
def test_lists_are_visible_too(texts):
    assert visible(repr(texts)).isprintable()


def test_what_is_no_http_fills_no_log_and_a_failure_of_ours_is_told(written):
    def say(_log):
        server = logging.getLogger("aiohttp.server")
        for error in (BadHttpMessage("no HTTP"), RuntimeError("ours")):
            server.error("Error handling request", exc_info=error)

    (line,) = written(say).splitlines()
    assert "ours" in json.loads(line)["exception"]


@pytest.mark.parametrize(
    ("library", "level"), [("asyncpg.pool", logging.WARNING), ("aiokafka.conn", logging.ERROR)]
)
def test_an_outage_is_told_by_lines_of_ours_not_by_a_traceback_for_each_attempt(
    written, library, level
):
    def say(_log):
        logging.getLogger(library).log(level, "retrying", exc_info=ConnectionRefusedError())

    assert written(say) == ""
