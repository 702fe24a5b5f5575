"""Query parameters that a route does not have are refused: a typo would change what is listed."""

from collections.abc import Iterator
from typing import Any

from fastapi import Request

from api.errors import speaks_openai
from db.vocabulary.errors import RequestError


async def check_query(request: Request) -> None:
    """Refuse an unknown query parameter. Programs for OpenAI's API may send more than there is.

    Raises:
        RequestError: There is one; names those that the route has.
    """
    is_ours = request.url.path.startswith("/v1/") and not speaks_openai(request)
    if not request.query_params or not is_ours:
        return
    known = set(_taken(request.scope["route"].dependant))
    for name in request.query_params:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise RequestError(f"unknown query parameter; this route takes: {listed}", field=name)


def _taken(dependant: Any) -> Iterator[str]:
    for parameter in dependant.query_params:
        yield parameter.alias
    for inner in dependant.dependencies:
        yield from _taken(inner)
