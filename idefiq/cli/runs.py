"""Commands that ask about many images: caption, ask, classify, chat, and retry.

Each command builds its request; the options that all share are the fields of `RunOptions`.
"""

import functools
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from idefiq.bulk import origin, outputs, run, sources, writers
from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.manifest import Manifest
from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, errors, print_json
from idefiq.cli.report import print_dry_run, print_how_to_resume, print_summary, progress
from idefiq.client import Client
from idefiq.types import IdefiqError


class Existing(StrEnum):
    """What to do if a text, or the output, exists already."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    APPEND = "append"
    PREPEND = "prepend"


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
            help="FILE.jsonl .csv .parquet .txt, metadata.jsonl, shards-%06d.tar, or FOLDER/ for"
            " text files (default: print a line for each image)"
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
    image_column: Annotated[
        str | None, typer.Option(help="Column of a table that names or holds the image")
    ] = None
    recursive: Annotated[bool, typer.Option(help="Search folders recursively")] = True
    limit: Annotated[
        int, typer.Option(min=0, help="Process at most this many images; 0 for all")
    ] = 0
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the images and estimate the time")
    ] = False
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


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (caption, ask, classify, chat):
        app.command()(_with_options(command))
    app.command()(retry)


def _with_options(build: Callable[..., Ask]) -> Callable[..., None]:
    """Make a command that takes the parameters of `build` and every field of RunOptions."""
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


# ---- requests ------------------------------------------------------------------


def caption(
    prompt: Annotated[
        str, typer.Option(help="Prompt instead of the default; {column} is filled in from each row")
    ] = "",
) -> Ask:
    """Caption images.

    Exit status: 0 if all images have an answer, 1 if some failed, 2 for errors of the command or
    the service.
    """
    return Ask({"kind": "caption"}, "prompt", prompt)


def ask(
    question: Annotated[
        str, typer.Argument(help="Question; may name columns: 'Is this a {product}?'")
    ],
) -> Ask:
    """Ask a question about every image."""
    if not question.strip():
        raise IdefiqError("the question is empty")
    return Ask({"kind": "vqa"}, "question", question)


def classify(
    label: Annotated[
        list[str], typer.Option(help="A label to choose from; repeat for two or more")
    ],
    rank: Annotated[
        bool, typer.Option("--rank", help="Score all labels, and choose the best")
    ] = False,
) -> Ask:
    """Choose a label for every image."""
    if len(label) < 2:
        raise IdefiqError("classify requires two labels or more: repeat --label")
    request: dict[str, Any] = {"kind": "classify", "labels": label}
    return Ask({**request, "method": "rank"} if rank else request)


def chat(
    message: Annotated[str, typer.Argument(help="Message about every image; may name columns")],
    system: Annotated[str, typer.Option(help="System message")] = "",
) -> Ask:
    """Send a message about every image to a chat model."""
    return Ask({"kind": "chat"}, "messages", message, system)


def _request(ask: Ask, options: RunOptions) -> Ask:
    request = dict(ask.request)
    if options.language:
        request["language"] = options.language
    if options.option:
        request["options"] = dict(map(_option, options.option))
    return replace(ask, request=request)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise IdefiqError(f"--option {text!r}: expected name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


# ---- runs ---------------------------------------------------------------------------


def start(ask: Ask, options: RunOptions) -> None:
    """Start or resume a run. Nothing is written before all options are checked."""
    plan = Plan(
        sources=[sources.normal(word) for word in options.source],
        ask=_request(ask, options),
        model=options.model,
        out=options.out,
        sidecar=_suffix(options.sidecar),
        existing=options.existing.value,
        prefix=options.prefix,
        suffix=options.suffix,
        recursive=options.recursive,
        image_column=options.image_column,
        limit=options.limit,
    )
    output = outputs.resolve(plan)
    sources.check(plan.sources)
    if plan.limit and any(map(sources.is_bucket, plan.sources)):
        raise IdefiqError("--limit is not supported for buckets, which the service lists")
    path = options.manifest or output.manifest_path()
    with origin.in_folder_of(plan, path) as (seen, manifest):
        _start(seen, manifest, options)


def _start(plan: Plan, path: Path | None, options: RunOptions) -> None:
    output = outputs.resolve(plan)
    sources.check(plan.sources)
    if plan.existing == Existing.SKIP and not (path and path.exists()) and output.is_there():
        raise IdefiqError(
            f"{plan.out!r} exists, but not from a run that can be resumed;"
            " replace it with --existing overwrite"
        )
    with Client(options.url, options.api_key) as client:
        _check_model(client, plan)
        if options.dry_run:
            _dry_run(client, output, path, options)
            return
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(path)
        try:
            if options.fresh:
                manifest.forget()
            manifest.begin(plan, is_named=options.manifest is not None)
            _carry_out(client, output, manifest, as_json=options.as_json, scan=True)
        finally:
            manifest.close()


def retry(
    what: Annotated[str, typer.Argument(help="Job id, or the output or manifest of a run")],
    code: Annotated[
        list[str] | None,
        typer.Option(help="Only this error code, such as fetch_failed; repeatable"),
    ] = None,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Retry failed items: those of a job as a new job, those of a run in its output."""
    with Client(url, api_key) as client:
        if what.startswith("job_"):
            job = client.retry(what, codes=code or ())
            if as_json:
                print_json({"job": job.id, "items": job.counts.total})
            else:
                print(f"{job.id} retries {job.counts.total} items")
            return
        manifest = Manifest(_find_manifest(what))
        try:
            manifest.follow()
            plan = manifest.plan()
            with origin.resumed(manifest, plan):
                again = manifest.retry(code or ())
                errors.print(f"retrying {again} failed images")
                output = outputs.resolve(plan)
                _carry_out(client, output, manifest, as_json=as_json, scan=False)
        finally:
            manifest.close()


