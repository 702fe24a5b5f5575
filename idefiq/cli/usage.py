"""`idefiq usage`: what was used, by day and model."""

import csv
import sys
from dataclasses import asdict, fields
from datetime import date, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, print_json
from idefiq.client import Client
from idefiq.usage import DayUsage, Usage

DAY = "%Y-%m-%d"
USAGE_COLUMNS = tuple(field.name for field in fields(DayUsage))


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(usage)


def usage(
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=[DAY], help="First day, in UTC (default: 30 days back)"),
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=[DAY], help="Last day (default: today)")
    ] = None,
    all_owners: Annotated[
        bool, typer.Option(help="Of all owners (requires a key of the scope admin)")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV")] = False,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Show items, images, tokens, device time, cost and stored bytes by day and model."""
    with Client(url, api_key) as client:
        found = client.usage(_day(first), _day(last), all_owners=all_owners)
    rows = [{**asdict(one), "day": one.day.isoformat()} for one in found.days]
    if as_json:
        for row in rows:
            print_json({**row, "currency": found.currency})
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, USAGE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        Console(markup=False).print(_table(found))


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


def _table(found: Usage) -> Table:
    table = Table("day", "owner", "model", box=None)
    for name in USAGE_COLUMNS[3:]:
        table.add_column(name.replace("_", " "), justify="right")
    for one in found.days:
        cost = "" if one.cost is None else f"{one.cost:,.2f} {found.currency}".strip()
        amounts = (one.items, one.failed, one.cached, one.images)
        tokens = (one.prompt_tokens, one.completion_tokens)
        shown = [f"{amount:,}" for amount in (*amounts, *tokens)]
        stored = "" if one.stored_bytes is None else f"{one.stored_bytes:,}"
        if one.model:
            shown = [*shown, f"{one.device_seconds:,.1f}", cost]
        else:
            shown = [""] * (len(shown) + 2)
        table.add_row(str(one.day), one.owner, one.model, *shown, stored)
    return table
