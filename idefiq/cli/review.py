"""`idefiq review`: people decide about drafts, in the terminal or in a spreadsheet."""

import contextlib
import csv
import getpass
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from idefiq.alt.report import as_csv, fused
from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, errors, print_json, shown
from idefiq.client import Client
from idefiq.errors import ApiError, IdefiqError
from idefiq.reviews import Review

#: Fields of the context that are shown.
_AROUND = ("source", "page_title", "heading", "caption", "destination", "surrounding")
_COLUMNS = (
    "job",
    "index",
    "revision",
    "page",
    "role",
    *_AROUND,
    "confidence",
    "issues",
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


def review(
    job_id: Annotated[str | None, typer.Argument(help="Only drafts of this job")] = None,
    order: Annotated[str, typer.Option(help="page, or confidence: least confident first")] = "page",
    reviewer: Annotated[
        str | None, typer.Option(help="Your name, for the history (default: your user name)")
    ] = None,
    to_csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the queue as CSV, for a spreadsheet")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file of --csv")
    ] = False,
    from_csv: Annotated[
        Path | None,
        typer.Option(
            "--import-csv",
            "--from",
            help="Read decisions and edited texts from that CSV (--from until release 0.3)",
        ),
    ] = None,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Accept, edit or reject drafts of alternative text, one after the other."""
    if from_csv and to_csv:
        raise IdefiqError("--csv and --import-csv exclude each other")
    name = reviewer or _user()
    with Client(url, api_key) as client:
        if job_id:
            client.job(job_id)  # tells of one that is not there
        if from_csv:
            _take(client, from_csv, name, as_json=as_json)
        elif to_csv:
            if to_csv.exists() and not overwrite:
                raise IdefiqError(f"{str(to_csv)!r} exists; replace it with --overwrite")
            _export(to_csv, list(client.reviews(job_id, order=order)), as_json=as_json)
        elif as_json:
            for one in client.reviews(job_id, order=order):
                print_json({name: getattr(one, name) for name in Review.__dataclass_fields__})
        else:
            _converse(
                client, list(client.reviews(job_id, states=["unreviewed"], order=order)), name
            )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return "somebody"


# ---- in the terminal ----------------------------------------------------------------


def _converse(client: Client, queue: list[Review], reviewer: str) -> None:
    decided: list[tuple[int, Review]] = []
    print(_KEYS)
    index = 0
    try:
        while index < len(queue):
            _show(queue[index], index + 1, len(queue))
            key = _key()
            if key == "q":
                break
            if key == "o":
                _open(client, queue[index])
            elif key == "u" and decided:
                index, last = decided.pop()
                queue[index] = _decided(client, last, "undo", reviewer) or last
            elif key == "s":
                index += 1
            elif key in _ACTIONS and key != "u":
                text = _edited(queue[index].text or "") if key == "e" else None
                after = _decided(client, queue[index], _ACTIONS[key], reviewer, text)
                if after is None:  # as it is now, for another decision
                    queue[index] = client.review(queue[index].job, queue[index].index)
                else:
                    decided.append((index, after))
                    index += 1
            else:
                print(_KEYS)
    finally:
        print(f"{len(decided)} decided, {len(queue) - len(decided)} left")


def _show(one: Review, number: int, total: int) -> None:
    lines = [f"\n{number} of {total}  {one.page}  ({one.context.get('role', 'informative')})"]
    lines += [
        f"  {name.replace('_', ' ')}: {chosen}"
        for name in _AROUND
        if (chosen := one.context.get(name))
    ]
    if one.state != "unreviewed":
        lines.append(f"  {one.state} by {one.reviewer}")
    lines += [f"  ! {issue['message']}" for issue in one.draft["issues"]]
    language = f" [{one.language}]" if one.language else ""
    confidence = one.draft["confidence"]
    lines.append(f"  {len(one.text or '')} characters{language}, confidence {confidence}")
    print(shown("\n".join([*lines, f"  {one.text}"])))


def _key() -> str:
    try:
        return input("a e d r u s o q > ").strip().lower()[:1] or "?"
    except EOFError:
        return "q"


def _edited(text: str) -> str:
    """Ask for a text, beginning with the one that is there."""
    with contextlib.suppress(ImportError):  # not everywhere; then a text is written anew
        import readline

        readline.set_pre_input_hook(lambda: _insert(readline, text))
    try:
        return input("text: ").strip()
    except EOFError:
        return ""
    finally:
        if "readline" in sys.modules:
            sys.modules["readline"].set_pre_input_hook()


def _insert(readline: Any, text: str) -> None:
    readline.insert_text(text)
    readline.redisplay()


def _decided(
    client: Client, one: Review, action: str, reviewer: str, text: str | None = None
) -> Review | None:
    try:
        return client.decide(one, action, text=text, reviewer=reviewer)
    except ApiError as error:
        errors.print(f"not taken: {error}", style="red")
        return None


def _open(client: Client, one: Review) -> None:
    data = client.image(one.images[0])
    suffix = ".png" if data.startswith(b"\x89PNG") else ".jpg" if data[:2] == b"\xff\xd8" else ""
    with tempfile.NamedTemporaryFile(prefix="idefiq-", suffix=suffix, delete=False) as file:
        file.write(data)
    print(f"  {file.name}")
    if sys.stdout.isatty():
        typer.launch(file.name)


# ---- in a spreadsheet ---------------------------------------------------------------


def _row(one: Review) -> dict[str, Any]:
    chosen = {name: one.context.get(name, "") for name in _AROUND}
    return {
        **{name: getattr(one, name) for name in ("job", "index", "revision", "page", "state")},
        **chosen,
        "role": one.context.get("role", "informative"),
        "confidence": one.draft["confidence"],
        "issues": "; ".join(each["message"] for each in one.draft["issues"]),
        "draft": one.draft["text"],
        "text": one.text,
        "long_description": one.long_description,
        "decision": "",
    }


def _export(path: Path, found: list[Review], *, as_json: bool) -> None:
    """Write reviews as CSV."""
    path.write_text(as_csv(_COLUMNS, list(map(_row, found))), "utf-8", newline="")
    if as_json:
        print_json({"drafts": len(found), "file": str(path)})
    else:
        print(
            f"{len(found)} drafts written to {path}: in its column decision write accept, edit,"
            " decorative, reject or undo, or change the text"
        )


def _take(client: Client, path: Path, reviewer: str, *, as_json: bool) -> None:
    """Apply the decisions of a CSV. Prints those that were refused, and exits with 1 if any was."""
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
            errors.print(shown(f"{path}, row {number}: {error}"), style="red")
    if as_json:
        print_json({"taken": taken, "refused": refused})
    else:
        print(f"{taken} decisions taken, {refused} refused")
    if refused:
        raise typer.Exit(1)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            separator = ";" if head.count(";") > head.count(",") else ","
            reader = csv.DictReader(file, delimiter=separator)
            missing = {"job", "index", "revision", "text", "decision"} - set(
                reader.fieldnames or ()
            )
            if missing:
                raise IdefiqError(f"{path} lacks the columns {', '.join(sorted(missing))}")
            return [
                {key: fused(value or "") for key, value in row.items() if key} for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise IdefiqError(f"{path} is no CSV in UTF-8: {error}") from error


def _decision(client: Client, row: dict[str, str]) -> tuple[str, Review, str | None] | None:
    """Read a row's decision; a changed text is an edit.

    None where it says nothing, or what is decided already.
    """
    chosen = row["decision"].strip().lower()
    if chosen not in ("", *_STATES):
        raise IdefiqError(
            f"invalid decision: {chosen!r}; use accept, edit, decorative, reject or undo"
        )
    if not row["index"].isdecimal() or not row["revision"].isdecimal():
        raise IdefiqError("index and revision must be left as `--csv` wrote them")
    now, text = client.review(row["job"], int(row["index"])), row["text"].strip()
    revision = int(row["revision"])
    steps = {step["revision"]: step["text"] for step in now.history}
    changed = text not in ("", (steps.get(revision, now.draft["text"]) or "").strip())
    if changed and chosen in ("", "accept"):
        chosen = "edit"
    is_so = now.state == _STATES.get(chosen) and (chosen != "edit" or now.text == text)
    if not chosen or (is_so and now.revision > revision):
        return None
    return chosen, replace(now, revision=revision), text if chosen == "edit" else None


#: What each decision leads to.
_STATES = {
    "accept": "accepted",
    "edit": "edited",
    "decorative": "decorative",
    "reject": "rejected",
    "undo": "",
}
