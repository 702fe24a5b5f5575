"""The FastAPI application. Nothing happens at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi

from api import (
    audit,
    errors,
    events,
    health,
    images,
    jobs,
    keys,
    metrics,
    models,
    pages,
    queue,
    results,
    reviews,
    usage,
    webhooks,
)
from api.authentication import Authentication
from api.guard import BodyLimit, RequestIds
from api.head_requests import HeadRequests
from api.metrics import RequestMetrics
from api.openai import batches, chat, files
from api.openai.schemas import BatchIn
from api.query_parameters import check_query
from api.readiness import ReadinessCheck
from api.services import Services
from api.settings import ApiSettings
from api.watch import Watch
from db import owners
from db.blobs.opening import open_store
from db.openai.chat_request import ChatIn
from db.owners import LOCAL_OWNER
from db.settings import StorageSettings
from db.sql import schema
from db.sql.database import Database
from workers.broker import Wakes, make_app
from workers.notices import Notices


def create_app(record: StorageSettings, settings: ApiSettings) -> FastAPI:
    """Build the API and migrate its database."""
    database = Database(record.database_url, pool=record.database_pool)
    schema.migrate(database)
    watch = Watch(database, settings.redis_url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with watch.running():
            yield
        app.state.services.readiness.close()
        database.dispose()

    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        title="idefiq",
        version=version("idefiq"),
        summary="Bulk image captioning, visual question answering and alt text",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    with database.transaction() as transaction:
        local_owner = owners.get_or_create(transaction, LOCAL_OWNER)
    store, notices = open_store(record), Notices(settings.redis_url)
    app.state.services = Services(
        settings,
        database,
        store,
        Wakes(make_app(settings)),
        notices,
        watch,
        ReadinessCheck(record, database, store, notices),
        record.limits,
        local_owner,
    )
    app.add_middleware(Authentication)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(HeadRequests)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(settings.cors_origins),
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],  # OpenAI's clients send some of their own
            expose_headers=_CORS_RESPONSE,
            max_age=CORS_SECONDS,
        )
    app.add_middleware(RequestIds)
    app.add_middleware(RequestMetrics)
    errors.install(app)
    app.router.routes.extend(_router().routes)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


#: For how long a browser need not ask again whether it may.
CORS_SECONDS = 3_600
_CORS_RESPONSE = [
    "Content-Range",
    "ETag",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "X-Incomplete",
    "X-Request-ID",
]


@cache
def _router() -> APIRouter:
    """All routes, which FastAPI prepares at the first request: once for all applications.

    They are shared, so `app.dependency_overrides` has no effect.
    """
    router = APIRouter(dependencies=[Depends(check_query)])
    for part in (
        events,
        jobs,
        results,
        reviews,
        images,
        webhooks,
        batches,
        files,
        chat,
        models,
        keys,
        audit,
        queue,
        usage,
        health,
        metrics,
        pages,
    ):
        router.include_router(part.router)
    return router


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Build FastAPI's document, with the schemas that only hand-written bodies refer to."""
    if not app.openapi_schema:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            license_info=app.license_info,
            routes=app.routes,
        )
        known = document["components"]["schemas"]
        for schema_class in (*jobs.SCHEMAS, ChatIn, BatchIn):
            described = schema_class.model_json_schema(ref_template="#/components/schemas/{model}")
            for name, nested in described.pop("$defs", {}).items():
                known.setdefault(name, nested)
            known.setdefault(schema_class.__name__, described)
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for operation in operations.values() if path.startswith("/v1/") else ():
                operation["security"] = [{"key": []}, {}]  # {}: where no key is required
        app.openapi_schema = document
    return app.openapi_schema
