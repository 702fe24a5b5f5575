"""`make docs`: writes the parts of the reference pages that follow from the code.

Longer than 300 lines because it writes every generated page.

OpenAPI document ─▶ every route, with the examples of docs/examples.txt ─▶ api.md
error classes    ─▶ every code with its status                          ─▶ errors.md
settings classes ─▶ every environment variable              ─▶ settings.md, deploy/env.example
commands         ─▶ every argument and option                           ─▶ cli.md
metrics          ─▶ every metric, by process                            ─▶ monitoring.md
panels           ─▶ docs/dashboards.py                       ─▶ deploy/monitoring/grafana
"""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import EnumType
from functools import cache
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from api import admin
from api import errors as statuses
from api.admin import Revoked
from api.app import create_app
from api.audit import AuditEntryOut
from api.keys import KeyOut, NewKeyOut
from api.settings import ApiSettings
from db.settings import StorageSettings
from db.vocabulary import errors
from docs.dashboards import dashboards
from docs.metrics import metrics_tables
from docs.openai_fields import fields_table
from idefiq import reviews, types
from idefiq.alt.site import AltState
from idefiq.bulk.run import Summary
from idefiq.queue import Queue
from idefiq.usage import DayUsage
from workers.operator.doctor import Diagnosis
from workers.settings import (
    BrokerSettings,
    EngineSettings,
    IntakeSettings,
    UpkeepSettings,
    WorkerSettings,
)

DOCS = Path(__file__).parent
#: Heading → settings that a process reads.
SETTINGS: dict[str, type[BaseSettings]] = {
    "Every process": StorageSettings,
    "The API and every worker": BrokerSettings,
    "Every worker": WorkerSettings,
    "The API": ApiSettings,
    "Intake workers": IntakeSettings,
    "Engine workers": EngineSettings,
    "Upkeep workers": UpkeepSettings,
}
JSON_OUTPUT = """\
With `--json` a command prints objects on standard output, one a line; messages go to standard
error (with `alt apply --patch -`, which prints the patch, the object goes there too). Times are
as over HTTP: in UTC, such as `2026-11-29T12:00:00.123456Z`. Fields may be added in any release.
Without `--out` or `--sidecar`, `caption`, `ask`, `classify` and `chat` print the rows of a
`.jsonl` output instead of a summary. `results` and `watch` print JSON without the option:
`results` rows, and `watch` an object with `event`, `id` and the fields of a job or of a result;
`id` is that of the job, or of the event if it has a result."""
_COUNTS = ("pages", "images", *(state.value for state in AltState), "notes", "unread")
#: Commands that print the same, its class, and fields that the class lacks.
JSON_SHAPES: list[tuple[tuple[str, ...], type | None, tuple[str, ...]]] = [
    (("caption", "ask", "classify", "chat", "retry OUT"), Summary, ("failures",)),
    (
        ("caption --dry-run", "ask --dry-run", "classify --dry-run", "chat --dry-run"),
        None,
        (
            *("images", "to_ask", "in_progress", "done", "failed", "skipped"),
            *("listed_by_the_service", "items_per_second", "seconds", "cost", "currency"),
        ),
    ),
    (("retry JOB",), None, ("job", "items")),
    (("jobs", "cancel", "pause", "resume", "priority"), types.Job, ()),
    (("delete",), None, ("id", "deleted")),
    (("models",), types.Model, ()),
    (("top",), Queue, ()),
    (("usage",), DayUsage, ("currency",)),
    (("review",), reviews.Review, ()),
    (("review --csv",), None, ("drafts", "file")),
    (("review --import-csv",), None, ("taken", "refused")),
    (("alt check", "alt draft --dry-run"), None, (*_COUNTS, "to_ask")),
    (
        ("alt draft", "alt apply"),
        None,
        (*_COUNTS, "jobs", "reviews", "written", "failed", "without_place"),
    ),
    (("alt lint",), None, ("where", "text", "code", "message", "error")),
    (("doctor",), Diagnosis, ()),
    (("keys create", "admin keys create"), NewKeyOut, ()),
    (("keys list", "admin keys list"), KeyOut, ()),
    (("keys revoke", "admin keys revoke"), Revoked, ()),
    (("admin limit",), admin.OwnerLine, ()),
    (("admin verify",), admin.DifferenceOut, ()),
    (("admin grant",), admin.Grant, ()),
    (("admin audit",), AuditEntryOut, ()),
]
_MARKER = "<!-- {}: written by `make docs` -->\n"


@dataclass(frozen=True, slots=True)
class Example:
    """One request and the status that it answers with; `kept` are values of the answer."""

    route: str
    command: str
    status: int
    kept: dict[str, str]


