"""Grafana dashboards, written by `make docs` into deploy/monitoring/grafana/dashboards.

A dashboard is a list of panels here, because nobody can review Grafana's own JSON. Queries use only
metrics of docs/monitoring.md; the tests run each against a real Prometheus.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).parents[1] / "deploy" / "monitoring" / "grafana" / "dashboards"
COLUMNS, WIDTH, HEIGHT = 24, 8, 8
#: Joins the name of the model to metrics of an engine.
MODEL = "* on (instance, job) group_left (model) idefiq_engine_info"


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph: its title, the unit of its axis, and queries with the legend of their lines."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def graph(title: str, unit: str, *queries: tuple[str, str]) -> Panel:
    """Make a panel."""
    return Panel(title, unit, queries)


def rate(metric: str, by: str) -> str:
    """A query for a counter's rate."""
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


def engine_rate(operator: str, metric: str) -> str:
    """A query for a counter's rate by model, summed or averaged over engines."""
    return f"{operator} by (model) (rate({metric}[$__rate_interval]) {MODEL})"


def quantile(share: float, metric: str, by: str) -> str:
    """A query for a quantile of a histogram."""
    return (
        f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket[$__rate_interval])))"
    )


ENDED = 'idefiq_items_ended_total{outcome=~"succeeded|failed"}'

