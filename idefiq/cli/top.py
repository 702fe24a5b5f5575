"""`idefiq top`: the queue and its models, live in the terminal."""

import time
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, print_json
from idefiq.client import Client
from idefiq.errors import IdefiqError
from idefiq.queue import Queue, QueuedModel

#: What is shown as a rate: its heading, and the field that counts it.
RATES = (
    ("items/s", "items"),
    ("images/s", "images"),
    ("prompt tok/s", "prompt_tokens"),
    ("tok/s", "completion_tokens"),
)


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(top)


def top(
    interval: Annotated[
        float, typer.Option(min=0.5, max=3_600, help="Seconds between two looks")
    ] = 2.0,
    once: Annotated[bool, typer.Option(help="Look twice, print the result, and end")] = False,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Watch the queue of all owners: models, rates, workers (requires the scope metrics or admin).

    Rates are those since the last look. Press Ctrl-C to end.
    """
    console = Console(markup=False)
    with Client(url, api_key) as client:
        before = Look.now(client)
        if as_json:
            print_json(asdict(before.queue))
            return
        try:
            with Live(console=console, auto_refresh=False, screen=not once) as live:
                while True:
                    time.sleep(interval)
                    try:
                        after = Look.now(client)
                    except IdefiqError as error:
                        if once:
                            raise
                        live.update(f"error: {error}; trying again", refresh=True)
                        continue
                    live.update(frame(before, after), refresh=True)
                    before = after
                    if once:
                        return
        except KeyboardInterrupt:
            return


@dataclass(frozen=True, slots=True)
class Look:
    """The queue, and when it was looked at (by a monotonic clock)."""

    queue: Queue
    seconds: float

    @classmethod
    def now(cls, client: Client) -> "Look":
        """Look at the queue."""
        return cls(client.queue(), time.monotonic())


def frame(before: Look, after: Look) -> RenderableType:
    """Draw what is there, with rates between two looks."""
    queue = after.queue
    earlier = {one.model: one for one in before.queue.models}
    table = Table("model", box=None)
    headings = ("engines", "queued", "running", "paused", "oldest due")
    for heading in (*headings, *(name for name, _ in RATES), "device", "failed today"):
        table.add_column(heading, justify="right")
    for one in queue.models:
        table.add_row(*_row(earlier.get(one.model, one), one, after.seconds - before.seconds))
    jobs = ", ".join(f"{count:,} {state}" for state, count in sorted(queue.jobs.items()))
    lines = [
        f"jobs: {jobs or 'none unfinished'} · intake workers: {queue.intakes}"
        f" · webhook deliveries waiting: {queue.webhook_deliveries:,}",
    ]
    owners = ", ".join(f"{name} {items:,}" for name, items in queue.owners.items())
    if owners:
        lines.append(f"unfinished items by owner: {owners}")
    return Group(*lines, "", table)


def _row(before: QueuedModel, after: QueuedModel, seconds: float) -> list[str]:
    def rate(field: str) -> float:
        # A new day begins at 0.
        return max(0.0, float(getattr(after, field) - getattr(before, field)) / seconds)

    device = rate("device_seconds") / after.engines if after.engines else 0.0
    return [
        after.model,
        f"{after.engines}",
        f"{after.queued:,}",
        f"{after.running:,}",
        f"{after.paused:,}",
        _age(after.oldest_due_seconds),
        *(f"{rate(field):,.1f}" for _, field in RATES),
        f"{min(device, 1.0):.0%}",
        f"{after.failed:,}",
    ]


def _age(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
