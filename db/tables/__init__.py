"""The tables. Every CHECK has a name, and every row of a tenant has its `owner_id`.

    owners ─┬─ api_keys          models   (what engines have offered)
            ├─ grants            audit
            │                    sessions (workers alive or lately so)
            ├─ blobs
            ├─ files
            ├─ webhooks ─ deliveries
            ├─ usage, stored
            ├─ batches ──▶ jobs
            └─ jobs ─┬─ items ──▶ sessions
                     │    └─ reviews ─ review_steps
                     └─ reservations (of result numbers)

Only db/ imports this package.
"""

from db.tables.audit import audit
from db.tables.columns import Json, metadata
from db.tables.images import blobs
from db.tables.openai import batches, files
from db.tables.owners import api_keys, grants, owners
from db.tables.queue import items, jobs, models, reservations, sessions
from db.tables.reviews import review_steps, reviews
from db.tables.usage import stored, usage
from db.tables.webhooks import deliveries, webhooks

__all__ = [
    "Json",
    "api_keys",
    "audit",
    "batches",
    "blobs",
    "deliveries",
    "files",
    "grants",
    "items",
    "jobs",
    "metadata",
    "models",
    "owners",
    "reservations",
    "review_steps",
    "reviews",
    "sessions",
    "stored",
    "usage",
    "webhooks",
]
