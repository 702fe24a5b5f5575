"""What all commands share: options to reach the service, and how output is printed."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from idefiq.protocol import DEFAULT_URL

UrlOption = Annotated[
    str | None,
    typer.Option(help=f"URL of the service (default: IDEFIQ_URL, or {DEFAULT_URL})"),
]
ApiKeyOption = Annotated[str | None, typer.Option(help="API key (default: IDEFIQ_API_KEY)")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line")]

#: Control characters, which a terminal would obey instead of showing.
_CONTROLS = {
    code: "�"
    for code in (*range(32), *range(127, 160), *range(0xD800, 0xE000))
    if chr(code) not in "\t\n"
}


def shown(text: str) -> str:
    """Make text of pages and models safe to print: replace control characters."""
    return text.translate(_CONTROLS)


errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def print_json(value: Any) -> None:
    """Print one line of JSON and flush, because a reader of the pipe may be waiting."""
    print(json.dumps(value, ensure_ascii=False, default=_as_json), flush=True)


def _as_json(value: object) -> str:
    """Render times as the HTTP interface does."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
