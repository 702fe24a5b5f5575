"""`idefiq admin`: keys, grants and limits, administered directly in the database.

The service need not run, and no key is needed: whoever can read the database's URL may do it.
"""

import csv
import getpass
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from pydantic import BaseModel, ValidationError

from api.audit import AuditEntryOut
from api.keys import KeyIn, KeyOut, end_key, make_key, record_limits
from db import audit, owners
from db.audit import Actor, AuditAction
from db.blobs.opening import open_store
from db.owners import LOCAL_OWNER
from db.settings import StorageSettings
from db.sql import schema
from db.sql.database import Database
from db.verification import Difference, DifferenceKind, Verification
from db.vocabulary.errors import RequestError
from db.vocabulary.limits import OwnerLimits
from db.vocabulary.validation_errors import request_error

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
keys = typer.Typer(no_args_is_help=True)
app.add_typer(keys, name="keys", help="Manage API keys.")
OwnerArgument = Annotated[str, typer.Argument(help="Owner; created if it does not exist")]
#: Entries of the audit that are read at once.
AUDIT_PAGE = 1_000
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line")]


class Grant(BaseModel):
    """A prefix of a bucket that an owner may read."""

    owner: str
    prefix: str


class OwnerLine(BaseModel):
    """Limits of an owner; null uses the default of the settings, 0 is no limit."""

    owner: str
    weight: float
    max_queued_items: int | None
    max_job_items: int | None
    max_stored_bytes: int | None


class Revoked(BaseModel):
    """A key that was revoked."""

    id: str
    revoked: bool = True


class DifferenceOut(BaseModel):
    """A blob that differs from what the database says, and what was done about it."""

    kind: DifferenceKind
    key: str
    detail: str
    done: str | None


def open_database() -> Database:
    """Connect to the database, print its URL without the password, and migrate it."""
    database = Database(StorageSettings().database_url, pool=1)
    shown = database.engine.url.render_as_string(hide_password=True)
    print(f"database: {shown} (IDEFIQ_DATABASE_URL)", file=sys.stderr)
    schema.migrate(database)
    return database


def _actor() -> Actor:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container whose user has no name
        user = f"uid {os.getuid()}"
    return Actor(f"{user}, on the command line")


def _print(record: BaseModel, line: str, *, as_json: bool) -> None:
    print(record.model_dump_json() if as_json else line)


@app.command()
def grant(
    owner: OwnerArgument,
    prefix: Annotated[str, typer.Argument(help="s3://bucket/prefix")],
    as_json: AsJson = False,
) -> None:
    """Allow an owner to read s3:// images below a prefix."""
    form, _, rest = prefix.partition("://")
    bucket, _, path = rest.partition("/")
    if form != "s3" or not bucket:
        raise RequestError(f"invalid prefix: {prefix!r}; expected s3://bucket/prefix")
    with open_database().transaction() as transaction:
        found = owners.get_or_create(transaction, owner)
        if owners.grant(transaction, found, bucket=bucket, prefix=path):
            audit.record(
                transaction,
                _actor(),
                AuditAction.GRANT_BUCKET,
                owner=owner,
                subject=f"s3://{bucket}/{path}",
            )
    granted = Grant(owner=owner, prefix=f"s3://{bucket}/{path}")
    _print(granted, f"{owner} may read {granted.prefix}", as_json=as_json)


