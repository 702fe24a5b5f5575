"""Commands that ask about many images: caption, ask, classify, chat, and retry.

Each kind says what it asks; what all share are the fields of `RunOptions`.
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
from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, errors, say_json
from idefiq.cli.report import progress, say_how_to_go_on, say_the_end, say_what_there_is
from idefiq.client import Client
from idefiq.types import IdefiqError


class Existing(StrEnum):
    """What to do where a text, or the output, is there already from before."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    APPEND = "append"
    PREPEND = "prepend"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Everything that a run can be told, whatever it asks."""

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
            help="FILE.jsonl .csv .parquet .txt, metadata.jsonl, shards-%06d.tar, or FOLDER/ for a"
            " text each; else a line each on standard output"
        ),
    ] = None
    sidecar: Annotated[
        str, typer.Option(help="Write a text beside each image: .txt or .caption")
    ] = ""
    existing: Annotated[
        Existing, typer.Option(help="What to do with texts, or an output, from before")
    ] = Existing.SKIP
    prefix: Annotated[str, typer.Option(help="Put before every answer")] = ""
    suffix: Annotated[str, typer.Option(help="Put after every answer")] = ""
    model: Annotated[str | None, typer.Option(help="Which model; not needed if there is one")] = (
        None
    )
    option: Annotated[
        list[str] | None,
        typer.Option(help="How to generate, such as max_new_tokens=40; may be repeated"),
    ] = None
    language: Annotated[str | None, typer.Option(help="Language of the answers")] = None
    image_column: Annotated[
        str | None, typer.Option(help="Column of a table that names or holds the image")
    ] = None
    recursive: Annotated[bool, typer.Option(help="Look into folders within folders")] = True
    limit: Annotated[int, typer.Option(min=0, help="Take so many images at most; 0 takes all")] = 0
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is to do, and how long it takes")
    ] = False
    manifest: Annotated[
        Path | None,
        typer.Option(help="Memory of the run, by which it goes on; beside the output if not said"),
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
    """A command that takes what `build` takes and every field of RunOptions, and runs it."""
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


# ---- what is asked ------------------------------------------------------------------


def caption(
    prompt: Annotated[
        str, typer.Option(help="What to say instead of the default; {column} is each row's own")
    ] = "",
) -> Ask:
    """Caption images."""
    return Ask({"kind": "caption"}, "prompt", prompt)


def ask(
    question: Annotated[str, typer.Argument(help="May name columns: 'Is this a {product}?'")],
) -> Ask:
    """Ask a question about every image."""
    if not question.strip():
        raise IdefiqError("the question is empty")
    return Ask({"kind": "vqa"}, "question", question)


def classify(
    label: Annotated[list[str], typer.Option(help="What to choose from; two or more, repeated")],
    rank: Annotated[
        bool, typer.Option("--rank", help="Rank all labels by their likelihood, with scores")
    ] = False,
) -> Ask:
    """Choose a label for every image."""
    if len(label) < 2:
        raise IdefiqError("classify needs two labels or more: repeat --label for each")
    request: dict[str, Any] = {"kind": "classify", "labels": label}
    return Ask({**request, "method": "rank"} if rank else request)


def chat(
    message: Annotated[str, typer.Argument(help="What to say about every image; may name columns")],
    system: Annotated[str, typer.Option(help="What the model is told before")] = "",
) -> Ask:
    """Say something about every image to a model that takes turns, and keep its answers."""
    return Ask({"kind": "chat"}, "messages", message, system)


def _request(ask: Ask, options: RunOptions) -> Ask:
    request = dict(ask.request)
    if options.language:
        request["language"] = options.language
    if options.option:
        request["options"] = dict(map(_option, options.option))
    return replace(ask, request=request)


def _option(said: str) -> tuple[str, Any]:
    name, equals, value = said.partition("=")
    if not equals:
        raise IdefiqError(f"--option {said!r}: say it as name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


# ---- runs ---------------------------------------------------------------------------


def start(ask: Ask, options: RunOptions) -> None:
    """Begin a run, or go on with it. Nothing is written before everything has been looked at."""
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
        raise IdefiqError("--limit is for images that are listed here, not for buckets")
    path = options.manifest or output.manifest_path()
    with origin.in_folder_of(plan, path) as (seen, manifest):
        _start(seen, manifest, options)


def _start(plan: Plan, path: Path | None, options: RunOptions) -> None:
    output = outputs.resolve(plan)
    sources.check(plan.sources)
    if plan.existing == Existing.SKIP and not (path and path.exists()) and output.is_there():
        raise IdefiqError(
            f"{plan.out!r} is there, and of no run that is known here:"
            " --existing overwrite replaces it"
        )
    with Client(options.url, options.api_key) as client:
        _check_model(client, plan)
        if options.dry_run:
            _say_what_there_is(client, output, path, options)
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
    what: Annotated[str, typer.Argument(help="A job, or the output or manifest of a run")],
    code: Annotated[
        list[str] | None, typer.Option(help="Only these errors, such as fetch_failed")
    ] = None,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Ask again about what failed: as a new job, or by going on with a run."""
    with Client(url, api_key) as client:
        if what.startswith("job_"):
            job = client.retry(what, codes=code or ())
            if as_json:
                say_json({"job": job.id, "items": job.counts.total})
            else:
                print(f"{job.id} asks again about {job.counts.total}")
            return
        manifest = Manifest(_found_manifest(what))
        try:
            manifest.follow()
            plan = manifest.plan()
            with origin.resumed(manifest, plan):
                again = manifest.retry(code or ())
                errors.print(f"{again} that failed are asked about again")
                output = outputs.resolve(plan)
                _carry_out(client, output, manifest, as_json=as_json, scan=False)
        finally:
            manifest.close()


