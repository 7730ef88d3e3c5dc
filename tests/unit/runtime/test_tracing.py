"""Traces are off, and cost nothing, unless somebody configures them; whatever is wrong, work goes on."""

import asyncio
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import tracing
from runtime.otel import context_of
from runtime.tracing import open_tracing, why_off
from tests.support.spans import Recording

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ""),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, ""),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, ""),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "http/protobuf"),
    ],
)
def test_traces_are_off_and_a_wrong_setting_says_why(environ, reason):
    found = why_off(environ)
    assert found is not None
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.parametrize(
    "environ",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"},
        {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_SDK_DISABLED": "false"},
    ],
)
def test_traces_are_on_with_an_endpoint(environ):
    assert why_off(environ) is None


async def test_without_the_library_work_goes_on(monkeypatch):
    monkeypatch.delitem(sys.modules, "runtime.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    async with open_tracing("test", ENDPOINT) as found:
        assert found is None


def test_the_library_is_not_even_imported_while_traces_are_off():
    code = (
        "import sys, consumer.wiring, quota.wiring, webhook_receiver.wiring\n"
        "sys.exit(' '.join(name for name in sys.modules if name.startswith('opentelemetry')) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_handed_on_where_nothing_is_traced():
    assert tracing.traceparent("a workspace") is None
    tracing.note({"said": "to nobody"})
    with tracing.part("a part") as span, tracing.originating({"a": "b"}):
        assert span is None
        assert tracing.traceparent("a") is None


async def test_parts_are_children_also_in_tasks_and_of_each_subject_its_own_origin_is_handed_on():
    recording = Recording()
    with tracing.spanning(recording, "outer", kind="server", parent="x") as outer:
        assert outer is not None
        with tracing.originating({"acme": "origin of acme"}), tracing.part("inner") as inner:
            assert inner is not None
            assert tracing.traceparent("unknown", "acme") == "origin of acme"
            assert tracing.traceparent("unknown") == inner.traceparent
            assert await asyncio.create_task(_handed_on()) == inner.traceparent
        assert tracing.traceparent("acme") == outer.traceparent
    assert tracing.traceparent("acme") is None
    assert [span.parent for span in recording.spans] == ["x", recording.spans[0].traceparent]
    assert all(span.ended and span.why is None for span in recording.spans)


async def _handed_on():
    return tracing.traceparent()


def test_a_failure_is_told_and_passed_on():
    recording = Recording()
    with (
        pytest.raises(ValueError, match="no"),
        tracing.spanning(recording, "outer", kind="server"),
        tracing.part("inner"),
    ):
        raise ValueError("no")
    assert [span.why for span in recording.spans] == ["ValueError", "ValueError"]
    assert all(span.ended for span in recording.spans)


@given(st.text())
def test_what_is_no_traceparent_is_no_context(text):
    context = context_of(text)
    assert context is None or context.is_valid


@pytest.mark.parametrize(
    "text",
    [
        f"00-{0:032x}-{1:016x}-01",  # all zeroes are no trace
        f"00-{1:032x}-{0:016x}-01",
        f"ff-{1:032x}-{1:016x}-01",  # a version that is forbidden
        f"00-{1:032X}-{10:016X}-01",  # capitals
        f"00-{1:032x}-{1:016x}",
        f"00-{1:032x}-{1:016x}-01\n",
        f" 00-{1:032x}-{1:016x}-01",
    ],
)
def test_w3c_refuses_these(text):
    assert context_of(text) is None


def test_whether_a_trace_is_sampled_is_its_beginners_choice():
    for flags, sampled in (("00", False), ("01", True), ("03", True)):
        context = context_of(f"00-{1:032x}-{1:016x}-{flags}")
        assert context is not None
        assert context.trace_flags.sampled == sampled