def examples() -> Iterator[Example]:
    """Those of docs/examples.txt, in order."""
    text = (DOCS / "examples.txt").read_text().partition("\n\n")[2]
    for block in text.strip().split("\n\n"):
        route, *command, told = block.splitlines()
        status, *kept = told.split()
        pairs = dict(each.split("=", 1) for each in kept)
        yield Example(route, "\n".join(command), int(status), pairs)


@cache
def openapi() -> dict[str, Any]:
    """The API's document."""
    with tempfile.TemporaryDirectory() as folder:
        record = StorageSettings(
            database_url=f"sqlite:///{folder}/idefiq.db", store_folder=Path(folder)
        )
        app = create_app(record, ApiSettings())
        document = app.openapi()
        app.state.services.database.dispose()
    return document


# ---- routes -------------------------------------------------------------------------


def routes() -> str:
    """A section for every route, by tag."""
    shown: dict[str, list[Example]] = {}
    for example in examples():
        shown.setdefault(example.route, []).append(example)
    sections: dict[str, list[str]] = {}
    for path, methods in openapi()["paths"].items():
        for method, operation in methods.items():
            route = f"{method.upper()} {path}"
            tag = operation.get("tags", ["health"])[0]
            sections.setdefault(tag, []).append(_route(route, operation, shown.get(route, [])))
    return "\n".join(f"## Routes: {tag}\n\n" + "\n".join(each) for tag, each in sections.items())


