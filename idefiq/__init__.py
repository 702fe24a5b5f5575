"""idefiq: captions, answers and alt text for many images, from a service of your own.

from idefiq import Client

with Client() as client:
    images = client.upload(["a.jpg", "b.jpg"])
    job = client.submit({"images": [image]} for image in images)
    for result in client.results(client.wait(job).id):
        print(result.answer)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; see __getattr__
    from idefiq import types as types
    from idefiq.aio import AsyncClient
    from idefiq.client import Client
    from idefiq.errors import ApiError, IdefiqError, WaitTimeout
    from idefiq.types import ApiKey, Counts, Event, Job, Model, Result
    from idefiq.usage import Usage

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
    "Usage",
    "WaitTimeout",
]

_ERRORS = dict.fromkeys(("ApiError", "IdefiqError", "WaitTimeout"), "errors")
_MODULES = {"AsyncClient": "aio", "Client": "client", "Usage": "usage", **_ERRORS}
#: Modules that `import idefiq` made attributes of the package before names were imported lazily.
_SUBMODULES = frozenset({"aio", "client", "protocol", "reviews", "types"})


def __getattr__(name: str) -> Any:
    """Import a name when it is first used.

    The service shares the linter of alternative texts with this package, and should not load an
    HTTP client for it. `TooLong` is a name of release 0.1, which release 0.3 will not have.
    """
    if name in _SUBMODULES:
        return import_module(f"idefiq.{name}")
    if name not in __all__ and name != "TooLong":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"idefiq.{_MODULES.get(name, 'types')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
