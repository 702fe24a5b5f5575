"""`python -m api serve|migrate`, and the commands of `idefiq admin`.

`idefiq serve`, `idefiq migrate` and `idefiq admin` run these.
"""

import logging
import os
import sys

import uvicorn

from api.admin import app, open_database
from api.app import create_app
from api.connections import guarded_protocol, raise_file_limit
from api.settings import ApiSettings
from db import failpoints, logs, tracing
from db.blobs.opening import open_store
from db.settings import CONFIG_STATUS, PRIVATE_UMASK, UNREADABLE, StorageSettings, explain
from db.vocabulary.errors import IdefiqError


@app.command()
def serve() -> None:
    """Run the API."""
    record, settings = StorageSettings(), ApiSettings()
    logs.configure("api", record.log_format)
    tracing.configure("api", record.traces_url)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    failpoints.arm(record.failpoints)
    uvicorn.run(
        create_app(record, settings),
        http=guarded_protocol(settings, raise_file_limit()),
        ws="none",  # a connection that becomes a WebSocket would not be counted any more
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
    open_database().dispose()
    open_store(StorageSettings()).prepare()
    print("the database and the blob store are ready")


if __name__ == "__main__":
    os.umask(PRIVATE_UMASK)
    try:
        app(prog_name="idefiq admin")
    except UNREADABLE as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(CONFIG_STATUS)
    except IdefiqError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
