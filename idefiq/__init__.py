"""idefiq: captions, answers and alt text for many images, from a service of your own.

from idefiq import Client

with Client() as client:
    images = client.upload(["a.jpg", "b.jpg"])
    job = client.submit({"images": [image]} for image in images)
    for result in client.results(client.wait(job).id):
        print(result.answer)
"""

from typing import Any

from idefiq import types
from idefiq.aio import AsyncClient
from idefiq.client import Client
from idefiq.types import (
    ApiError,
    ApiKey,
    Counts,
    Event,
    IdefiqError,
    Job,
    Model,
    Result,
    WaitTimeout,
)

__all__ = [
    "ApiError",
    "ApiKey",
    "AsyncClient",
    "Client",
    "Counts",
    "Event",
    "IdefiqError",
    "Job",
    "Model",
    "Result",
    "WaitTimeout",
]


def __getattr__(name: str) -> Any:
    """Look up names of release 0.1, which release 0.3 will not have any more."""
    if name == "TooLong":
        return types.TooLong
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
