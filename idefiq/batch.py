"""The command line's main job: many files in, an answer for each out.

One bad file never stops the run: what cannot be read here, or not be answered there, is listed
at the end. The demonstration runs through this code too.
"""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from idefiq.client import Client
from idefiq.types import ApiError, Job, Result, TooLong

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".heic", ".heif"})
#: Files uploaded between two reports of progress.
UPLOAD_STEP = 50

Report = Callable[[str, int, int, Job | None], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: an answer (a label, if one was asked for) or an error."""

    path: str
    answer: str | None
    error: str | None


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Files as they are named, and every image below the folders, sorted.

    In folders, images are told by the ends of their names; hidden files are left alone.

    Raises:
        FileNotFoundError: A path does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = (file for file in path.rglob("*") if _is_image(file.relative_to(path)))
            found += sorted(file for file in below if file.is_file())
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"there is no {str(path)!r}")
    return found


def _is_image(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def run(
    client: Client,
    paths: Sequence[Path],
    *,
    request: dict[str, Any],
    model: str | None,
    report: Report,
) -> list[Outcome]:
    """Upload, submit, wait, and return an outcome for each path, in order.

    Args:
        request: The same for every image, for example {"kind": "vqa", "question": …}.
        model: May be None if the service has only one.
        report: Called with the step, how much of it is done, of how much, and the job if any.
    """
    references, outcomes = _upload(client, paths, report)
    if references:
        sent = list(references)
        items = [{"images": [references[path]], "custom_id": _label(path)} for path in sent]
        job = client.submit(items, model=model, defaults=request, name="command line")
        while not job.is_final:
            report("answer", job.counts.finished, len(items), job)
            job = _look_again(client, job)
        report("answer", job.counts.finished, len(items), job)
        for result in client.results(job):
            path = str(sent[result.index])
            outcomes[path] = _outcome(path, result)
    return [outcomes[str(path)] for path in paths]


def _outcome(path: str, result: Result) -> Outcome:
    if result.answer is None:
        return Outcome(path, None, result.error or result.state)
    if "label" not in (result.detail or {}):
        return Outcome(path, result.answer, None)
    if result.label is None:
        return Outcome(path, None, f"the answer names none of the labels: {result.answer!r}")
    return Outcome(path, result.label, None)


def _label(path: Path) -> str:
    """What the service remembers the file by: the end of its path, as text that can be sent."""
    return str(path).encode(errors="replace").decode()[-200:]


def _look_again(client: Client, job: Job) -> Job:
    """Wait a little, or until the job ends: a bar that moves once a second is smooth enough."""
    try:
        return client.wait(job, seconds=1)
    except TooLong:
        return client.job(job.id)


def _upload(
    client: Client, paths: Sequence[Path], report: Report
) -> tuple[dict[Path, str], dict[str, Outcome]]:
    """References of what could be uploaded, and outcomes of what could not."""
    references: dict[Path, str] = {}
    outcomes: dict[str, Outcome] = {}
    for start in range(0, len(paths), UPLOAD_STEP):
        step = paths[start : start + UPLOAD_STEP]
        try:
            references.update(zip(step, client.upload(step), strict=True))
        except (OSError, ApiError):
            for path in step:  # one by one, so that the bad one alone is left out
                try:
                    references[path] = client.upload([path])[0]
                except (OSError, ApiError) as error:
                    outcomes[str(path)] = Outcome(str(path), None, _sentence(error))
        report("upload", min(start + UPLOAD_STEP, len(paths)), len(paths), None)
    return references, outcomes


def _sentence(error: OSError | ApiError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def write(outcomes: Sequence[Outcome], file: IO[str], form: str) -> None:
    """Write outcomes as "jsonl", "csv", or "txt" (path, tab, answer; failures left out)."""
    if form == "jsonl":
        for one in outcomes:
            line = {"file": one.path, "answer": one.answer, "error": one.error}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    elif form == "csv":
        rows = csv.writer(file)
        rows.writerow(["file", "answer", "error"])
        rows.writerows([one.path, one.answer or "", one.error or ""] for one in outcomes)
    else:
        for one in outcomes:
            if one.answer is not None:
                file.write(f"{one.path}\t{' '.join(one.answer.split())}\n")
