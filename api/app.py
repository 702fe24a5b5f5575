"""The FastAPI application. Nothing happens at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api import errors, events, health, images, jobs, keys, models, reviews, webhooks
from api.guard import BodyLimit, RequestIds
from api.openai import batches, chat, files
from api.openai.requests import ChatIn
from api.services import Services
from api.settings import ApiSettings
from api.watch import Watch
from db import owners, schema
from db.blobs import open_store
from db.database import Database
from db.owners import LOCAL_OWNER
from db.settings import StorageSettings
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
        database.dispose()

    app = FastAPI(
        lifespan=lifespan,
        title="idefiq",
        version=version("idefiq"),
        summary="Bulk image captioning, visual question answering and alt text",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    with database.transaction() as transaction:
        local_owner = owners.get_or_create(transaction, LOCAL_OWNER)
    app.state.services = Services(
        settings,
        database,
        open_store(record),
        Wakes(make_app(settings)),
        Notices(settings.redis_url),
        watch,
        record.limits,
        local_owner,
    )
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(RequestIds)
    errors.install(app)
    for part in (
        events,
        jobs,
        reviews,
        images,
        webhooks,
        batches,
        files,
        chat,
        models,
        keys,
        health,
    ):
        app.include_router(part.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


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
        for schema_class in (*jobs.SCHEMAS, ChatIn, batches.BatchIn):
            described = schema_class.model_json_schema(ref_template="#/components/schemas/{model}")
            for name, nested in described.pop("$defs", {}).items():
                known.setdefault(name, nested)
            known.setdefault(schema_class.__name__, described)
        app.openapi_schema = document
    return app.openapi_schema