def _route(route: str, operation: dict[str, Any], shown: list[Example]) -> str:
    lines = [f"### `{route}`", "", _paragraphs(operation.get("description", "")), ""]
    parameters = [each for each in operation.get("parameters", []) if each["in"] != "path"]
    if parameters:
        lines += ["| parameter | in | type | meaning |", "|---|---|---|---|"]
        lines += [_parameter(each) for each in parameters]
        lines.append("")
    for example in shown:
        lines += [f"    {line}" for line in example.command.splitlines()]
        lines += [f"    # {example.status}", ""]
    return "\n".join(lines)


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    meaning = _sentence(parameter.get("description", ""))
    return f"| `{parameter['name']}` | {parameter['in']} | {_type(schema)} | {meaning} |"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        schema = openapi()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    kinds = [_type(each) for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if kinds:
        return " or ".join(kinds)
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"{_type(schema['items'])}, repeated"
    low, high = schema.get("minimum"), schema.get("maximum")
    return f"{kind}, {low} to {high}" if low is not None and high is not None else kind


def _paragraphs(text: str) -> str:
    """A docstring, its lines joined to paragraphs."""
    return "\n\n".join(" ".join(each.split()) for each in text.split("\n\n"))


def _sentence(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ---- codes --------------------------------------------------------------------------


def codes() -> str:
    """Tables of every error code, with the first sentence of its class."""
    of_requests = ["## Of requests", "", "| code | status | meaning |", "|---|---|---|"]
    of_items = ["## Of items", "", "| code | retried | meaning |", "|---|---|---|"]
    for kind in _below(errors.IdefiqError):
        said = _sentence((kind.__doc__ or "").partition("\n\n")[0])
        status = next((statuses.STATUS[k] for k in kind.__mro__ if k in statuses.STATUS), None)
        if issubclass(kind, errors.RequestError | errors.StorageError) and "code" in vars(kind):
            of_requests.append(f"| `{kind.code}` | {status} | {said} |")
        elif "code" in vars(kind):
            retried = "yes" if kind.retryable else "no"
            of_items.append(f"| `{kind.code}` | {retried} | {said} |")
    others = [
        f"| `{code}` | {status} | {said} |" for code, (status, said) in statuses.OTHER_CODES.items()
    ]
    of_requests += others
    return "\n".join([*of_requests, "", *of_items])


def settings() -> str:
    """A table of every setting, by the processes that read it."""
    sections = []
    for heading, found in _settings():
        rows = ["| variable | default | meaning |", "|---|---|---|"]
        for name, field in found.items():
            shown = f"`{_default(field)}`" if _default(field) else ""
            rows.append(f"| `{name}` | {shown} | {_sentence(field.description or '')} |")
        sections.append("\n".join([f"## {heading}", "", *rows]))
    return "\n\n".join(sections)


def env_example() -> str:
    """Every setting with its default, as a file of environment variables to copy."""
    lines = ["# Every setting, with its default. Remove the # of those that you change.", ""]
    for heading, found in _settings():
        lines += [f"## {heading}", ""]
        for name, field in found.items():
            lines += [f"# {field.description}", f"#{name}={_default(field)}", ""]
    return "\n".join(lines)


def _settings() -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    """Headings with the variables that no heading before has."""
    listed: set[str] = set()
    for heading, model in SETTINGS.items():
        found = {f"IDEFIQ_{name.upper()}": each for name, each in model.model_fields.items()}
        yield heading, {name: each for name, each in found.items() if name not in listed}
        listed |= set(found)


def _default(field: FieldInfo) -> str:
    """Default of a setting as its environment variable has it; empty if it is not a constant."""
    default = field.default
    if field.is_required() or field.default_factory or default is None:
        return ""
    if isinstance(default, frozenset):
        default = sorted(default)
    return json.dumps(default) if isinstance(default, bool | list | dict) else str(default)


def _below(kind: type[errors.IdefiqError]) -> Iterator[type[errors.IdefiqError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


# ---- commands -----------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and options; those of all runs come first, once."""
    from idefiq.cli.run_options import RunOptions

    of_runs = set(RunOptions.__slots__)
    sections, shared = [], ""
    for name, command in all_commands():
        parameters = [
            each
            for each in command.params
            if each.name != "help" and not getattr(each, "hidden", False)
        ]
        is_run = of_runs <= {each.name for each in parameters}
        if is_run:
            shared = _parameters([each for each in parameters if each.name in of_runs])
            parameters = [each for each in parameters if each.name not in of_runs]
        words = [name, *(each.name for each in parameters if each.param_type_name == "argument")]
        words += ["source…"] if is_run else []
        lines = [f"## `idefiq {' '.join(words)}`", "", _paragraphs(command.help or ""), ""]
        table = [_parameters(parameters), ""] if parameters else []
        sections.append("\n".join([*lines, *table]))
    return "\n".join(["## Options of every run", "", shared, "", *sections, *_json_output()])


def _json_output() -> list[str]:
    """A table of the fields that each command prints with --json."""
    lines = [
        "## JSON output",
        "",
        JSON_OUTPUT,
        "",
        "| command | fields of an object |",
        "|---|---|",
    ]
    for names, _, _ in JSON_SHAPES:
        shown = [f"`{name}`" for name in json_fields(names[0])]
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {', '.join(shown)} |")
    return [*lines, ""]


def json_fields(command: str) -> tuple[str, ...]:
    """Fields of the objects that `idefiq COMMAND --json` prints."""
    [(shape, more)] = [(shape, more) for names, shape, more in JSON_SHAPES if command in names]
    return (*_fields(shape), *more)


def _fields(shape: type | None) -> tuple[str, ...]:
    """Names of the fields of a dataclass or of a model of pydantic."""
    if shape is None:
        return ()
    if is_dataclass(shape):
        return tuple(each.name for each in fields(shape))
    return tuple(shape.model_fields)  # type: ignore[attr-defined]


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command with its whole name, those of `idefiq admin` included."""
    from idefiq.cli import app

    yield from _all(typer.main.get_command(app))
    yield from _all(typer.main.get_command(admin.app), "admin ")


def _all(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name, those of groups included."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if command.params or not hasattr(command, "commands"):
            yield f"{above}{name}", command
        yield from _all(command, f"{above}{name} ") if hasattr(command, "commands") else ()


def _parameters(parameters: list[Any]) -> str:
    return "\n".join(
        [
            "| option or argument | value; default | meaning |",
            "|---|---|---|",
            *map(_shown, parameters),
        ]
    )


def _shown(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"| `{parameter.name}` | | {_sentence(parameter.help or '')} |"
    return _option(parameter)


def _option(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    annotation = option.type_descriptor.annotation
    values: Any = annotation if isinstance(annotation, EnumType) else ()
    kind = " or ".join(str(each.value) for each in values)
    if not option.is_flag:
        kind = kind or getattr(annotation, "__name__", "str").lower()
    kind = {"str": "text", "int": "number", "list": "text, repeated"}.get(kind, kind)
    default = getattr(option.default, "value", option.default)
    shown = f"; `{default}`" if default not in (None, "", False, True, 0) else ""
    return f"| {names} | {kind}{shown} | {_sentence(option.help or '')} |"


# ---- pages --------------------------------------------------------------------------


def written(page: str, **parts: str) -> str:
    """A page with its generated parts put between their markers."""
    for name, part in parts.items():
        begin, end = _MARKER.format(name), _MARKER.format(f"end of {name}")
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text = f"{begin}\n{part.strip()}\n\n{end}"
        page, count = re.subn(pattern, lambda _, text=text: text, page, flags=re.DOTALL)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"the page has no place for {name}")
    return page


def pages() -> dict[Path, str]:
    """All pages with generated parts, as they should be."""
    parts = {
        "api.md": {"routes": routes()},
        "cli.md": {"commands": commands()},
        "errors.md": {"codes": codes()},
        "monitoring.md": {"metrics": metrics_tables()},
        "openai.md": {"fields": fields_table()},
        "settings.md": {"settings": settings()},
    }
    made = {DOCS / name: written((DOCS / name).read_text(), **each) for name, each in parts.items()}
    return {**made, DOCS.parent / "deploy" / "env.example": env_example(), **dashboards()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
