"""Options that all commands share which ask about many images."""

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from idefiq.bulk.ask import Ask
from idefiq.bulk.formats import ENDINGS
from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption
from idefiq.errors import IdefiqError


class Existing(StrEnum):
    """What to do if a text, or the output, exists already."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    APPEND = "append"
    PREPEND = "prepend"


class IfModelChanged(StrEnum):
    """What a job does when the service serves another variant of its model."""

    CONTINUE = "continue"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of every run."""

    source: Annotated[
        list[str],
        typer.Argument(
            help="Folders, globs, images, .csv .tsv .jsonl .parquet tables, .tar shards, URLs,"
            " s3://bucket/prefix/"
        ),
    ]
    out: Annotated[
        str | None,
        typer.Option(
            help=f"FILE{ENDINGS}, shards-%06d.tar, or FOLDER/ for text files (default: print a line"
            " for each image)"
        ),
    ] = None
    sidecar: Annotated[
        str, typer.Option(help="Write a text file beside each image: .txt or .caption")
    ] = ""
    existing: Annotated[
        Existing, typer.Option(help="What to do with existing texts, or an existing output")
    ] = Existing.SKIP
    prefix: Annotated[str, typer.Option(help="Text to put before every answer")] = ""
    suffix: Annotated[str, typer.Option(help="Text to put after every answer")] = ""
    model: Annotated[
        str | None, typer.Option(help="Model to use (needed if several are served)")
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option(help="Generation option, such as max_new_tokens=40; may be repeated"),
    ] = None
    language: Annotated[str | None, typer.Option(help="Language of the answers")] = None
    schema: Annotated[
        Path | None,
        typer.Option(
            help="File with a JSON Schema: answers are JSON that it describes, and each of its"
            " fields is a column of a table"
        ),
    ] = None
    choice: Annotated[
        list[str] | None,
        typer.Option(help="Answers are one of the choices; repeat for two or more"),
    ] = None
    regex: Annotated[
        str | None,
        typer.Option(help="Answers match this pattern from their beginning to their end"),
    ] = None
    image_column: Annotated[
        str | None, typer.Option(help="Column of a table that names or holds the image")
    ] = None
    recursive: Annotated[bool, typer.Option(help="Search folders recursively")] = True
    limit: Annotated[
        int, typer.Option(min=0, help="Process at most this many images; 0 for all")
    ] = 0
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the images and estimate time and cost")
    ] = False
    pause_on_issues: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.99, help="Stop when a larger share of a job's answers has issues (0 to 1)"
        ),
    ] = None
    model_changed: Annotated[
        IfModelChanged | None,
        typer.Option(
            help="What to do if the service changes to another checkpoint or other options of the"
            " model meanwhile (default: pause)"
        ),
    ] = None
    manifest: Annotated[
        Path | None,
        typer.Option(help="State of the run, for resuming (default: beside the output)"),
    ] = None
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            "--restart",
            help="Ignore what an earlier run has done (--restart until release 0.3)",
        ),
    ] = False
    as_json: AsJson = False
    url: UrlOption = None
    api_key: ApiKeyOption = None


def with_options(
    build: Callable[..., Ask], start: Callable[[Ask, RunOptions], None]
) -> Callable[..., None]:
    """Make a command that takes the parameters of `build` and every field of RunOptions.

    Args:
        start: Called with the request that `build` returns.
    """
    own = inspect.signature(build).parameters
    shared = inspect.signature(RunOptions).parameters
    hints = get_type_hints(RunOptions, include_extras=True)

    @functools.wraps(build)
    def command(**values: Any) -> None:
        ask = build(**{name: values[name] for name in own})
        start(ask, RunOptions(**{name: values[name] for name in shared}))

    listed = [
        parameter.replace(
            kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints.get(name, parameter.annotation)
        )
        for name, parameter in {**own, **shared}.items()
    ]
    command.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in listed}
    return command


def structure(options: RunOptions) -> dict[str, Any]:
    """Return what the request says of the structure of answers.

    Raises:
        IdefiqError: More than one is given, or the file of a schema is not one.
    """
    given = {"--schema": options.schema, "--choice": options.choice, "--regex": options.regex}
    named = [name for name, value in given.items() if value is not None and value != []]
    if len(named) > 1:
        raise IdefiqError(f"{' and '.join(named)} exclude each other")
    if options.schema:
        return {"schema": _schema(options.schema)}
    if options.choice:
        return {"choices": options.choice}
    return {} if options.regex is None else {"regex": options.regex}


def _schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(path.read_bytes())
    except OSError as error:
        raise IdefiqError(f"--schema {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise IdefiqError(f"--schema {str(path)!r} is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise IdefiqError(f"--schema {str(path)!r}: a JSON Schema is an object")
    return schema


def generation_options(texts: Sequence[str]) -> dict[str, Any]:
    """Return the options of texts such as max_new_tokens=40.

    Raises:
        IdefiqError: One is not of this form.
    """
    return dict(map(_option, texts))


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise IdefiqError(f"--option {text!r}: expected name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
