"""The table of all metrics in docs/monitoring.md, from the code that defines them."""

from collections.abc import Iterator
from types import ModuleType

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

import api.metrics
import db.metrics
import workers.decoding.metrics
import workers.metrics
from workers.upkeep.figures import described

#: Processes, and the module that defines their metrics.
MODULES: dict[str, ModuleType] = {
    "Every process": db.metrics,
    "The API": api.metrics,
    "Every worker": workers.metrics,
    "Engine workers": workers.decoding.metrics,
}


def metrics_tables() -> str:
    """Tables of all metrics, by process."""
    sections = [_section(name, _defined_in(module)) for name, module in MODULES.items()]
    queue = [(metric, tuple(getattr(metric, "_labelnames", ()))) for metric in described()]
    return "\n".join([*sections, _section("Upkeep: the queue", iter(queue))])


def _defined_in(module: ModuleType) -> Iterator[tuple[Metric, tuple[str, ...]]]:
    for value in vars(module).values():
        if isinstance(value, MetricWrapperBase):
            [metric] = value.describe()
            yield metric, value._labelnames  # noqa: SLF001 - prometheus_client shows them nowhere


def _section(name: str, metrics: Iterator[tuple[Metric, tuple[str, ...]]]) -> str:
    lines = [f"### {name}", "", "| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric, labels in metrics:
        shown = ", ".join(f"`{label}`" for label in labels)
        full = f"{metric.name}_total" if metric.type == "counter" else metric.name
        lines.append(f"| `{full}` | {metric.type} | {shown} | {metric.documentation} |")
    return "\n".join([*lines, ""])
