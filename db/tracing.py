"""Traces with OpenTelemetry: spans of requests and of the work that they cause. Off by default.

    request ─▶ span ─▶ jobs.traceparent ─▶ leases
                                             └─▶ spans of claims, fetches, batches and writes,
                                                 each linked to the jobs that it works for

IDEFIQ_TRACES_URL turns it on; then OpenTelemetry's own variables apply too, such as
OTEL_TRACES_SAMPLER. Even without it a `traceparent` of W3C Trace Context that a client sends is
stored with its job, and its trace id is in the logs.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what is not used when traces are off is not loaded
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Tracer

#: Version 00; a later version may have more fields behind these.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01
_NO_SPAN = nullcontext()

_tracer: "Tracer | None" = None
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def configure(process: str, url: str, **attributes: str) -> None:
    """Send the spans of this process to an OTLP/HTTP endpoint; without a URL there are none.

    Args:
        process: The kind of process; `service.name` becomes idefiq-PROCESS.
        url: Such as http://127.0.0.1:4318/v1/traces.
        attributes: Further attributes of the resource.
    """
    global _tracer
    if not url:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    names = {"service.name": f"idefiq-{process}", **attributes}
    provider = TracerProvider(resource=Resource.create(names))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    _tracer = provider.get_tracer("idefiq")


def parsed(traceparent: str | None) -> str | None:
    """Return a valid `traceparent` in the form of version 00, None for any other text."""
    matched = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if not matched:
        return None
    version, trace, span, flags, more = matched.groups()
    if (version == "00" and more) or not trace.strip("0") or not span.strip("0"):
        return None
    return f"00-{trace}-{span}-{flags}"


def current() -> str | None:
    """Return the `traceparent` of the request that is handled."""
    return _current.get()


def trace_id(traceparent: str) -> str:
    """Return the trace id of a `traceparent`."""
    return traceparent.split("-")[1]


class RequestSpan:
    """The span of a request.

    Attributes:
        traceparent: Of the span; of the caller if traces are off; None if there is neither.
    """

    def __init__(self, traceparent: str | None, span: Any = None) -> None:
        self.traceparent, self._span = traceparent, span

    def end(self, name: str, status: int) -> None:
        """Name the span, once its route is known, and record the status of its response."""
        if self._span is not None:
            self._span.update_name(name)
            self._span.set_attribute("http.response.status_code", status)


@contextmanager
def request_span(
    traceparent: str | None, is_traced: bool = True, **attributes: str
) -> Iterator[RequestSpan]:
    """Handle a request in a span of its own, a child of the caller's `traceparent`.

    Args:
        is_traced: False for requests that nobody wants to see, such as those of probes.
    """
    given = parsed(traceparent)
    if _tracer is None or not is_traced:
        with _as_current(given):
            yield RequestSpan(given)
        return
    from opentelemetry.trace import SpanKind

    with _tracer.start_as_current_span(
        "request",
        context=_remote(given) if given else None,
        kind=SpanKind.SERVER,
        attributes=attributes,
    ) as span:
        context = span.get_span_context()
        own = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        with _as_current(own):
            yield RequestSpan(own, span)


def is_on() -> bool:
    """True if this process sends spans."""
    return _tracer is not None


def work_span(
    name: str, traceparents: Iterable[str | None] = (), *, began_ns: int | None = None, **ids: Any
) -> AbstractContextManager[None]:
    """Work for some jobs in a span that is linked to each of their traces.

    There is none if traces are off, or if none of the jobs is sampled. Without jobs the span is a
    part of the one around it.

    Args:
        traceparents: Those of the jobs; None of a job without one.
        began_ns: When the work began, in nanoseconds of Unix time; now if left out.
        ids: Attributes, whose names get the prefix `idefiq.`.
    """
    if _tracer is None:  # as usual, and for every item
        return _NO_SPAN
    return _work_span(_tracer, name, traceparents, began_ns, ids)


@contextmanager
def _work_span(
    tracer: "Tracer",
    name: str,
    traceparents: Iterable[str | None],
    began_ns: int | None,
    ids: dict[str, Any],
) -> Iterator[None]:
    links = _links(traceparents)
    if not (links or _is_recording()):
        yield
        return
    attributes = {f"idefiq.{key}": value for key, value in ids.items()}
    with tracer.start_as_current_span(
        name, links=links, attributes=attributes, start_time=began_ns
    ):
        yield


@contextmanager
def _as_current(traceparent: str | None) -> Iterator[None]:
    token = _current.set(traceparent)
    try:
        yield
    finally:
        _current.reset(token)


def _is_recording() -> bool:
    from opentelemetry.trace import get_current_span

    return get_current_span().is_recording()


def _links(traceparents: Iterable[str | None]) -> "list[Link]":
    from opentelemetry.trace import Link, get_current_span

    distinct = dict.fromkeys(each for each in traceparents if each)
    sampled = [each for each in distinct if int(each[-2:], 16) & _SAMPLED]
    return [Link(get_current_span(_remote(each)).get_span_context()) for each in sampled]


def _remote(traceparent: str) -> "Context":
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})
