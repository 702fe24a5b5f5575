"""Health: liveness and readiness."""

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from api.services import Parts
from db import schema, sessions
from db.errors import StorageError
from db.states import Stage

router = APIRouter(tags=["health"])


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def root() -> RedirectResponse:
    """Redirect a browser that opens the service's address to the interactive documentation."""
    return RedirectResponse("docs")  # relative, for a proxy that serves it below a path


OK, UNREACHABLE = "ok", "unreachable"
OTHER_SCHEMA = "schema of another version; run `idefiq migrate`"
#: Values of `record`, as release 0.1 calls `database`; goes with 0.3.
_RELEASE_0_1 = {
    OK: "ok",
    UNREACHABLE: "away",
    OTHER_SCHEMA: "its schema is not this version's: migrate",
}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Liveness: the process answers; nothing else is checked."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(services: Parts, response: Response) -> dict[str, object]:
    """Readiness: 200 if the database, a worker with a loaded model and an intake are there."""
    try:
        with services.database.snapshot() as transaction:
            current = schema.is_current(transaction)
            engines = sessions.alive(transaction, Stage.GENERATE) if current else 0
            intakes = sessions.alive(transaction, Stage.INTAKE) if current else 0
    except StorageError:
        response.status_code = 503
        return _body("unavailable", UNREACHABLE, 0, 0)
    ready = current and engines > 0 and intakes > 0
    response.status_code = 200 if ready else 503
    database = OK if current else OTHER_SCHEMA
    return _body("ready" if ready else "starting", database, engines, intakes)


def _body(status: str, database: str, engines: int, intakes: int) -> dict[str, object]:
    return {
        "status": status,
        "database": database,
        "record": _RELEASE_0_1[database],
        "engines": engines,
        "intakes": intakes,
    }
