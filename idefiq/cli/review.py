"""`idefiq review`: people decide about drafts, in the terminal or in a spreadsheet."""

import csv
import getpass
import readline
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from idefiq.alt.report import as_csv, defused, fused
from idefiq.cli.common import AsJson, Key, Url, errors, say_json
from idefiq.client import Client
from idefiq.types import ApiError, IdefiqError, Review

_COLUMNS = (
    "job",
    "index",
    "revision",
    "page",
    "role",
    "heading",
    "caption",
    "destination",
    "certainty",
    "objections",
    "draft",
    "state",
    "text",
    "long_description",
    "decision",
)
_ACTIONS = {"a": "accept", "e": "edit", "d": "decorative", "r": "reject", "u": "undo"}
_KEYS = "[a]ccept [e]dit [d]ecorative [r]eject [u]ndo the last [s]kip [o]pen the image [q]uit"


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("review")(review)


def review(  # noqa: PLR0913 - the ways to review
    job_id: Annotated[str | None, typer.Argument(help="Only drafts of this job")] = None,
    order: Annotated[str, typer.Option(help="page, or doubt: the least certain first")] = "page",
    reviewer: Annotated[
        str | None, typer.Option(help="Your name, for the history; else your user name")
    ] = None,
    to_csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the queue for a spreadsheet, and end")
    ] = None,
    from_csv: Annotated[
        Path | None,
        typer.Option("--from", help="Take decisions, and texts that were changed, from its CSV"),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Accept, edit or reject drafts of alternative text, one after the other."""
    name = reviewer or getpass.getuser()
    with Client(url, api_key) as client:
        if from_csv:
            _take(client, from_csv, name)
        elif to_csv:
            found = list(client.reviews(job_id, order=order))
            to_csv.write_text(as_csv(_COLUMNS, list(map(_row, found))), "utf-8", newline="")
            print(f"{len(found)} drafts are in {to_csv}: fill in decision, or change text")
        elif as_json:
            for one in client.reviews(job_id, order=order):
                say_json({name: getattr(one, name) for name in Review.__dataclass_fields__})
        else:
            _converse(
                client, list(client.reviews(job_id, states=["unreviewed"], order=order)), name
            )


# ---- in the terminal ----------------------------------------------------------------


def _converse(client: Client, queue: Sequence[Review], reviewer: str) -> None:
    done: list[Review] = []
    index = decided = 0
    while index < len(queue):
        shown = queue[index]
        _show(shown, index + 1, len(queue))
        key = _key()
        if key == "q":
            break
        if key == "o":
            _open(client, shown)
            continue
        if key == "u" and done:
            last = done.pop()
            _decided(client, last, "undo", reviewer)
            index, decided = index - 1, decided - 1
            queue = [*queue[:index], client.review(last.job, last.index), *queue[index + 1 :]]
            continue
        if key in ("a", "e", "d", "r"):
            text = _edited(shown.text or "") if key == "e" else None
            after = _decided(client, shown, _ACTIONS[key], reviewer, text)
            if after is None:
                queue = [*queue[:index], client.review(shown.job, shown.index), *queue[index + 1 :]]
                continue
            done.append(after)
            decided += 1
        elif key != "s":
            print(_KEYS)
            continue
        index += 1
    print(f"{decided} decided, {len(queue) - decided} left")


def _show(one: Review, number: int, total: int) -> None:
    print(f"\n{number} of {total}  {one.page}  ({one.context.get('role', 'informative')})")
    for name in ("page_title", "heading", "caption", "destination"):
        if said := one.context.get(name):
            print(f"  {name.replace('_', ' ')}: {said}")
    for objection in one.draft["objections"]:
        print(f"  ! {objection['message']}")
    language = f" [{one.language}]" if one.language else ""
    print(f"  {len(one.text or '')} characters{language}, certainty {one.draft['certainty']}")
    print(f"  {one.text}")


def _key() -> str:
    try:
        return input("a e d r u s o q > ").strip().lower()[:1] or "?"
    except EOFError:
        return "q"


def _edited(text: str) -> str:
    """Ask for a text, beginning with the one that is there."""
    readline.set_startup_hook(lambda: readline.insert_text(text))
    try:
        return input("text: ").strip()
    except EOFError:
        return ""
    finally:
        readline.set_startup_hook()


def _decided(
    client: Client, one: Review, action: str, reviewer: str, text: str | None = None
) -> Review | None:
    try:
        return client.decide(one, action, text=text, reviewer=reviewer)
    except ApiError as error:
        errors.print(f"not taken: {error}", style="red")
        return None


def _open(client: Client, one: Review) -> None:
    with tempfile.NamedTemporaryFile(prefix="idefiq-", delete=False) as file:
        file.write(client.image(one.images[0]))
    print(f"  {file.name}")
    if sys.stdout.isatty():
        typer.launch(file.name)


# ---- in a spreadsheet ---------------------------------------------------------------


def _row(one: Review) -> dict[str, Any]:
    said = {name: one.context.get(name, "") for name in ("heading", "caption", "destination")}
    return {
        **{name: getattr(one, name) for name in ("job", "index", "revision", "page", "state")},
        **said,
        "role": one.context.get("role", "informative"),
        "certainty": one.draft["certainty"],
        "objections": "; ".join(each["message"] for each in one.draft["objections"]),
        "draft": one.draft["text"],
        "text": one.text,
        "long_description": one.long_description,
        "decision": "",
    }


def _take(client: Client, path: Path, reviewer: str) -> None:
    """Take decisions from a CSV; says which were refused, and exits with 1 if any was."""
    taken = refused = 0
    for number, row in enumerate(_rows(path), 2):
        try:
            decision = _decision(client, row)
            if decision:
                action, one, text = decision
                client.decide(one, action, text=text, reviewer=reviewer)
                taken += 1
        except (ApiError, IdefiqError) as error:
            refused += 1
            errors.print(f"{path}, row {number}: {error}", style="red")
    print(f"{taken} decisions taken, {refused} refused")
    if refused:
        raise typer.Exit(1)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            sample = file.read(4_096)
            file.seek(0)
            separator = ";" if sample.partition("\n")[0].count(";") > sample.count(",") else ","
            reader = csv.DictReader(file, delimiter=separator)
            missing = {"job", "index", "revision", "text", "decision"} - set(
                reader.fieldnames or ()
            )
            if missing:
                raise IdefiqError(f"{path} has no column {', '.join(sorted(missing))}")
            return [
                {key: fused(value or "") for key, value in row.items() if key} for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise IdefiqError(f"{path} is no CSV in UTF-8: {error}") from error


def _decision(client: Client, row: dict[str, str]) -> tuple[str, Review, str | None] | None:
    """What a row says: its decision, or an edit where its text was changed."""
    said = row["decision"].strip().lower()
    if said not in ("", "accept", "edit", "decorative", "reject", "undo"):
        raise IdefiqError(f"{said!r} is no decision: accept, edit, decorative, reject or undo")
    if not row["index"].isdecimal() or not row["revision"].isdecimal():
        raise IdefiqError("index and revision must be the numbers that were written")
    now = client.review(row["job"], int(row["index"]))
    changed = defused(row["text"]) != defused(now.text or "") and row["text"].strip() != ""
    if not said and not changed:
        return None
    if said in ("", "accept") and changed:
        said = "edit"
    seen = replace(now, revision=int(row["revision"]))
    return said, seen, row["text"] if said == "edit" else None
