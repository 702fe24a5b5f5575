"""Prometheus metrics of the API: how they are counted, and the endpoint that serves them."""

import time
from typing import Annotated

from fastapi import APIRouter, Header, Response
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.services import MetricsReader
from db.metrics import SECONDS

#: Label of requests that no route takes, so that no caller can add to the labels.
NO_ROUTE = "none"

HTTP_REQUESTS = Counter(
    "idefiq_http_requests", "Answered requests", ["method", "route", "status"]
)  # fmt: skip
HTTP_REQUEST_SECONDS = Histogram(
    "idefiq_http_request_seconds",
    "Duration of a request until its last byte; those that wait for a job included",
    ["route"],
    buckets=SECONDS,
)
HTTP_IN_PROGRESS = Gauge("idefiq_http_requests_in_progress", "Requests that are being answered")

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response)
def get_metrics(_: MetricsReader, accept: Annotated[str, Header()] = "") -> Response:
    """Metrics of this API process for Prometheus, in its text format or as OpenMetrics.

    Workers serve theirs on a port of their own. If the service requires keys, send one with the
    scope `metrics` or `admin`.
    """
    encode, media_type = choose_encoder(accept)
    return Response(encode(REGISTRY), headers={"content-type": media_type})


class RequestMetrics:
    """Counts and times every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            with HTTP_IN_PROGRESS.track_inprogress():
                await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            HTTP_REQUESTS.labels(_method(scope["method"]), route, status).inc()
            HTTP_REQUEST_SECONDS.labels(route).observe(time.perf_counter() - began)


def _method(method: str) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return method if method in known else "other"
