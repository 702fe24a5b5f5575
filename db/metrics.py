"""Prometheus metrics of what more than one process does.

Metrics of one kind of process are beside its code: api/metrics.py, workers/metrics.py,
workers/decoding/metrics.py, and the queue's figures in workers/upkeep/figures.py.
docs/monitoring.md lists all of them.
"""

from prometheus_client import Counter, Gauge, Histogram

#: Upper bounds of the buckets of durations, in seconds.
SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)

DATABASE_CONNECTIONS = Gauge(
    "idefiq_database_connections", "Database connections of this process, by state", ["state"]
)
DATABASE_CONNECTIONS_MAX = Gauge(
    "idefiq_database_connections_max", "Most database connections that this process may open"
)
DATABASE_POOL_TIMEOUTS = Counter(
    "idefiq_database_pool_timeouts", "Times nothing of the pool was free within ten seconds"
)
DATABASE_STATEMENT_SECONDS = Histogram(
    "idefiq_database_statement_seconds",
    "Duration of a SQL statement, by its first word",
    ["verb"],
    buckets=SECONDS,
)
DATABASE_ERRORS = Counter(
    "idefiq_database_errors", "Errors because the database was unavailable, retried ones included"
)
ITEMS_ACCEPTED = Counter(
    "idefiq_items_accepted",
    "Items accepted, by the API they came through (job, batch, chat); those of a bucket, which are"
    " not known yet, and those of a retry are not counted",
    ["source_api"],
)
STORE_ERRORS = Counter(
    "idefiq_store_errors", "Errors because the blob store was unavailable, retried ones included"
)
REDIS_ERRORS = Counter(
    "idefiq_redis_errors", "Errors of Redis, each of which delays work until the next poll"
)
