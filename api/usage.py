"""Usage of owners by model and day, with its cost where prices are set, and their stored bytes."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from api.prices import cost_of
from api.services import Admin, CurrentOwner, Parts, Services
from api.settings import Price
from db.queue import usage
from db.queue.usage import Amounts, DayStored, DayUsage
from db.vocabulary.errors import RequestError

router = APIRouter(prefix="/v1/usage", tags=["usage"])

#: Days that are shown if a request does not say from when.
USUAL_DAYS = 30
MAX_DAYS = 400
#: No service is older.
FIRST_DAY = date(2020, 1, 1)


class UsageRow(BaseModel):
    """What an owner has used of a model on a day (in UTC), or had stored: then `model` is empty."""

    day: date
    owner: str
    model: str
    items: int = Field(description="Answered items, those of the answer cache included")
    failed: int = Field(description="Items that failed finally")
    cached: int = Field(description="Items answered from the answer cache; their tokens count not")
    images: int
    prompt_tokens: int
    completion_tokens: int
    device_seconds: float = Field(description="Time on the device; items side by side share it")
    cost: float | None = Field(description="By the prices of the settings; null if there are none")
    stored_bytes: int | None = Field(
        None, description="Images and files, in rows of their own; as counted last on that day"
    )


class UsageOut(BaseModel):
    """Usage by day, owner and model, in this order."""

    data: list[UsageRow]
    currency: str


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which days, and in which form."""

    first: Annotated[
        date | None, Query(alias="from", description="First day, such as 2026-11-01")
    ] = None
    last: Annotated[
        date | None, Query(alias="to", description="Last day, included; today if left out")
    ] = None
    format: Annotated[Literal["json", "csv"], Query()] = "json"

    def answer(self, services: Services, owner_id: int | None) -> Response:
        """Look usage up, of one owner or of all."""
        last = self.last or datetime.now(UTC).date()
        first = self.first or max(last, FIRST_DAY) - timedelta(days=USUAL_DAYS - 1)
        if not 0 <= (last - first).days < MAX_DAYS:
            raise RequestError(
                f"{first} to {last}: ask for 1 to {MAX_DAYS} days, the first one first",
                field="from",
            )
        with services.database.snapshot() as transaction:
            found = usage.by_day(transaction, owner_id, first=first, last=last)
            stored = usage.stored_by_day(transaction, owner_id, first=first, last=last)
        rows = [_row(one, services.settings.prices) for one in found]
        rows += [_stored_row(one) for one in stored]
        rows.sort(key=lambda row: (row.day, row.owner))
        if self.format == "csv":
            return Response(_csv(rows), media_type="text/csv")
        body = UsageOut(data=rows, currency=services.settings.currency)
        return Response(body.model_dump_json(), media_type="application/json")


Asked = Annotated[UsageQuery, Depends()]


@router.get("", response_model=UsageOut)
def get_usage(asked: Asked, services: Parts, owner: CurrentOwner) -> Response:
    """Return the owner's usage by day and model: 30 days unless `from` and `to` say otherwise.

    Days are in UTC. Usage is kept when jobs are deleted. With `format=csv` the rows are a CSV file.
    """
    return asked.answer(services, owner.id)


@router.get("/all", response_model=UsageOut)
def get_usage_of_all(asked: Asked, services: Parts, _: Admin) -> Response:
    """Return the usage of all owners, as `GET /v1/usage` does for one; for operators."""
    return asked.answer(services, None)


def _row(one: DayUsage, prices: Mapping[str, Price]) -> UsageRow:
    cost = cost_of(one.amounts, one.model, prices)
    return UsageRow(day=one.day, owner=one.owner, model=one.model, cost=cost, **asdict(one.amounts))


def _stored_row(one: DayStored) -> UsageRow:
    nothing = asdict(Amounts())
    return UsageRow(model="", cost=None, **asdict(one), **nothing)


def _csv(rows: list[UsageRow]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(UsageRow.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return out.getvalue()
