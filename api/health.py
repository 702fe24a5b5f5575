"""Health: liveness and readiness."""

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from api.readiness import HANGING, OTHER_SCHEMA, UNREACHABLE, WELL
from api.services import Parts

router = APIRouter(tags=["health"])


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def root() -> RedirectResponse:
    """Redirect a browser that opens the service's address to the interactive documentation."""
    return RedirectResponse("docs")  # relative, for a proxy that serves it below a path


#: Values of `record`, as release 0.1 calls `database`; goes with 0.3.
_RELEASE_0_1 = {
    WELL: "ok",
    UNREACHABLE: "away",
    OTHER_SCHEMA: "its schema is not this version's: migrate",
}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Liveness: the process answers; nothing else is checked."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(services: Parts, response: Response) -> dict[str, object]:
    """Readiness: 200 if every part that is needed to take items and to answer them is well.

    `parts` names each: `database` and `store` (writable), `disk` (enough is free), `redis` (only
    informative: without it work starts a poll later), `intake` and `engines` (alive). A part is
    `ok`, or says what is wrong with it.
    """
    found = await services.readiness.run()
    response.status_code = 200 if found.is_ready else 503
    database = found.detail("database")
    status = "ready" if found.is_ready else "starting"
    return {
        "status": "unavailable" if database in (UNREACHABLE, HANGING) else status,
        "database": database,
        "record": _RELEASE_0_1.get(database, "away"),
        "engines": sum(found.engines.values()),
        "intakes": found.intakes,
        "parts": {part.name: part.detail for part in found.parts},
        # Which models there are is nobody's business without a key.
        **({} if services.settings.keys_required else {"models": found.engines}),
    }
