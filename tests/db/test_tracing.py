"""The trace context of a request, as W3C Trace Context has it."""

import subprocess
import sys

import pytest

from db import tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (GIVEN, GIVEN),
        (f" {GIVEN} ", GIVEN),
        (f"cc-{TRACE}-{SPAN}-00-what-comes-later", f"00-{TRACE}-{SPAN}-00"),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"{GIVEN}-more", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (GIVEN.upper(), None),
        ("00-1-2-3", None),
        ("", None),
        (None, None),
    ],
)
def test_a_context_is_taken_if_the_standard_calls_it_valid(
    given: str | None, expected: str | None
) -> None:
    assert tracing.parsed(given) == expected


def test_a_request_has_its_callers_context_until_it_ends() -> None:
    with tracing.request_span(GIVEN) as span:
        assert (tracing.current(), span.traceparent) == (GIVEN, GIVEN)
        with tracing.request_span(None) as inner:
            assert (tracing.current(), inner.traceparent) == (None, None)

    assert tracing.current() is None


def test_without_a_place_for_traces_nothing_of_opentelemetrys_sdk_is_loaded() -> None:
    script = (
        "import sys\nfrom db import tracing\ntracing.configure('api', '')\n"
        "with tracing.request_span(None), tracing.work_span('w', [None]): pass\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert shown.stdout == "[]\n", shown.stderr