def _suffix(text: str) -> str:
    return text if not text or text.startswith(".") else f".{text}"


def _find_manifest(what: str) -> Path:
    path = Path(what)
    candidates = [Path(f"{what}.idefiq"), path / ".idefiq", path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise IdefiqError(f"{what!r} is not a job id, and has no manifest of a run")


def _check_model(client: Client, plan: Plan) -> None:
    known = {model.name: model for model in client.models()}
    if plan.model and plan.model not in known:
        listed = ", ".join(known) or "none"
        raise IdefiqError(f"unknown model: {plan.model!r}; known models: {listed}")
    chosen = known.get(plan.model) if plan.model else next(iter(known.values()), None)
    kind = plan.ask.request["kind"]
    if chosen and (plan.model or len(known) == 1) and kind not in chosen.kinds:
        raise IdefiqError(
            f"model {chosen.name!r} does not support {kind}; it supports {', '.join(chosen.kinds)}"
        )


def _dry_run(
    client: Client, output: outputs.Output, path: Path | None, options: RunOptions
) -> None:
    """Count the images and estimate the time."""
    plan, manifest = output.plan, Manifest.copy(path)
    if options.fresh:
        manifest.forget()
    manifest.begin(plan)
    run.Run(client, output, manifest, lambda *_: None).scan()
    counts = manifest.counts()
    manifest.close()
    new, rate = counts.get("new", 0), run.expected_rate(client, plan.model)
    buckets = [word for word in plan.sources if sources.is_bucket(word)]
    record = {
        "images": sum(counts.values()),
        "to_ask": new,
        "in_progress": counts.get("sent", 0),
        "on_their_way": counts.get("sent", 0),  # its name in release 0.1
        "done": counts.get("done", 0),
        "failed": counts.get("failed", 0),
        "skipped": counts.get("skipped", 0),
        "listed_by_the_service": buckets,
        "items_per_second": rate,
        "seconds": new / rate if rate else None,
    }
    print_dry_run(record, as_json=options.as_json)


def _carry_out(
    client: Client, output: outputs.Output, manifest: Manifest, *, as_json: bool, scan: bool
) -> None:
    """Process all images, write the output and print the summary."""
    with progress(quiet=as_json) as report:
        carried = run.Run(client, output, manifest, report)
        if scan:
            carried.scan()
        buckets = any(map(sources.is_bucket, output.plan.sources))
        if not manifest.counts() and not manifest.open_chunks() and not buckets:
            named = ", ".join(output.plan.sources)
            looked_for = " ".join(sorted(sources.SUFFIXES))
            raise IdefiqError(f"no images in {named}: looked for {looked_for}")
        try:
            carried.work()
        except (KeyboardInterrupt, IdefiqError):
            print_how_to_resume(manifest)
            raise
        finally:
            carried.write()
            if prints := output.form is outputs.Form.PRINT:
                lines = writers.jsonl_lines if as_json else writers.txt_lines
                for line in lines(output.plan, manifest.images("done", "failed")):
                    sys.stdout.write(line.decode())
    print_summary(manifest, output, carried.summary(), as_json=as_json and not prints)
