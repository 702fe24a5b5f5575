"""`python -m api serve|migrate|keys|grant|limit`: the API, and commands for its operator.

`idefiq serve`, `idefiq migrate` and `idefiq admin` run these.
"""

import logging
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
import uvicorn

from api.app import create_app
from api.settings import ApiSettings
from db import failpoints, owners, schema
from db.blobs import open_store
from db.database import Database
from db.errors import IdefiqError, RequestError
from db.owners import LOCAL_OWNER, OwnerLimits
from db.settings import CONFIG_STATUS, UNREADABLE, RecordSettings, explain

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
keys = typer.Typer(no_args_is_help=True)
app.add_typer(keys, name="keys", help="Manage API keys.")
Quota = Annotated[int | None, typer.Option(min=0)]


def _database() -> Database:
    database = Database(RecordSettings().database_url, pool=1)
    shown = database.engine.url.render_as_string(hide_password=True)
    print(f"database: {shown} (IDEFIQ_DATABASE_URL)", file=sys.stderr)
    schema.migrate(database)
    return database


@app.command()
def serve() -> None:
    """Run the API."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname)s api[{os.getpid()}] %(message)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    record, settings = RecordSettings(), ApiSettings()
    failpoints.arm(record.failpoints)
    uvicorn.run(
        create_app(record, settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )


@app.command()
def migrate() -> None:
    """Migrate the database, and create the bucket if it is missing."""
    _database().dispose()
    open_store(RecordSettings()).prepare()
    print("the database and the blob store are ready")


@app.command()
def grant(owner: str, prefix: Annotated[str, typer.Argument(help="s3://bucket/prefix")]) -> None:
    """Allow an owner to read s3:// images below a prefix."""
    form, _, rest = prefix.partition("://")
    bucket, _, path = rest.partition("/")
    if form != "s3" or not bucket:
        raise RequestError(f"invalid prefix: {prefix!r}; expected s3://bucket/prefix")
    with _database().transaction() as transaction:
        found = owners.get_or_create(transaction, owner)
        owners.grant(transaction, found, bucket=bucket, prefix=path)
    print(f"{owner} may read s3://{bucket}/{path}")


@app.command()
def limit(
    owner: str,
    weight: Annotated[
        float | None, typer.Option(min=0.01, help="Share of the workers relative to other owners")
    ] = None,
    queued_items: Quota = None,
    job_items: Quota = None,
    stored_bytes: Quota = None,
    default: Annotated[
        bool, typer.Option("--default", help="Reset all limits to the defaults first")
    ] = False,
) -> None:
    """Set the weight and the quotas of an owner. What is not named stays; 0 is no limit."""
    with _database().transaction() as transaction:
        found = owners.get_or_create(transaction, owner)
        before = OwnerLimits() if default else owners.limits(transaction, found.id)
        limits = OwnerLimits(
            before.weight if weight is None else weight,
            before.max_queued_items if queued_items is None else queued_items,
            before.max_job_items if job_items is None else job_items,
            before.max_stored_bytes if stored_bytes is None else stored_bytes,
        )
        owners.limit(transaction, owner, limits)
    shown = {key: "default" if value is None else value for key, value in asdict(limits).items()}
    print(f"{owner}: " + ", ".join(f"{key} {value}" for key, value in shown.items()))


@keys.command("create")
def create_key(
    owner: Annotated[str | None, typer.Argument(help=f"Owner (default: {LOCAL_OWNER})")] = None,
    note: Annotated[str, typer.Option(help="A note for people")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="submit, read, review or admin; repeatable (default: all but admin)"),
    ] = None,
    days: Annotated[int, typer.Option(min=0, help="Days until it expires; 0 for never")] = 0,
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
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    with _database().transaction() as transaction:
        found = owners.get_or_create(transaction, owner or old_owner or LOCAL_OWNER)
        print(
            owners.create_key(
                transaction,
                found,
                note=note,
                scopes=scopes,
                expires_at=expires_at,
            )
        )


@keys.command("list")
def list_keys() -> None:
    """List API keys without their secrets."""
    with _database().snapshot() as transaction:
        for key in owners.keys(transaction):
            until = f"{key.expires_at:%Y-%m-%d}" if key.expires_at else "revoked"
            state = "revoked" if key.revoked_at else f"until {until}"
            used = f"used {key.last_used_at:%Y-%m-%d}" if key.last_used_at else "never used"
            shown = (key.id, key.owner, key.scopes, f"{key.created_at:%Y-%m-%d}", state, used)
            print("  ".join([*shown, key.note]))


@keys.command("revoke")
def revoke_key(key_id: str) -> None:
    """Revoke an API key at once."""
    with _database().transaction() as transaction:
        owners.revoke_key(transaction, key_id)
    print(f"{key_id}: revoked")


if __name__ == "__main__":
    try:
        app(prog_name="idefiq admin")
    except UNREADABLE as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(CONFIG_STATUS)
    except IdefiqError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
