"""Traces of the whole service, sent to a collector over OTLP."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests import pictures, servers
from tests.db.test_tracing import GIVEN, SPAN, TRACE
from tests.e2e.conftest import Env, Start

UNSAMPLED = f"00-{'1' * 32}-{SPAN}-00"


class Collector:
    """Receives spans as an OpenTelemetry collector does; `spans` are those of each service."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = defaultdict(list)
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {
                        each.key: each.value.string_value for each in group.resource.attributes
                    }
                    for scope in group.scope_spans:
                        collector.spans[names["service.name"]].extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def linked(self, service: str, trace: str) -> set[str]:
        """Names of a service's spans that are linked to a trace."""
        wanted = bytes.fromhex(trace)
        return {
            span.name
            for span in list(self.spans[service])
            if any(link.trace_id == wanted for link in span.links)
        }


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_a_job_is_traced_from_its_request_to_the_writing_of_its_answers(
    embedded: Env, start: Start, collector: Collector, tmp_path: Path
) -> None:
    env = {**embedded, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with start("echo", env, traces_url=collector.url, log_format="json") as (stack, client):

        def submit(traceparent: str, size: int) -> httpx2.Response:
            image = tmp_path / f"{size}.png"
            image.write_bytes(pictures.plain(size=(size, 8)))
            body = {"images": client.upload(image)}
            headers = {"traceparent": traceparent, "authorization": f"Bearer {stack.api_key}"}
            made = httpx2.post(f"{stack.url}/v1/jobs", json={"items": [body]}, headers=headers)
            client.wait(made.json()["id"])
            return made

        other = submit(UNSAMPLED, 8)
        made = submit(GIVEN, 9)
        wanted = {
            "idefiq-intake": {"claim for intake", "take in", "write"},
            "idefiq-engine": {"claim for generate", "load", "generate", "write"},
            "idefiq-upkeep": {"write_results"},
        }
        servers.wait_until(
            lambda: all(names <= collector.linked(who, TRACE) for who, names in wanted.items()),
            what="spans of every worker that are linked to the job's trace",
        )

    returned = made.headers["traceparent"]
    [request] = [
        span
        for span in collector.spans["idefiq-api"]
        if (span.trace_id, span.parent_span_id) == (bytes.fromhex(TRACE), bytes.fromhex(SPAN))
    ]
    assert (request.name, request.kind) == ("POST /v1/jobs", Span.SPAN_KIND_SERVER)
    assert returned == f"00-{TRACE}-{request.span_id.hex()}-01"
    attributes = {each.key: each.value for each in request.attributes}
    assert attributes["http.response.status_code"].int_value == 202
    assert attributes["idefiq.request_id"].string_value == made.headers["x-request-id"]
    spans = [span for spans in collector.spans.values() for span in spans]
    assert not [span for span in collector.spans["idefiq-api"] if "readyz" in span.name]
    [context] = {
        link.span_id for span in spans for link in span.links if link.trace_id.hex() == TRACE
    }
    assert context == request.span_id
    # A job that its caller does not sample leaves no spans.
    assert other.headers["traceparent"].split("-")[1] == "1" * 32
    assert "1" * 32 not in {link.trace_id.hex() for span in spans for link in span.links}
    assert "1" * 32 not in {span.trace_id.hex() for span in spans}
