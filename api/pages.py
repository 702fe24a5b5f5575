"""The interactive pages of the API, Swagger UI at /docs and ReDoc at /redoc, without the internet.

Their scripts come from the package fastapi-offline and are served from here, under a policy that
allows nothing else: no page of another site may frame them, and nothing is loaded from elsewhere.
"""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, HTMLResponse, Response

from db.vocabulary.errors import NotFound

router = APIRouter(include_in_schema=False)

#: For these pages alone; every other response forbids everything.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; font-src 'self'; connect-src 'self'; worker-src blob:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>idefiq: interactive API</title>
{head}
</head>
<body>
{body}
</body>
</html>
"""
_SWAGGER = _PAGE.format(
    head='<link rel="stylesheet" href="docs/swagger-ui.css">',
    body='<div id="swagger-ui"></div>\n'
    '<script src="docs/swagger-ui-bundle.js"></script>\n<script src="docs/start.js"></script>',
)
_REDOC = _PAGE.format(
    head="<style>body { margin: 0 }</style>",
    body='<redoc spec-url="openapi.json"></redoc>\n'
    '<script src="docs/redoc.standalone.js"></script>',
)
#: Addresses are relative, so that a proxy may serve the API below a path.
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "redoc.standalone.js": "text/javascript",
}


@router.get("/docs")
def swagger() -> HTMLResponse:
    """Show the API, and try it."""
    return HTMLResponse(_SWAGGER, headers={"content-security-policy": POLICY})


@router.get("/redoc")
def redoc() -> HTMLResponse:
    """Show the API to read."""
    return HTMLResponse(_REDOC, headers={"content-security-policy": POLICY})


@router.get("/docs/start.js")
def start() -> Response:
    """The script that starts Swagger UI, apart from its page because of the policy."""
    return Response(_START, media_type="text/javascript")


@router.get("/docs/{name}")
def asset(name: Annotated[str, PathParameter(max_length=100)]) -> FileResponse:
    """A script or a style sheet of the pages."""
    if name not in _FILES:
        raise NotFound(f"no such file: {name!r}")
    path = Path(str(files("fastapi_offline") / "static" / name))
    return FileResponse(path, media_type=_FILES[name], headers={"cache-control": "max-age=86400"})
