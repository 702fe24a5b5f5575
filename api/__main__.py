"""`python -m api serve|migrate|keys|grant|limit`: the API and its operator's commands.

`idefiq serve`, `idefiq migrate` and `idefiq admin` run these where the server is installed.
"""

import logging
import os
import sys
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
keys = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(keys, name="keys")
Quota = Annotated[int | None, typer.Option(min=0)]


def _database() -> Database:
    database = Database(RecordSettings().database_url, pool=1)
    shown = database.engine.url.render_as_string(hide_password=True)
    print(f"in {shown} (IDEFIQ_DATABASE_URL)", file=sys.stderr)
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
    """Bring the database up to date, and make the bucket if there is none."""
    _database().dispose()
    open_store(RecordSettings()).prepare()
    print("the database and the blob store are ready")


@app.command()
def grant(owner: str, prefix: Annotated[str, typer.Argument(help="s3://bucket/prefix")]) -> None:
    """Let an owner's s3:// references read below a prefix."""
    form, _, rest = prefix.partition("://")
    bucket, _, path = rest.partition("/")
    if form != "s3" or not bucket:
        raise RequestError(f"{prefix!r} is not of the form s3://bucket/prefix")
    with _database().transaction() as transaction:
        found = owners.get_or_create(transaction, owner)
        owners.grant(transaction, found, bucket=bucket, prefix=path)
    print(f"{owner} may read s3://{bucket}/{path}")


@app.command()
def limit(
    owner: str,
    weight: Annotated[
        float, typer.Option(min=0.01, help="Share of the workers, beside those of others")
    ] = 1.0,
    queued_items: Quota = None,
    job_items: Quota = None,
    stored_bytes: Quota = None,
) -> None:
    """Set what an owner gets; a quota that is not named is that of the settings, 0 is none."""
    limits = OwnerLimits(weight, queued_items, job_items, stored_bytes)
    with _database().transaction() as transaction:
        owners.limit(transaction, owner, limits)
    print(f"{owner}: {limits}")


@keys.command("create")
def create_key(
    owner: str = LOCAL_OWNER,
    note: str = "",
    days: Annotated[int, typer.Option(help="Valid for so many days; 0 is for ever")] = 0,
    scopes: Annotated[
        str, typer.Option(help="What it may do: submit, read, review and, for operators, admin")
    ] = ",".join(owners.USUAL_SCOPES),
) -> None:
    """Make a key and print it: it is shown this once."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    with _database().transaction() as transaction:
        found = owners.get_or_create(transaction, owner)
        said = [scope.strip() for scope in scopes.split(",")]
        print(owners.create_key(transaction, found, note=note, scopes=said, expires_at=expires_at))


@keys.command("list")
def list_keys() -> None:
    """List keys, without their secrets."""
    with _database().snapshot() as transaction:
        for key in owners.keys(transaction):
            until = f"{key.expires_at:%Y-%m-%d}" if key.expires_at else "revoked"
            state = "revoked" if key.revoked_at else f"until {until}"
            used = f"used {key.last_used_at:%Y-%m-%d}" if key.last_used_at else "never used"
            shown = (key.id, key.owner, key.scopes, f"{key.created_at:%Y-%m-%d}", state, used)
            print("  ".join([*shown, key.note]))


@keys.command("revoke")
def revoke_key(key_id: str) -> None:
    """Make a key invalid at once."""
    with _database().transaction() as transaction:
        owners.revoke_key(transaction, key_id)
    print(f"{key_id} is revoked")


if __name__ == "__main__":
    try:
        app(prog_name="idefiq admin")
    except UNREADABLE as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(CONFIG_STATUS)
    except IdefiqError as error:
        sys.exit(f"error: {error}")