def _suffix(said: str) -> str:
    return said if not said or said.startswith(".") else f".{said}"


def _found_manifest(what: str) -> Path:
    path = Path(what)
    candidates = [Path(f"{what}.idefiq"), path / ".idefiq", path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise IdefiqError(f"{what!r} is no job, and there is no manifest of a run that wrote it")


def _check_model(client: Client, plan: Plan) -> None:
    known = {model.name: model for model in client.models()}
    if plan.model and plan.model not in known:
        listed = ", ".join(known) or "none"
        raise IdefiqError(f"there is no model {plan.model!r}; known models: {listed}")
    chosen = known.get(plan.model) if plan.model else next(iter(known.values()), None)
    kind = plan.ask.request["kind"]
    if chosen and (plan.model or len(known) == 1) and kind not in chosen.kinds:
        raise IdefiqError(f"model {chosen.name!r} cannot {kind}; it can {', '.join(chosen.kinds)}")


def _say_what_there_is(
    client: Client, output: outputs.Output, path: Path | None, options: RunOptions
) -> None:
    """Count, and say how long it would take."""
    plan, manifest = output.plan, Manifest.copy(path)
    if options.fresh:
        manifest.forget()
    manifest.begin(plan)
    run.Run(client, output, manifest, lambda *_: None).scan()
    counts = manifest.counts()
    manifest.close()
    new, rate = counts.get("new", 0), run.expected_rate(client, plan.model)
    buckets = [word for word in plan.sources if sources.is_bucket(word)]
    told = {
        "images": sum(counts.values()),
        "to_ask": new,
        "on_their_way": counts.get("sent", 0),
        "done": counts.get("done", 0),
        "failed": counts.get("failed", 0),
        "skipped": counts.get("skipped", 0),
        "listed_by_the_service": buckets,
        "items_per_second": rate,
        "seconds": new / rate if rate else None,
    }
    say_what_there_is(told, as_json=options.as_json)


def _carry_out(
    client: Client, output: outputs.Output, manifest: Manifest, *, as_json: bool, scan: bool
) -> None:
    """Do everything, write everything, and say what came of it."""
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
            say_how_to_go_on(manifest)
            raise
        finally:
            carried.write()
            if prints := output.form is outputs.Form.PRINT:
                lines = writers.jsonl_lines if as_json else writers.txt_lines
                for line in lines(output.plan, manifest.images("done", "failed")):
                    sys.stdout.write(line.decode())
    say_the_end(manifest, output, carried.summary(), as_json=as_json and not prints)