@app.command()
def limit(
    owner: OwnerArgument,
    weight: Annotated[
        float | None, typer.Option(min=0.01, help="Share of the workers relative to other owners")
    ] = None,
    queued_items: Annotated[
        int | None, typer.Option(min=0, help="Most unfinished items; 0 for no limit")
    ] = None,
    job_items: Annotated[
        int | None, typer.Option(min=0, help="Most items of a job; 0 for no limit")
    ] = None,
    stored_bytes: Annotated[
        int | None,
        typer.Option(min=0, help="Most bytes of stored images and files; 0 for no limit"),
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Reset all limits to the defaults first")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Set the limits that are named, and print all limits of an owner."""
    with open_database().transaction() as transaction:
        found = owners.get_or_create(transaction, owner)
        before = OwnerLimits() if default else owners.limits(transaction, found.id)
        limits = OwnerLimits(
            before.weight if weight is None else weight,
            before.max_queued_items if queued_items is None else queued_items,
            before.max_job_items if job_items is None else job_items,
            before.max_stored_bytes if stored_bytes is None else stored_bytes,
        )
        if limits != before or default:
            owners.limit(transaction, owner, limits)
            record_limits(transaction, _actor(), owner, limits)
    shown = {name: "default" if n is None else n for name, n in asdict(limits).items()}
    line = f"{owner}: " + ", ".join(f"{name} {value}" for name, value in shown.items())
    _print(OwnerLine(owner=owner, **asdict(limits)), line, as_json=as_json)


@app.command("audit")
def show_audit(
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV")] = False,
    as_json: AsJson = False,
) -> None:
    """List who made or revoked keys, changed limits, granted buckets, and deleted what."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if as_csv:
        writer.writerow(AuditEntryOut.model_fields)
    for entry in _entries(open_database()):
        if as_csv:
            values = entry.model_dump(mode="json")
            writer.writerow([*list(values.values())[:-1], json.dumps(entry.detail)])
        else:
            moment = f"{entry.at:%Y-%m-%d %H:%M:%S}"
            line = "  ".join((moment, entry.actor, entry.action, entry.owner, entry.subject))
            _print(entry, line, as_json=as_json)


def _entries(database: Database) -> Iterator[AuditEntryOut]:
    before = None
    while True:
        with database.snapshot() as transaction:
            page = audit.entries(transaction, before=before, limit=AUDIT_PAGE)
        yield from map(AuditEntryOut.of, page)
        if len(page) < AUDIT_PAGE:
            return
        before = page[-1].id


@keys.command("create")
def create_key(
    owner: Annotated[str | None, typer.Argument(help=f"Owner (default: {LOCAL_OWNER})")] = None,
    note: Annotated[str, typer.Option(help="A note for people")] = "",
    holder: Annotated[
        str, typer.Option(help="The person or program that gets it, for the audit and reviews")
    ] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="submit, read, review, metrics or admin; repeatable (default: the first three)"
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=0, help="Days until it expires (default: never)")] = 0,
    as_json: AsJson = False,
    old_owner: Annotated[str | None, typer.Option("--owner", hidden=True)] = None,
    old_scopes: Annotated[str | None, typer.Option("--scopes", hidden=True)] = None,
) -> None:
    """Create an API key and print it. It cannot be shown again."""
    if (owner and old_owner) or (scope and old_scopes is not None):
        raise RequestError("name the owner and the scopes once: OWNER and --scope")
    # --owner and --scopes a,b are the options of release 0.1.
    scopes = scope or owners.USUAL_SCOPES
    if old_scopes is not None:
        scopes = [word.strip() for word in old_scopes.split(",")]
    wanted = {"owner": owner or old_owner or LOCAL_OWNER, "note": note, "holder": holder}
    try:
        asked = KeyIn.model_validate({**wanted, "scopes": scopes, "days": days or None})
    except ValidationError as error:
        raise request_error(error, wanted) from error
    made = make_key(open_database(), asked, _actor())
    _print(made, made.key, as_json=as_json)


@app.command()
def verify(
    read: Annotated[
        bool, typer.Option("--read", help="Read every image and compare its digest with its name")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Delete unknown blobs that nobody can need, and forget missing and damaged images:"
            " the next upload stores them again",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Repair although a large part is missing")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the database with the blob store, as after a restore. Exits with 1 if they differ."""
    settings = StorageSettings()
    verification = Verification(open_database(), open_store(settings), read=read)
    differences: Iterable[Difference] = verification.differences()
    if repair:
        differences = list(differences)  # all of them first: they say whether this may be right
        if not force:
            verification.check_repairable(differences)
    found = 0
    for difference in differences:
        found += 1
        done = verification.repair(difference) if repair else None
        line = f"{difference.kind}  {difference.key}  {difference.detail}"
        shown = DifferenceOut(
            kind=difference.kind, key=difference.key, detail=difference.detail, done=done
        )
        _print(shown, f"{line}  {done}" if done else line, as_json=as_json)
    print(
        f"{verification.blobs} blobs and {verification.rows} references compared,"
        f" {found} differences",
        file=sys.stderr,
    )
    if found:
        raise typer.Exit(1)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List API keys without their secrets."""
    with open_database().snapshot() as transaction:
        found = [KeyOut.of(key) for key in owners.keys(transaction)]
    for key in found:
        _print(key, _line(key), as_json=as_json)


def _line(key: KeyOut) -> str:
    """Format a key as `idefiq keys list` does."""
    used = f"used {key.last_used_at:%Y-%m-%d}" if key.last_used_at else "never used"
    state = f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "no expiry"
    state = "revoked" if key.revoked_at else state
    made = f"{key.created_at:%Y-%m-%d}"
    names = (key.holder, key.note)
    facts = (key.id, key.owner, ",".join(key.scopes), made, state, used)
    return "  ".join((*facts, *filter(None, names)))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `keys list` lists it")],
    as_json: AsJson = False,
) -> None:
    """Revoke an API key at once."""
    end_key(open_database(), key_id, _actor())
    _print(Revoked(id=key_id), f"{key_id}: revoked", as_json=as_json)
