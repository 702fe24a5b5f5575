"""Webhooks: signed, once for each end, again and again until somebody takes them."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
import standardwebhooks
from openai.types.webhooks import BatchCancelledWebhookEvent, BatchCompletedWebhookEvent
from sqlalchemy import text

from db.openai import batches
from db.openai.batch import NewBatch
from db.queue import jobs, rescues, submissions
from db.queue.submissions import NewJob
from db.sql.database import Database
from db.vocabulary.states import SourceApi
from db.webhooks import endpoints, outbox
from db.webhooks.endpoints import Webhook
from db.webhooks.outbox import Delivery
from tests import servers
from tests.db import builders
from tests.servers import PATIENCE_SECONDS
from workers.settings import UpkeepSettings
from workers.upkeep.webhooks import PARALLEL, Webhooks


@dataclass
class Receiver:
    """A server that notes what it is told, and answers as the test says."""

    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    told: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.told]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    made.silent.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.told.append((dict(self.headers.items()), body))
            made.paths.append(self.path)
            made.silent.wait(PATIENCE_SECONDS)
            status, headers = made.answers.pop(0) if made.answers else (204, {})
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    made.silent.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def deliverer(database: Database, receiver: Receiver) -> Iterator[Webhooks]:
    made = sender(database, receiver)
    yield made
    made.close()


def sender(
    database: Database,
    receiver: Receiver,
    stopping: threading.Event | None = None,
    **settings: Any,
) -> Webhooks:
    values = {
        "webhook_ports": [receiver.port],
        "webhook_networks": ["127.0.0.0/8"],
        "webhook_seconds": 5,
        **settings,
    }
    return Webhooks(database, UpkeepSettings.model_validate(values), stopping or threading.Event())


def hook(database: Database, url: str, *events: str, owner: str = "ada") -> Webhook:
    owner_id = builders.owner(database, owner)
    with database.transaction() as transaction:
        return endpoints.add(transaction, owner_id, url, events)


def finish(database: Database, job_id: str | None = None, **job: Any) -> str:
    """A job from its submission to its end."""
    job_id = job_id or builders.job(database, **job)
    session = builders.session(database)
    while taken := builders.claim(database, session):
        builders.complete(database, taken)
    return job_id


def log(database: Database, webhook: Webhook) -> list[Delivery]:
    with database.snapshot() as transaction:
        return outbox.log(transaction, webhook.owner_id, webhook.id, before=None, limit=100)


def make_due(database: Database) -> None:
    """Let the wait until the next attempt be over."""
    with database.transaction() as transaction:
        transaction.execute(
            text(
                "UPDATE deliveries SET due_at = '2000-01-01 00:00:00.000000'"
                " WHERE due_at IS NOT NULL"
            )
        )


def test_the_end_of_a_job_is_announced_and_the_official_verifier_accepts_it(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    webhook = hook(database, receiver.url)
    job_id = finish(database, items=3, name="of mine")

    deliverer.run_once()

    [(headers, body)] = receiver.told
    told = standardwebhooks.Webhook(webhook.secret).verify(body, headers)
    assert told["type"] == "job.succeeded"
    assert told["data"] == {
        "id": job_id,
        "name": "of mine",
        "state": "succeeded",
        "pause_reason": None,
        "counts": {"total": 3, "succeeded": 3, "failed": 0, "cancelled": 0},
        "answers_with_issues": 0,
    }
    [delivery] = log(database, webhook)
    assert (delivery.id, delivery.attempts, delivery.status) == (headers["webhook-id"], 1, 204)
    assert delivery.delivered_at is not None


def test_a_changed_body_is_not_accepted(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    webhook = hook(database, receiver.url)
    finish(database)
    deliverer.run_once()
    [(headers, body)] = receiver.told

    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(webhook.secret).verify(body + b" ", headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(endpoints.new_secret()).verify(body, headers)


@pytest.mark.parametrize("status", ["completed", "cancelled"])
def test_the_end_of_a_batch_is_announced_as_openais_client_unwraps_it(
    status: str, deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    webhook = hook(database, receiver.url)
    new = NewBatch(webhook.owner_id, "file-1", "/v1/chat/completions", "24h", 86400, None, None,
                   request_key="a", body_digest="b")  # fmt: skip
    job = NewJob(webhook.owner_id, builders.MODEL, {}, source_api=SourceApi.BATCH)
    with database.transaction() as transaction:
        batch = batches.create_once(transaction, new, again=False)
        batches.start(transaction, batch, job)
        batch = batches.get(transaction, batch.owner_id, batch.id)
        if status == "cancelled":
            batches.cancel(transaction, webhook.owner_id, batch.id)
        submissions.seal(transaction, str(batch.job_id))
        batches.finalize(transaction, batch.id, output_file_id=None, error_file_id=None, usage={})

    deliverer.run_once()

    [(headers, body)] = receiver.told
    client = openai.OpenAI(api_key="none", webhook_secret=webhook.secret)
    event = client.webhooks.unwrap(body, headers)
    assert isinstance(event, BatchCompletedWebhookEvent | BatchCancelledWebhookEvent)
    assert (event.type, event.data.id) == (f"batch.{status}", batch.id)


def test_a_webhook_receives_only_its_events_and_only_of_its_owner(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    hook(database, receiver.url, "job.cancelled")
    hook(database, receiver.url, owner="eve")

    finish(database)
    cancelled, owner_id = builders.job(database), builders.owner(database)
    with database.transaction() as transaction:
        jobs.cancel(transaction, owner_id, cancelled)
        jobs.settle_cancelled(transaction, cancelled, 100)
    deliverer.run_once()

    assert [json.loads(body)["data"]["id"] for _, body in receiver.told] == [cancelled]


def test_a_chat_completion_is_sent_to_no_webhook(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    hook(database, receiver.url)

    finish(database, source_api=SourceApi.CHAT)

    assert deliverer.run_once() is False


def test_what_fails_is_tried_again_under_the_same_id_later_each_time(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    webhook = hook(database, receiver.url)
    finish(database)
    receiver.answers = [(500, {}), (404, {}), (302, {"Location": receiver.url + "?moved"})]
    waits = []

    for _ in range(4):
        deliverer.run_once()
        [delivery] = log(database, webhook)
        if delivery.due_at:
            waits.append((delivery.due_at - delivery.created_at).total_seconds())
            make_due(database)

    assert len(set(receiver.ids)) == 1
    assert receiver.paths == ["/hook"] * 4  # a redirect is not followed
    assert 4 <= waits[0] <= 20 < 200 < waits[1] < 400 < 1400 < waits[2] < 2300
    [delivery] = log(database, webhook)
    assert (delivery.attempts, delivery.status, delivery.problem) == (4, 204, None)


def test_after_more_than_three_days_it_is_given_up_and_can_be_sent_again(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    webhook = hook(database, receiver.url)
    finish(database)
    receiver.answers = [(503, {})] * 99
    while deliverer.run_once():
        make_due(database)
    [given_up] = log(database, webhook)

    receiver.answers = []
    with database.transaction() as transaction:
        outbox.redeliver(transaction, webhook.owner_id, webhook.id, given_up.id)
    deliverer.run_once()

    assert sum(outbox.SCHEDULE) > 3 * 86_400
    assert (given_up.attempts, given_up.due_at) == (len(outbox.SCHEDULE) + 1, None)
    assert given_up.problem == "the receiver answered 503"
    assert len(set(receiver.ids)) == 1
    assert log(database, webhook)[0].delivered_at is not None


def test_a_receiver_may_ask_for_a_longer_wait(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    webhook = hook(database, receiver.url)
    finish(database)
    receiver.answers = [(429, {"Retry-After": "4000"})]

    deliverer.run_once()

    [delivery] = log(database, webhook)
    assert delivery.due_at is not None
    assert (delivery.due_at - delivery.created_at).total_seconds() >= 3999


def test_a_deleted_webhook_receives_nothing_more(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    webhook = hook(database, receiver.url)
    receiver.answers = [(410, {})]
    finish(database)
    deliverer.run_once()
    make_due(database)
    finish(database)

    assert deliverer.run_once() is False
    with database.snapshot() as transaction:
        assert endpoints.get(transaction, webhook.owner_id, webhook.id).disabled_at is not None


def test_a_receiver_that_hangs_costs_its_time_and_no_more(
    database: Database, receiver: Receiver
) -> None:
    deliverer = sender(database, receiver, webhook_seconds=0.2)
    webhook = hook(database, receiver.url)
    finish(database)
    receiver.silent.clear()

    deliverer.run_once()
    deliverer.close()

    [delivery] = log(database, webhook)
    assert (delivery.problem, delivery.delivered_at) == ("no answer within 0.2 s", None)
    assert delivery.due_at is not None


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"webhook_networks": []}, "not on the public internet"), ({"webhook_ports": [443]}, "port")],
)
def test_our_own_network_is_never_asked(
    settings: dict[str, Any], says: str, database: Database, receiver: Receiver
) -> None:
    deliverer = sender(database, receiver, **settings)
    webhook = hook(database, receiver.url)
    finish(database)

    deliverer.run_once()
    deliverer.close()

    assert receiver.told == []
    assert says in str(log(database, webhook)[0].problem)


def test_while_a_secret_is_changed_both_are_signed_with(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    before = hook(database, receiver.url)
    with database.transaction() as transaction:
        now = endpoints.rotate(transaction, before.owner_id, before.id)
    finish(database)

    deliverer.run_once()

    [(headers, body)] = receiver.told
    for webhook in (before, now):
        assert standardwebhooks.Webhook(webhook.secret).verify(body, headers)


def test_an_outcome_written_twice_is_announced_once(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    webhook = hook(database, receiver.url)
    job_id = finish(database)
    with database.transaction() as transaction:
        outbox.announce(
            transaction, [outbox.Announcement(webhook.owner_id, job_id, "job.succeeded")]
        )
        rescues.rescue(transaction)

    while deliverer.run_once():
        pass

    assert len(receiver.told) == len(log(database, webhook)) == 1


def test_a_webhook_that_is_removed_while_a_job_ends_keeps_no_answer_from_its_job(
    postgres_url: str,
) -> None:
    database = Database(postgres_url)
    webhook, job_id = hook(database, "http://127.0.0.1:1/hook"), builders.job(database)
    ending = threading.Thread(target=finish, args=(database, job_id))

    with database.transaction() as transaction:
        endpoints.remove(transaction, webhook.owner_id, webhook.id)
        ending.start()
        servers.wait_until(lambda: waits_for_a_lock(database))
        assert ending.is_alive()
    ending.join()

    assert builders.counts(database, job_id) == {"succeeded": 1}
    with database.snapshot() as transaction:
        told = transaction.execute(text("SELECT count(*) FROM deliveries")).scalar_one()
    assert told == 0
    database.dispose()


def waits_for_a_lock(database: Database) -> bool:
    asked = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.snapshot() as transaction:
        return bool(transaction.execute(asked).scalar_one())


def test_a_delivery_of_a_worker_that_dies_is_taken_over_by_the_next(
    deliverer: Webhooks, database: Database, receiver: Receiver
) -> None:
    hook(database, receiver.url)
    finish(database)
    with database.transaction() as transaction:
        [(taken, _)] = outbox.take_due(transaction, 10)  # and is never heard of again

    early = deliverer.run_once()
    make_due(database)
    deliverer.run_once()

    assert early is False
    assert receiver.ids == [taken.id]


def test_a_webhook_with_much_to_hear_keeps_no_other_waiting(
    database: Database, receiver: Receiver
) -> None:
    hook(database, receiver.url)
    for _ in range(30):
        finish(database)
    other = hook(database, receiver.url, owner="eve")
    builders.job(database, owner_id=builders.owner(database, "eve"))
    finish(database)

    with database.transaction() as transaction:
        taken = outbox.take_due(transaction, 8)

    assert other.id in {webhook.id for _, webhook in taken}
    assert len(taken) == outbox.OF_WEBHOOK + 1


def test_an_owner_whose_receivers_are_silent_keeps_nobody_else_waiting(
    database: Database, receiver: Receiver
) -> None:
    # More silent receivers than threads, all due before anything of the other owner.
    for number in range(PARALLEL + 2):
        hook(database, f"{receiver.url}/silent/{number}")
    finish(database)
    stopping = threading.Event()
    deliverer = sender(database, receiver, webhook_seconds=30, stopping=stopping)
    receiver.silent.clear()
    running = threading.Thread(target=deliverer.run_once)
    running.start()
    try:
        servers.wait_until(lambda: len(receiver.told) == outbox.OF_OWNER)

        hook(database, f"{receiver.url}/other", owner="eve")
        builders.job(database, owner_id=builders.owner(database, "eve"))
        finish(database)

        servers.wait_until(lambda: len(receiver.told) > outbox.OF_OWNER)
        assert receiver.paths[outbox.OF_OWNER :] == ["/hook/other"]
    finally:
        stopping.set()
        receiver.silent.set()
        running.join()
        deliverer.close()
