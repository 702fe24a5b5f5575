"""Commands that ask about many images: caption, ask, classify, chat, and retry.

Each command builds its request; the options that all share are in run_options.py.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from idefiq.bulk import formats, origin, run, sources
from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.choose_output import choose_output
from idefiq.bulk.manifest import Manifest
from idefiq.bulk.outputs import Output
from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, errors, print_json
from idefiq.cli.report import print_dry_run, print_how_to_resume, print_summary, progress
from idefiq.cli.run_options import (
    Existing,
    RunOptions,
    generation_options,
    structure,
    with_options,
)
from idefiq.client import Client
from idefiq.errors import IdefiqError
from idefiq.types import ISSUES, SAMPLING_OPTIONS


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (caption, ask, classify, chat):
        app.command()(with_options(command, start))
    app.command()(retry)


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
        request["options"] = generation_options(options.option)
    if structured := structure(options):
        if "labels" in request:
            raise IdefiqError("classify has its labels: leave --schema, --choice and --regex out")
        request |= structured
    return replace(ask, request=request)


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
        pause_on_issues=options.pause_on_issues,
        model_changed=options.model_changed.value if options.model_changed else None,
    )
    output = choose_output(plan)
    sources.check(plan.sources)
    if plan.limit and any(map(sources.is_bucket, plan.sources)):
        raise IdefiqError("--limit is not supported for buckets, which the service lists")
    path = options.manifest or output.manifest_path()
    with origin.in_folder_of(plan, path) as (seen, manifest):
        _start(seen, manifest, options)


def _start(plan: Plan, path: Path | None, options: RunOptions) -> None:
    output = choose_output(plan)
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
                manifest.chunks.forget()
            manifest.images.keep_answers()
            manifest.run.begin(plan, is_named=options.manifest is not None)
            _carry_out(client, output, manifest, as_json=options.as_json, scan=True)
        finally:
            manifest.close()


def retry(
    what: Annotated[str, typer.Argument(help="Job id, or the output or manifest of a run")],
    code: Annotated[
        list[str] | None,
        typer.Option(help="Only failed items with this code, such as fetch_failed; repeatable"),
    ] = None,
    issue: Annotated[
        list[str] | None,
        typer.Option(help=f"Only answers with this issue: {ISSUES}; repeatable"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Other generation option for them, such as temperature=0.7; repeatable"),
    ] = None,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Retry failed items, or answers with issues: of a job as a new job, of a run in its output.

    An option of sampling, such as temperature, turns sampling on.
    """
    options = generation_options(option or ())
    with Client(url, api_key) as client:
        if what.startswith("job_"):
            job = client.retry(what, codes=code or (), issues=issue or (), options=options)
            if as_json:
                print_json({"job": job.id, "items": job.counts.total})
            else:
                print(f"{job.id} retries {job.counts.total} items")
            return
        manifest = Manifest(_find_manifest(what))
        try:
            manifest.run.follow()
            plan = manifest.run.plan()
            manifest.images.keep_answers()
            with origin.resumed(manifest, plan):
                if options:
                    plan = _with_options(plan, options, manifest)
                again = manifest.images.retry(code or (), issue or ())
                errors.print(f"retrying {again} images")
                output = choose_output(plan)
                _carry_out(client, output, manifest, as_json=as_json, scan=False)
        finally:
            manifest.close()


def _with_options(plan: Plan, options: dict[str, Any], manifest: Manifest) -> Plan:
    """Return the plan with other options for what is retried, and for nothing else."""
    counts = manifest.images.counts()
    if counts.get("new") or counts.get("sent"):
        raise IdefiqError("the run has not finished: finish it before you retry with other options")
    if SAMPLING_OPTIONS.intersection(options):
        options = {"do_sample": True, **options}
    return replace(plan, ask=plan.ask.with_options(options))


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
    models = [model for model in known.values() if not model.alias_of]
    only = models[0] if len(models) == 1 else None
    chosen = known[plan.model] if plan.model else only
    kind = plan.ask.request["kind"]
    if chosen and kind not in chosen.kinds:
        raise IdefiqError(
            f"model {chosen.name!r} does not support {kind}; it supports {', '.join(chosen.kinds)}"
        )


def _dry_run(client: Client, output: Output, path: Path | None, options: RunOptions) -> None:
    """Count the images, and estimate time and cost."""
    plan, manifest = output.plan, Manifest.copy(path)
    if options.fresh:
        manifest.chunks.forget()
    manifest.run.begin(plan)
    run.Run(client, output, manifest, lambda *_: None).scan()
    counts = manifest.images.counts()
    manifest.close()
    new, expected = counts.get("new", 0), run.expected(client, plan.model)
    rate, cost = expected.items_per_second, expected.cost
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
        "cost": None if cost is None else new * cost,
        "currency": expected.currency,
    }
    print_dry_run(record, as_json=options.as_json)


def _carry_out(
    client: Client, output: Output, manifest: Manifest, *, as_json: bool, scan: bool
) -> None:
    """Process all images, write the output and print the summary."""
    with progress(quiet=as_json) as report:
        carried = run.Run(client, output, manifest, report)
        if scan:
            carried.scan()
        buckets = any(map(sources.is_bucket, output.plan.sources))
        if not manifest.images.counts() and not manifest.chunks.unfinished() and not buckets:
            named = ", ".join(output.plan.sources)
            looked_for = " ".join(sorted(sources.SUFFIXES))
            raise IdefiqError(f"no images in {named}: looked for {looked_for}")
        try:
            carried.work()
        except (KeyboardInterrupt, IdefiqError):
            print_how_to_resume(manifest)
            raise
        finally:
            manifest.images.keep_answers()
            carried.write()
            if prints := output.where is None:
                lines = formats.jsonl_lines if as_json else formats.txt_lines
                for line in lines(output.plan, manifest.images.ended()):
                    sys.stdout.write(line.decode())
    print_summary(manifest, output, carried.summary(), as_json=as_json and not prints)
