"""The queue as an operator sees it: what waits, who works, and how much was done today."""

from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.services import MetricsReader, Parts
from db.queue import usage
from db.queue.figures import QueueFigures, queue_figures
from db.queue.usage import Amounts
from db.vocabulary.states import Stage

router = APIRouter(prefix="/v1/queue", tags=["operators"])


class QueuedModel(BaseModel):
    """One model: what waits for it, who serves it, and what it has done today (in UTC)."""

    model: str
    engines: int = Field(description="Live engines")
    queued: int
    running: int
    paused: int = Field(description="Items of paused jobs")
    oldest_due_seconds: float = Field(
        description="Time for which the oldest due item has waited for intake or an engine"
    )
    items: int = Field(description="Answered today")
    failed: int
    cached: int
    images: int
    prompt_tokens: int
    completion_tokens: int
    device_seconds: float


class OwnerInQueue(BaseModel):
    """An owner with unfinished items."""

    owner: str
    items: int


class QueueOut(BaseModel):
    """The queue of all owners at one moment."""

    models: list[QueuedModel]
    intakes: int = Field(description="Live intake workers")
    jobs: dict[str, int] = Field(description="Unfinished jobs by state")
    owners: list[OwnerInQueue] = Field(description="The ten owners with the most unfinished items")
    webhook_deliveries: int = Field(description="Deliveries that wait")


@router.get("")
def get_queue(services: Parts, _: MetricsReader) -> QueueOut:
    """Return the queue of all owners; needs a key of the scope `metrics` or `admin`."""
    today = datetime.now(UTC).date()
    with services.database.snapshot() as transaction:
        figures = queue_figures(transaction)
        used = usage.by_day(transaction, None, first=today, last=today)
    done: dict[str, Amounts] = {}
    for one in used:
        done.setdefault(one.model, Amounts()).add(one.amounts)
    waiting = {model for _, model, _ in figures.items}
    served = {model for _, model in figures.workers if model}
    models = sorted(waiting | served | done.keys())
    return QueueOut(
        models=[_model(name, figures, done.get(name, Amounts())) for name in models],
        intakes=figures.workers.get((Stage.INTAKE, ""), 0),
        jobs=figures.jobs,
        owners=[OwnerInQueue(owner=name, items=n) for name, n in figures.top_owners.items()],
        webhook_deliveries=figures.deliveries[0],
    )


def _model(model: str, figures: QueueFigures, done: Amounts) -> QueuedModel:
    counts = dict.fromkeys(("queued", "running", "paused"), 0)
    for (state, name, _), items in figures.items.items():
        if name == model:
            counts[state] += items
    ages = [age for (_, name), age in figures.oldest_due.items() if name == model]
    return QueuedModel(
        model=model,
        engines=figures.workers.get((Stage.GENERATE, model), 0),
        **counts,
        oldest_due_seconds=max(ages, default=0.0),
        **{name: getattr(done, name) for name in usage.NAMES},
    )