PANELS: dict[str, list[Panel]] = {
    "overview": [
        graph(
            "Unfinished items",
            "short",
            ("sum by (state) (max by (state, model, kind) (idefiq_items))", "{{state}}"),
        ),
        graph(
            "Age of the oldest due item",
            "s",
            ("max by (stage, model) (idefiq_oldest_due_item_age_seconds)", "{{stage}} {{model}}"),
        ),
        graph("Answers and failures", "ops", (rate(ENDED, "outcome"), "{{outcome}}")),
        graph(
            "Accepted items",
            "ops",
            (rate("idefiq_items_accepted_total", "source_api"), "{{source_api}}"),
        ),
        graph("Claimed items", "ops", (rate("idefiq_items_claimed_total", "stage"), "{{stage}}")),
        graph(
            "Workers alive",
            "short",
            ("max by (stage, model) (idefiq_workers)", "{{stage}} {{model}}"),
        ),
        graph(
            "Errors of items",
            "ops",
            (rate("idefiq_item_errors_total", "stage, code"), "{{stage}} {{code}}"),
        ),
        graph(
            "Issues of answers",
            "ops",
            (rate("idefiq_answer_issues_total", "issue"), "{{issue}}"),
        ),
        graph(
            "Rescued items and lost leases",
            "ops",
            ("sum(rate(idefiq_items_rescued_total[$__rate_interval]))", "rescued"),
            ("sum(rate(idefiq_leases_lost_total[$__rate_interval]))", "lost leases"),
        ),
        graph("Requests", "reqps", (rate("idefiq_http_requests_total", "status"), "{{status}}")),
        graph(
            "Slowest requests (99 %)",
            "s",
            (quantile(0.99, "idefiq_http_request_seconds", "route"), "{{route}}"),
        ),
        graph(
            "Waiting deliveries and drafts",
            "short",
            ("max(idefiq_webhook_deliveries)", "webhook deliveries"),
            ("max(idefiq_reviews)", "drafts without a decision"),
        ),
        graph(
            "Unavailable parts",
            "ops",
            ("sum(rate(idefiq_database_errors_total[$__rate_interval]))", "database"),
            ("sum(rate(idefiq_store_errors_total[$__rate_interval]))", "blob store"),
            ("sum(rate(idefiq_redis_errors_total[$__rate_interval]))", "Redis"),
        ),
    ],
    "model": [
        graph(
            "Answered images",
            "ops",
            (engine_rate("sum", "idefiq_engine_images_total"), "{{model}}"),
        ),
        graph(
            "Generated tokens",
            "ops",
            (engine_rate("sum", "idefiq_engine_generated_tokens_total"), "{{model}}"),
        ),
        graph(
            "Prompt tokens",
            "ops",
            (engine_rate("sum", "idefiq_engine_prompt_tokens_total"), "{{model}}"),
        ),
        graph(
            "Sequences in slots",
            "short",
            (f"sum by (model) (idefiq_engine_sequences {MODEL})", "{{model}} in use"),
            (f"sum by (model) (idefiq_engine_sequence_slots {MODEL})", "{{model}} slots"),
        ),
        graph(
            "Share of time in which the device works",
            "percentunit",
            (engine_rate("avg", "idefiq_engine_busy_seconds_total"), "{{model}}"),
        ),
        graph(
            "Items in flight",
            "short",
            ("sum by (step) (idefiq_engine_items_in_flight)", "{{step}}"),
        ),
        graph(
            "Seconds of each step, per second",
            "s",
            (rate("idefiq_step_seconds_sum", "step"), "{{step}}"),
        ),
        graph(
            "Slow steps (95 %)", "s", (quantile(0.95, "idefiq_step_seconds", "step"), "{{step}}")
        ),
        graph(
            "Wait of the oldest item of a claim (95 %)",
            "s",
            (quantile(0.95, "idefiq_claim_wait_seconds", "stage"), "{{stage}}"),
        ),
        graph(
            "Cache hits",
            "percentunit",
            (
                'sum by (cache) (rate(idefiq_cache_lookups_total{result="hit"}[$__rate_interval]))'
                " / sum by (cache) (rate(idefiq_cache_lookups_total[$__rate_interval]))",
                "{{cache}}",
            ),
        ),
        graph(
            "Out of memory",
            "short",
            ("sum by (instance) (increase(idefiq_engine_out_of_memory_total[1h]))", "{{instance}}"),
        ),
    ],
    "owner": [
        graph(
            "Unfinished items of the ten largest owners",
            "short",
            ("max by (owner) (idefiq_owner_unfinished_items)", "{{owner}}"),
        ),
        graph(
            "Share of the queue",
            "percentunit",
            (
                "max by (owner) (idefiq_owner_unfinished_items) / on () group_left ()"
                " sum(max by (state, model, kind) (idefiq_items))",
                "{{owner}}",
            ),
        ),
        graph("Jobs", "short", ("max by (state) (idefiq_jobs)", "{{state}}")),
        graph(
            "Stored bytes of all owners", "bytes", ("max(idefiq_stored_bytes)", "images and files")
        ),
    ],
    "database": [
        graph(
            "Statements",
            "ops",
            (rate("idefiq_database_statement_seconds_count", "verb"), "{{verb}}"),
        ),
        graph(
            "Slow statements (99 %)",
            "s",
            (quantile(0.99, "idefiq_database_statement_seconds", "verb"), "{{verb}}"),
        ),
        graph(
            "Seconds in statements, per second",
            "s",
            (rate("idefiq_database_statement_seconds_sum", "instance"), "{{instance}}"),
        ),
        graph(
            "Connections in use",
            "short",
            (
                'sum by (instance) (idefiq_database_connections{state="in_use"})',
                "{{instance}} in use",
            ),
            ("sum by (instance) (idefiq_database_connections_max)", "{{instance}} at most"),
        ),
        graph("Size of the database", "bytes", ("max(idefiq_database_bytes)", "database")),
        graph(
            "Errors",
            "ops",
            ("sum(rate(idefiq_database_errors_total[$__rate_interval]))", "database"),
        ),
    ],
}


def dashboard(name: str) -> dict[str, Any]:
    """Build a dashboard in Grafana's JSON model."""
    return {
        "uid": f"idefiq-{name}",
        "title": f"idefiq: {name}",
        "tags": ["idefiq"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS[name])],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    per_row = COLUMNS // WIDTH
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": {
            "x": number % per_row * WIDTH,
            "y": number // per_row * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend}
            for place, (query, legend) in enumerate(panel.queries)
        ],
    }


def dashboards() -> dict[Path, str]:
    """Text of every dashboard's file."""
    return {
        DASHBOARDS / f"{name}.json": json.dumps(dashboard(name), indent=1) + "\n" for name in PANELS
    }
