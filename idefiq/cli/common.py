"""What all commands share: how to reach the service, and how to say things."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from idefiq.protocol import DEFAULT_URL

UrlOption = Annotated[
    str | None,
    typer.Option(help=f"Where the service is; IDEFIQ_URL, or {DEFAULT_URL}, if not said"),
]
ApiKeyOption = Annotated[str | None, typer.Option(help="API key; IDEFIQ_API_KEY if not said")]
AsJson = Annotated[bool, typer.Option("--json", help="Say it as JSON, for programs")]

#: What a terminal would obey instead of showing.
_CONTROLS = {
    code: "�"
    for code in (*range(32), *range(127, 160), *range(0xD800, 0xE000))
    if chr(code) not in "\t\n"
}


def shown(text: str) -> str:
    """Text of pages and models, for a terminal: control characters are not obeyed."""
    return text.translate(_CONTROLS)


errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def say_json(value: Any) -> None:
    """One line of JSON on standard output, at once: whoever reads the pipe may be waiting."""
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)
